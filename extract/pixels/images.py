"""Read one image file and give the pixels that a recipe asks for, or the reason why not."""

import dataclasses
import hashlib
import io
import os
import threading
from dataclasses import dataclass

import numpy as np

from ...featstore import Status
from ...manifests import ManifestError, read_content, view_paths
from ...manifests.contents import is_url
from ...manifests.headers import FORMATS, pillow
from ..recipes.recipe import Recipe
from .jpeg import is_for_device
from .resizing import MAX_PIXELS, resized, size_problem

CUT_OFF = "the file is cut off; what is missing of the image is as Pillow fills it"
FRAMES = "the first of several frames or pages"
TRUNCATED = threading.Lock()  # held while Pillow's only switch for broken files is on


@dataclass(frozen=True)
class Picture:
    """What came of one image file; `pixels` and `jpeg` are None unless `status` is ok."""

    status: Status
    reason: str  # why there are no pixels; of an ok picture, what is odd about it
    width: int  # pixels of the file's image, 0 where unknown
    height: int
    sha256: str  # of the file's bytes, "" where they could not be read
    pixels: np.ndarray | None = None  # ([view,] height, width, 3) uint8 RGB, as the recipe sizes it
    jpeg: bytes | None = None  # in place of pixels: the file, which the device is to decode


def load_picture(
    path: str,
    root: str,
    recipe: Recipe,
    *,
    max_pixels: int = MAX_PIXELS,
    accept_truncated: bool = False,
) -> Picture:
    """Return the picture in the file `path` under `root`, never raising for what it holds.

    An image of more than `max_pixels` is refused before it is decoded, and so is one that a
    step would blow up to more than MAX_PIXELS. With `accept_truncated` a file that is cut off
    gives what there is of it, and says so. If the recipe's decoder is torchvision, a plain JPEG
    file comes as it is, checked but not decoded; all others are for Pillow. For a recipe of
    views, `path` is the folder of a viewpoint.
    """
    try:
        paths = [path] if recipe.views is None else _view_paths(root, path)
        contents = [read_content(root, path) for path in paths]
    except FileNotFoundError:
        return Picture(Status.MISSING, "no such file", 0, 0, "")
    except OSError as error:
        reason = f"cannot read the file: {error.strerror or error}"
        return Picture(Status.FAILED, reason[:200], 0, 0, "")
    except ManifestError as error:
        return Picture(Status.UNSUPPORTED, str(error), 0, 0, "")
    sha256 = hashlib.sha256()
    for content in contents:
        sha256.update(content)
    pictures = []
    for view, content in enumerate(contents):
        picture = decode(content, recipe, max_pixels=max_pixels, accept_truncated=accept_truncated)
        picture = dataclasses.replace(picture, sha256=sha256.hexdigest())
        if recipe.views is None:
            return picture
        if picture.reason:
            picture = dataclasses.replace(picture, reason=f"view {view}: {picture.reason}")
        if picture.pixels is None:
            return picture
        pictures.append(picture)
    return _together(pictures)


def _view_paths(root: str, folder: str) -> list[str]:
    """Return the files of a viewpoint's folder in view order, relative to `root`."""
    if is_url(root):
        raise ManifestError("views are read from a local folder alone; copy them to one")
    names = os.listdir(f"{root}/{folder}")  # noqa: PTH208
    return [f"{folder}/{name}" for name in view_paths(names)]


def _together(views: list[Picture]) -> Picture:
    """Return the pictures of one record as one, in their order."""
    shapes = [picture.pixels.shape for picture in views if picture.pixels is not None]
    odd = next((k for k, shape in enumerate(shapes) if shape != shapes[0]), None)
    if odd is not None:
        (height, width, _), (other_height, other_width, _) = shapes[0], shapes[odd]
        reason = (
            f"view {odd} has {other_width}x{other_height} pixels for the backbone, "
            f"view 0 has {width}x{height}; all views must have one size"
        )
        return dataclasses.replace(
            views[odd], status=Status.UNSUPPORTED, reason=reason, pixels=None
        )
    remarks = "; ".join(picture.reason for picture in views if picture.reason)
    pixels = np.stack([picture.pixels for picture in views if picture.pixels is not None])
    return dataclasses.replace(views[0], reason=remarks[:200], pixels=pixels)


def decode(
    content: bytes,
    recipe: Recipe,
    *,
    max_pixels: int = MAX_PIXELS,
    accept_truncated: bool = False,
) -> Picture:
    """Return the picture in the bytes of an image file, without their sha256."""
    if not content:
        return Picture(Status.UNDECODABLE, "the file is empty", 0, 0, "")
    if not accept_truncated:
        return _decode(content, recipe, max_pixels)
    from PIL import ImageFile

    # The switch is the whole process's: nobody else may decode while it is on. Decoders are
    # processes of their own, so nobody waits.
    with TRUNCATED:
        strict = _decode(content, recipe, max_pixels)
        if strict.status != Status.UNDECODABLE or not strict.width:
            return strict
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            picture = _decode(content, recipe, max_pixels)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
    if picture.status != Status.OK:
        return strict
    return dataclasses.replace(picture, reason="; ".join(filter(None, (CUT_OFF, picture.reason))))


def _decode(content: bytes, recipe: Recipe, max_pixels: int) -> Picture:
    width = height = 0
    try:
        with pillow().open(io.BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
            refused = _too_large(width, height, max_pixels) or size_problem(recipe, width, height)
            if refused:
                return Picture(*refused, width, height, "")
            if recipe.decoder == "torchvision" and is_for_device(image, content, recipe):
                return Picture(Status.OK, "", width, height, "", jpeg=content)
            remark = FRAMES if getattr(image, "is_animated", False) else ""
            image.load()
            if image.size != (width, height):  # of a file made to deceive: a GIF's frame can
                reason = f"its header says {width}x{height}, its image is {image.size}"
                return Picture(Status.UNDECODABLE, reason, width, height, "")
            pixels = resized(image, recipe)
    except MemoryError:
        raise
    # Pillow's parsers raise whatever broken bytes lead them to: a fact about the file.
    except Exception as error:
        what = "no image format known to Pillow" if not width else f"{error}"
        return Picture(Status.UNDECODABLE, what[:200], width, height, "")
    return Picture(Status.OK, remark, width, height, "", pixels)


def not_as_planned(picture: Picture) -> Picture:
    """Return a picture without its pixels, which do not fit the grid that was planned."""
    reason = (
        f"{picture.width}x{picture.height} pixels are not what the manifest says, and give "
        f"another grid than was planned; make the manifest again"
    )
    return dataclasses.replace(picture, status=Status.FAILED, reason=reason, pixels=None)


def _too_large(width: int, height: int, max_pixels: int) -> tuple[Status, str] | None:
    if width * height > max_pixels:
        return Status.TOO_LARGE, f"{width}x{height} is more than {max_pixels:,} pixels"
    return None
