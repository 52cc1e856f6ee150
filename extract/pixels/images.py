"""One image file to the pixels that enter the backbone, or the reason why it gives none.

`load_picture` runs in decoder processes (decoding.py): this module imports Pillow when the first
image comes, and never torch.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ...base.errors import UsageError, reason_of
from ...featstore import Status
from ...featstore.geometry import RGB, Crop, ImageTransform, Pad, Upright
from ...manifests import ManifestError, read_content, view_files
from ...manifests.headers import (
    PNG,
    UPRIGHT,
    exif_orientation,
    formats,
    pillow,
    pillow_for_any_file,
    upright_size,
)
from ...manifests.manifest import MAX_SIDE
from ..planning.config import MAX_PIXELS
from ..planning.recipe import Recipe
from .inspection import (
    CUT_OFF,
    DAMAGED,
    ENDED,
    JPEG_FILL,
    JPEGS,
    SEVERAL_FRAMES,
    SIDE_CHUNK,
    ends_early,
    is_sequential,
    lacks_strips,
    remarks,
    why_unreadable,
)
from .jpeg import decode_jpeg

# A side of one pixel is what tracking pixels and failed downloads look like, not a picture.
MIN_SIDE = 2
MAX_REASON = 200  # characters of a text from elsewhere
# While these are decoded, several copies of the image are in memory: 16 to 20 bytes a pixel, where
# other formats take 4. So the limit on pixels is a fourth.
SEVERAL_COPIES = ("WEBP", "JPEG2000", "AVIF", "HEIF")
PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}  # modes in which Pillow resizes images with alpha

CHUNK_HEAD, CHUNK_END = 8, 4  # bytes of a PNG file's chunk before and after its data
ANCILLARY = 0x20  # the bit of a chunk's first letter that says it holds no pixel (PNG, 5.4)
TRANSPARENCY = b"tRNS"  # of the ancillary chunks, the one that decides pixels

# By EXIF orientation (Exif 2.32, tag 274): what Pillow's `ImageOps.exif_transpose` does.
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

NO_MEMORY = "decoding it takes more memory than a decoder may have"


@dataclass(frozen=True)
class Picture:
    """What came of one image file; `pixels` are None unless `status` is ok."""

    status: Status
    reason: str  # why there are no pixels; of an ok picture, what is odd about it
    width: int = 0  # pixels of the file's image, turned for an upright recipe; 0 where unknown
    height: int = 0
    sha256: str = ""  # of the file's bytes, "" where they could not be read
    pixels: np.ndarray | None = None  # ([view,] height, width, 3) uint8 RGB, as the recipe sizes it
    is_as_decoded: bool = False  # the pixels have the file's size: no step has been taken


class Room(NamedTuple):
    """Memory for an image as it is decoded, before a device takes the steps of the recipe."""

    memory: np.ndarray  # (bytes,) uint8
    size: tuple[int, int]  # (height, width) that the steps must give


def load_picture(
    path: str,
    root: str,
    recipe: Recipe,
    *,
    max_pixels: int = MAX_PIXELS,
    accept_truncated: bool = False,
    room: Room | None = None,
) -> Picture:
    """Return the picture in the file `path` under `root`, never raising for what it holds.

    An image of more than `max_pixels` is refused before it is decoded (of fewer, where a format
    takes more memory a pixel), and so is one that a step would enlarge to more than MAX_PIXELS.
    With `accept_truncated`, a file that is cut off or damaged gives what can be decoded of it, with
    a remark. An image that fits into `room` is left there as it is decoded. For a recipe of views,
    `path` is the folder of a viewpoint, and `room` must be None.
    """
    try:
        paths = [path] if recipe.views is None else view_files(root, path)
        contents = [read_content(root, path) for path in paths]
    except FileNotFoundError:
        return Picture(Status.MISSING, "no such file")
    except OSError as error:
        reason = f"cannot read the file: {reason_of(error)}"
        return Picture(Status.FAILED, reason[:MAX_REASON])
    except ManifestError as error:
        return Picture(Status.UNSUPPORTED, str(error))
    except UsageError as error:  # a package that this machine lacks, of several
        return Picture(Status.FAILED, str(error)[:MAX_REASON])
    except MemoryError:
        return Picture(Status.TOO_LARGE, NO_MEMORY)
    sha256 = hashlib.sha256()
    for content in contents:
        sha256.update(content)
    pictures: list[Picture] = []
    for view, content in enumerate(contents):
        picture = decode(
            content, recipe, max_pixels=max_pixels, accept_truncated=accept_truncated, room=room
        )
        picture = replace(picture, sha256=sha256.hexdigest())
        if recipe.views is None:
            return picture
        if picture.reason:
            picture = replace(picture, reason=f"view {view}: {picture.reason}")
        if picture.pixels is None:
            return picture
        pictures.append(picture)
    return _stacked(pictures)


def _stacked(views: list[Picture]) -> Picture:
    """Return the pictures of one record as one, in their order."""
    pixels = [picture.pixels for picture in views if picture.pixels is not None]
    (height, width, _) = pixels[0].shape
    for view, each in enumerate(pixels):
        if each.shape != pixels[0].shape:
            reason = (
                f"view {view} has {each.shape[1]}x{each.shape[0]} pixels for the backbone, "
                f"view 0 has {width}x{height}; all views must have one size"
            )
            return replace(views[view], status=Status.UNSUPPORTED, reason=reason, pixels=None)
    reason = "; ".join(picture.reason for picture in views if picture.reason)
    return replace(views[0], reason=reason[:MAX_REASON], pixels=np.stack(pixels))


def decode(
    content: bytes,
    recipe: Recipe,
    *,
    max_pixels: int = MAX_PIXELS,
    accept_truncated: bool = False,
    room: Room | None = None,
) -> Picture:
    """Return the picture in the bytes of an image file, without their sha256."""
    if not content:
        return Picture(Status.UNDECODABLE, "the file is empty")
    with pillow_for_any_file():
        strict = _decode(content, recipe, max_pixels, room)
        if strict.status != Status.UNDECODABLE:
            return strict
        if (bare := _without_side_chunks(content)) is not None:
            picture = _decode(bare, recipe, max_pixels, room)
            if picture.status != Status.UNDECODABLE:
                return _remarked(picture, SIDE_CHUNK)
            strict, content = picture, bare
    if not accept_truncated or not strict.width:
        return strict
    with pillow_for_any_file(accept_truncated=True):
        picture = _decode(content, recipe, max_pixels, room)
    if picture.status != Status.OK:
        return strict
    # Pillow raises OSError in both cases; only its text tells them apart.
    return _remarked(picture, CUT_OFF if "truncated" in strict.reason.lower() else DAMAGED)


def _decode(content: bytes, recipe: Recipe, max_pixels: int, room: Room | None) -> Picture:
    width = height = 0
    try:
        with pillow().open(io.BytesIO(content), formats=formats()) as image:
            as_stored = image.size
            orientation = exif_orientation(image) if recipe.is_upright else UPRIGHT
            is_made_upright = orientation != UPRIGHT if recipe.is_upright else None
            width, height = upright_size(as_stored, orientation)
            refused = _too_large(image, content, max_pixels) or resize_problem(
                recipe, width, height
            )
            if refused:
                if max(width, height) > MAX_SIDE:
                    width = height = 0
                return Picture(*refused, width, height)
            if (
                room is not None
                and image.format == "JPEG"
                and orientation == UPRIGHT
                and _fits(image, recipe, room)
            ):
                pixels = _pixels_in(room, image)
                # Such a last pixel may be the filling of an image that ends early: see below.
                if decode_jpeg(content, pixels) and not JPEG_FILL.issuperset(pixels[-1, -1]):
                    reason = "; ".join(remarks(image, is_made_upright=is_made_upright))
                    return Picture(
                        Status.OK, reason, width, height, pixels=pixels, is_as_decoded=True
                    )
            notes = [SEVERAL_FRAMES] if getattr(image, "is_animated", False) else []
            ended = lacks_strips(image)
            image.load()
            if image.size != as_stored:  # of a file made to deceive: a GIF's frame can
                reason = f"its header says {width}x{height}, its image is {image.size}"
                return Picture(Status.UNDECODABLE, reason, width, height)
            notes += remarks(image, is_made_upright=is_made_upright)
            if ended or ends_early(image, content):
                notes.append(ENDED)
            if orientation != UPRIGHT:
                image = image.transpose(pillow().Transpose[TURNS[orientation]])
            if room is not None and _fits(image, recipe, room):
                pixels, is_as_decoded = _pixels_in(room, image), True
                pixels[:] = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
            else:
                pixels, is_as_decoded = resized(image, recipe.steps), False
    except MemoryError:
        return Picture(Status.TOO_LARGE, NO_MEMORY, width, height)
    # Pillow's parsers raise whatever broken bytes lead them to: a fact about the file.
    except Exception as error:
        reason = str(error) if width else why_unreadable(content)
        return Picture(Status.UNDECODABLE, reason[:MAX_REASON], width, height)
    reason = "; ".join(notes)
    return Picture(Status.OK, reason, width, height, pixels=pixels, is_as_decoded=is_as_decoded)


def _fits(image: Any, recipe: Recipe, room: Room) -> bool:
    """Return whether a device can take the steps: in RGB they give what they give in gray."""
    return (
        image.mode in ("L", "RGB")
        and 3 * image.width * image.height <= room.memory.size
        and recipe.size(*image.size) == room.size
    )


def _pixels_in(room: Room, image: Any) -> np.ndarray:
    """Return the part of `room` for the (height, width, 3) uint8 pixels of an image."""
    return room.memory[: 3 * image.width * image.height].reshape(image.height, image.width, 3)


def _remarked(picture: Picture, remark: str) -> Picture:
    """Return the picture with a remark before the others; as it is where it has no pixels."""
    if picture.status != Status.OK:
        return picture
    others = [text for text in picture.reason.split("; ") if text not in ("", ENDED)]
    return replace(picture, reason="; ".join([remark, *others]))


def _without_side_chunks(content: bytes) -> bytes | None:
    """Return a PNG file without texts, profiles and the like; None if it has no such chunk.

    Such chunks may be damaged, or longer than Pillow reads, in a file whose pixels are sound.
    Critical chunks stay as they are, and so do bytes at the end that form no chunk.
    """
    if not content.startswith(PNG):
        return None
    kept, start = [PNG], len(PNG)
    while start + CHUNK_HEAD <= len(content):
        length = int.from_bytes(content[start : start + 4], "big")
        name = content[start + 4 : start + CHUNK_HEAD]
        end = start + CHUNK_HEAD + length + CHUNK_END
        if name == TRANSPARENCY or not name[0] & ANCILLARY:
            kept.append(content[start:end])
        start = end
    bare = b"".join(kept)
    return bare if len(bare) < len(content) else None


def _too_large(image: Any, content: bytes, max_pixels: int) -> tuple[Status, str] | None:
    """Return status and reason of an image with more pixels than its format may have."""
    width, height = image.size
    kind, share = image.format, 1
    if kind in SEVERAL_COPIES:
        share = 4
    elif kind in JPEGS and width * height > max_pixels // 2 and not is_sequential(content):
        kind, share = "progressive JPEG", 2  # 7 to 10 bytes a pixel
    limit = max_pixels // share
    if width * height <= limit:
        return None
    why = f", 1/{share} of the limit: {kind} takes more memory a pixel" if share > 1 else ""
    return Status.TOO_LARGE, f"{width}x{height} is more than {limit:,} pixels{why}"


def resize_problem(recipe: Recipe, width: int, height: int) -> tuple[Status, str] | None:
    """Return status and reason of an image of which a step would leave nothing, or too much."""
    if min(width, height) < MIN_SIDE:
        reason = f"{width}x{height}: a side is shorter than {MIN_SIDE} pixels"
        return Status.UNSUPPORTED, reason
    sizes = [(width, height), *recipe.sizes(width, height)]
    for step, (before, (wide, high)) in zip(recipe.steps, pairwise(sizes), strict=False):
        if isinstance(step, Upright):  # changes no size
            continue
        if min(wide, high) < 1 or wide * high > MAX_PIXELS:
            return Status.UNSUPPORTED, f"{width}x{height} would be resized to {wide}x{high}"
        if isinstance(step, Crop):
            if before[0] < wide or before[1] < high:
                reason = f"{width}x{height} gives {before[0]}x{before[1]}, less than the crop"
                return Status.UNSUPPORTED, f"{reason} to {wide}x{high}"
        elif not isinstance(step, RGB | Pad) and wide * before[1] > MAX_PIXELS:
            reason = f"{width}x{height} would be {wide}x{before[1]} on the way to {wide}x{high}"
            return Status.UNSUPPORTED, reason
    return None


def resized(image: Any, steps: Sequence[ImageTransform]) -> np.ndarray:
    """Return a PIL image after a recipe's steps as (height, width, 3) uint8 RGB.

    For the step `upright` it has been turned before, since that takes the file's header. Each step
    works in the mode that the image has by then. Stock CLIP converts to RGB last; so do most
    recipes, since for palette and CMYK images the order changes the pixels.
    """
    for step in steps:
        width, height = step.size(image.size)
        if isinstance(step, Upright):
            continue
        if isinstance(step, RGB):
            image = image.convert("RGB")
        elif isinstance(step, Crop):
            left, top = step.corner(image.size)
            image = image.crop((left, top, left + width, top + height))
        elif isinstance(step, Pad):  # zeros come where a crop reaches beyond the image
            left, top = step.corner(image.size)
            image = image.crop((-left, -top, width - left, height - top))
        else:
            resample = pillow().Resampling[step.interpolation.upper()]
            image = _resize(image, (width, height), resample)
    return np.asarray(image)


def _resize(image: Any, size: tuple[int, int], resample: Any) -> Any:
    """Return an image at (width, height) `size`: first each row is resized, then each column.

    Up to Pillow 12 one call went this way, but for the thinnest of lines; Pillow 13 resizes
    columns first where that is less work. One axis a call gives the same bits in either.
    """
    if image.size == size:
        return image
    # Without this, each call would convert there and back.
    if premultiplied := PREMULTIPLIED.get(image.mode):
        return _resize(image.convert(premultiplied), size, resample).convert(image.mode)
    for axis in ((size[0], image.height), size):
        if image.size != axis:
            image = image.resize(axis, resample)
    return image


def not_as_planned(picture: Picture) -> Picture:
    """Return a picture without its pixels, which do not fit the grid that was planned."""
    reason = (
        f"{picture.width}x{picture.height} pixels are not what the manifest says, and give "
        f"another grid than was planned; make the manifest again: it takes the sizes of the "
        f"headers (under a URL, leave the sizes out of the list)"
    )
    return replace(picture, status=Status.FAILED, reason=reason, pixels=None)
