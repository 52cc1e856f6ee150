"""Read one image file and give the pixels that a recipe asks for, or the reason why not."""

import hashlib
import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..featstore import Status
from ..manifests.headers import pillow
from .recipe import Recipe

# The first is Pillow's own limit against decompression bombs (twice 1 GiB of 4:4:4 pixels / 3).
MAX_PIXELS = 178_956_970
# A side of one pixel is what tracking pixels and failed downloads look like, not a picture.
MIN_SIDE = 2


@dataclass(frozen=True)
class Picture:
    """What came of one image file; `pixels` is None unless `status` is ok."""

    status: Status
    reason: str
    width: int  # pixels of the file's image, 0 where unknown
    height: int
    sha256: str  # of the file's bytes, "" where they could not be read
    pixels: np.ndarray | None = None  # (height, width, 3) uint8 RGB, as the recipe sizes them


def load_picture(path: str, root: str, recipe: Recipe) -> Picture:
    """Return the picture in `path`, never raising for what the file holds."""
    try:
        content = Path(root, path).read_bytes()
    except FileNotFoundError:
        return Picture(Status.MISSING, "no such file", 0, 0, "")
    except OSError as error:
        return Picture(Status.FAILED, f"cannot read the file: {error.strerror}", 0, 0, "")
    sha256 = hashlib.sha256(content).hexdigest()
    if not content:
        return Picture(Status.UNDECODABLE, "the file is empty", 0, 0, sha256)
    return decode(content, recipe, sha256)


def decode(content: bytes, recipe: Recipe, sha256: str) -> Picture:
    """Return the picture in the bytes of an image file."""
    width = height = 0
    try:
        with pillow().open(io.BytesIO(content)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                reason = f"{width}x{height} is more than {MAX_PIXELS:,} pixels"
                return Picture(Status.TOO_LARGE, reason, width, height, sha256)
            if min(width, height) < MIN_SIDE:
                reason = f"{width}x{height}: a side is shorter than {MIN_SIDE} pixels"
                return Picture(Status.UNSUPPORTED, reason, width, height, sha256)
            image.load()
            pixels = resized(image, recipe)
    # What Pillow's decoders raise on broken bytes; each is a fact about the file, not a crash.
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error) as error:
        what = "no image format known to Pillow" if not width else f"{error}"
        return Picture(Status.UNDECODABLE, what[:200], width, height, sha256)
    return Picture(Status.OK, "", width, height, sha256, pixels)


def resized(image: Any, recipe: Recipe) -> np.ndarray:
    """Return a PIL image as (height, width, 3) uint8 RGB at the recipe's size.

    Stock CLIP resizes and crops first and converts to RGB last; so do we, since for palette
    and CMYK images the order changes the pixels.
    """
    resample = {"bicubic": pillow().Resampling.BICUBIC, "bilinear": pillow().Resampling.BILINEAR}
    size = (recipe.width, recipe.height)
    if recipe.resize == "shortest":
        size = shortest_side(image.size, recipe.width)
    image = image.resize(size, resample[recipe.interpolation])
    # torchvision's CenterCrop rounds the margins this way; a stretched image has none.
    left = round((image.width - recipe.width) / 2.0)
    top = round((image.height - recipe.height) / 2.0)
    image = image.crop((left, top, left + recipe.width, top + recipe.height))
    return np.asarray(image.convert("RGB"))


def shortest_side(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return (width, height) with the shorter at `side`, the longer rounded down.

    This is torchvision's rule, `Resize(side)`.

    >>> shortest_side((640, 481), 224)
    (298, 224)
    """
    width, height = size
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side
