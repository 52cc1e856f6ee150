"""What is odd about an image that Pillow has decoded: fixed texts, so that they can be counted.

Pixels stay what stock CLIP would see; a remark in the index lets somebody notice.
"""

import io
from collections.abc import Iterator
from typing import Any

from ...manifests.headers import FORMATS, pillow
from .jpeg import padded

SEVERAL_FRAMES = "the first of several frames or pages"
TURNED = "its EXIF orientation is ignored, as stock CLIP ignores it"
TRANSPARENT = "its transparency is dropped, as stock CLIP drops it"
DEEP = "more than 8 bits a channel: values above 255 are cut off, as in stock CLIP"
CMYK = "CMYK, converted to RGB without a colour profile"
ENDED = "its data ends before the last pixel: what is missing is as Pillow fills it"
SIDE_CHUNK = "a side chunk (text, colour profile) that is damaged or too long was passed over"
CUT_OFF = "the file is cut off: what is missing of the image is as Pillow fills it"
DAMAGED = "the file is damaged: what cannot be read of the image is as Pillow fills it"

ORIENTATION, UPRIGHT = 0x0112, 1  # EXIF's tag, and its value for "as it is"
KEYED = ("1", "L", "RGB", "P")  # modes in which a colour of its own may mean transparent
JPEGS = ("JPEG", "MPO")
# JPEG's coefficients are 0 where there is none, which is gray; in CMYK, Pillow inverts it.
JPEG_FILL = {127, 128}


def remarks(image: Any) -> Iterator[str]:
    """Yield what is odd about an image by its header, or, once it is loaded, by its pixels."""
    if _orientation(image) != UPRIGHT:
        yield TURNED
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        yield DEEP
    if image.mode == "CMYK":
        yield CMYK
    if _is_transparent(image):
        yield TRANSPARENT


def _orientation(image: Any) -> Any:
    try:
        return image.getexif().get(ORIENTATION, UPRIGHT)
    except Exception:  # Pillow's parsers raise whatever broken bytes lead them to
        return UPRIGHT


def _is_transparent(image: Any) -> bool:
    """Return whether a pixel is not wholly opaque: many files have an alpha channel for nothing."""
    if "A" in image.getbands() and image.mode != "LAB":  # whose A is a colour
        alpha = image.getchannel("A")
    elif image.mode in KEYED and "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
    else:
        return False
    return alpha.getextrema()[0] < 255


def lacks_strips(image: Any) -> bool:
    """Return whether a TIFF file, which is not loaded yet, lists too few parts to fill its image.

    Pillow leaves the rest black, and says nothing. Planes of colour lie over each other.
    """
    if image.format != "TIFF":
        return False
    parts = {extents for _, extents, *_ in image.tile}
    covered = sum((right - left) * (lower - upper) for left, upper, right, lower in parts)
    return covered < image.width * image.height


def ends_early(image: Any, content: bytes) -> bool:
    """Return whether the data of a loaded image ended before its last pixel, unsaid by Pillow.

    Its libraries fill up with gray (JPEG) or leave zeros. Only where the last pixel looks like
    that is the image decoded once more, in a way that makes fill come out as something else.
    """
    last = image.getpixel((image.width - 1, image.height - 1))
    values = last if isinstance(last, tuple) else (last,)
    if image.format in JPEGS:
        return JPEG_FILL.issuperset(values) and jpeg_ends_early(content)
    return image.format in ("PNG", "JPEG2000") and not any(values) and _last_over(content) != last


def jpeg_ends_early(content: bytes) -> bool:
    """Return whether codes that are added to a JPEG file become pixels."""
    return _eighth(content) != _eighth(padded(content))


def _eighth(content: bytes) -> bytes:
    """Return the pixels of a JPEG file at an eighth of its size: one for each block."""
    with pillow().open(io.BytesIO(content), formats=JPEGS) as image:
        image.draft(None, (1, 1))
        return image.tobytes()


def _last_over(content: bytes) -> Any:
    """Return the last pixel of an image that is decoded over 255 instead of zeros."""
    with pillow().open(io.BytesIO(content), formats=FORMATS) as image:
        bands = len(image.getbands())
        image.im = pillow().new(image.mode, image.size, (255,) * bands if bands > 1 else 255).im
        image.load()
        return image.getpixel((image.width - 1, image.height - 1))
