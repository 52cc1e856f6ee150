"""What the bytes of an image file say: how it is decoded, what is odd, why it is unreadable.

Three parts: the segments of JPEG files (ITU-T T.81), the remarks on images that Pillow has opened,
and the reasons for files that it does not open.
"""

import io
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from ...manifests.headers import FRAMES, ORIENTATION, UPRIGHT, formats, pillow, reads_heic

BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2  # begin a frame with Huffman codes
START, END, SCAN = 0xD8, 0xD9, 0xDA
MAX_SEGMENTS = 1000  # colour profile and EXIF may have some hundred
BEHIND_CODES = re.compile(rb"\xff[^\x00]")  # within codes, a zero follows each byte of ones
BEHIND_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # restarts belong to a scan
# Codes without meaning, for the scan that is being read and for any restart interval that follows.
NOISE = bytes(89 * k % 251 for k in range(1, 512))
PADDING = NOISE + b"".join(bytes((0xFF, restart)) + NOISE for restart in range(0xD0, 0xD8))


def is_sequential(content: bytes) -> bool:
    """Return whether a JPEG file is decoded row by row, so that memory holds only the image.

    Otherwise the coefficients of the whole image are in memory too: in progressive files, and where
    the first scan does not have all components (ITU-T T.81, B.2.2 and B.2.3).
    """
    scan = _first_scan(content)
    return scan is not None and scan.frame in (BASELINE, EXTENDED) and scan.is_whole


def padded(content: bytes) -> bytes:
    """Return a JPEG file with codes added after those of its first scan.

    They change nothing in an image whose codes are complete, since no decoder reads them; otherwise
    they become pixels where the decoder would fill. Other files are returned unchanged.
    """
    scan = _first_scan(content)
    if scan is None or scan.frame not in (BASELINE, EXTENDED, PROGRESSIVE):
        return content
    marker = BEHIND_SCAN.search(content, scan.start)
    end = marker.start() if marker else len(content)
    return content[:end] + PADDING + content[end:]


class _Scan(NamedTuple):
    """The first scan of a JPEG file."""

    frame: int  # its marker
    is_whole: bool  # whether it has all components of the frame
    start: int  # of its codes: their offset in the file


def _first_scan(content: bytes) -> _Scan | None:
    """Return the first scan of a JPEG file, None where a sequence of segments leads to none."""
    offset, frame, components = 2, 0, 0
    try:
        for marker, body in islice(_segments(content), MAX_SEGMENTS):
            offset += 4 + len(body)
            if marker == SCAN:
                return _Scan(frame, body[0] == components, offset)
            if marker in FRAMES:
                frame, components = marker, body[5]
    except (IndexError, ValueError):
        pass
    return None


def _segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and body of each segment between start and end, without the scans' codes.

    Raises ValueError or IndexError where the file is not a sequence of segments to its last byte.
    """
    if content[:2] != bytes((0xFF, START)):
        raise ValueError
    offset = 2
    while content[offset : offset + 2] != bytes((0xFF, END)):
        marker = content[offset + 1]
        length = int.from_bytes(content[offset + 2 : offset + 4], "big")
        end = offset + 2 + length
        if content[offset] != 0xFF or length < 2 or end > len(content):
            raise ValueError
        yield marker, content[offset + 4 : end]
        offset = end
        if marker == SCAN:
            next_marker = BEHIND_CODES.search(content, end)
            if next_marker is None:
                raise ValueError
            offset = next_marker.start()
    if offset + 2 != len(content):
        raise ValueError


SEVERAL_FRAMES = "the first of several frames or pages"
TURNED = "its EXIF orientation is ignored, as stock CLIP ignores it"
NOT_TURNED = "its EXIF orientation is none of the eight, or behind its pixels, and is ignored"
MADE_UPRIGHT = "turned as its EXIF orientation says"
TRANSPARENT = "its transparency is dropped, as stock CLIP drops it"
DEEP = "more than 8 bits a channel: values above 255 are cut off, as in stock CLIP"
CMYK = "CMYK, converted to RGB without a colour profile"
ENDED = "its data ends before the last pixel: what is missing is as Pillow fills it"
SIDE_CHUNK = "a side chunk (text, colour profile) that is damaged or too long was passed over"
CUT_OFF = "the file is cut off: what is missing of the image is as Pillow fills it"
DAMAGED = "the file is damaged: what cannot be read of the image is as Pillow fills it"

KEYED = ("1", "L", "RGB", "P")  # modes in which one colour may stand for transparency
JPEGS = ("JPEG", "MPO")
# A decoder takes missing coefficients of a JPEG for 0, which is gray; in CMYK, Pillow inverts it.
JPEG_FILL = {127, 128}


def remarks(image: Any, *, is_made_upright: bool | None = None) -> Iterator[str]:
    """Yield what is odd about an image, by its header and, once it is loaded, by its pixels.

    `is_made_upright` says whether it is turned; None stands for a recipe that turns no image.
    """
    if is_made_upright:
        yield MADE_UPRIGHT
    elif _orientation(image) != UPRIGHT:
        yield TURNED if is_made_upright is None else NOT_TURNED
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
    """Return whether a pixel is not opaque: many files have an alpha channel that says nothing."""
    if "A" in image.getbands() and image.mode != "LAB":  # whose A is a colour
        alpha = image.getchannel("A")
    elif image.mode in KEYED and "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
    else:
        return False
    return alpha.getextrema()[0] < 255


def lacks_strips(image: Any) -> bool:
    """Return whether a TIFF file, which is not loaded yet, lists too few parts to fill its image.

    Pillow leaves the rest black without an error. Planes of colour share one area.
    """
    if image.format != "TIFF":
        return False
    parts = {extents for _, extents, *_ in image.tile}
    covered = sum((right - left) * (lower - upper) for left, upper, right, lower in parts)
    return covered < image.width * image.height


def ends_early(image: Any, content: bytes) -> bool:
    """Return whether the data of a loaded image ended before its last pixel, without an error.

    The libraries fill the rest with gray (JPEG) or leave zeros. Only where the last pixel looks
    like that, the image is decoded once more, in a way that gives a fill another value.
    """
    last = image.getpixel((image.width - 1, image.height - 1))
    values = last if isinstance(last, tuple) else (last,)
    if image.format in JPEGS:
        return JPEG_FILL.issuperset(values) and jpeg_ends_early(content)
    return image.format in ("PNG", "JPEG2000") and not any(values) and _last_over(content) != last


def jpeg_ends_early(content: bytes) -> bool:
    """Return whether codes that are added to a JPEG file become pixels.

    Call it inside `pillow_for_any_file`, as all that reads files here.
    """
    return _eighth(content) != _eighth(padded(content))


def _eighth(content: bytes) -> bytes:
    """Return the pixels of a JPEG file at an eighth of its size: one for each block."""
    with pillow().open(io.BytesIO(content), formats=JPEGS) as image:
        image.draft(None, (1, 1))
        return image.tobytes()


def _last_over(content: bytes) -> Any:
    """Return the last pixel of an image that is decoded over 255 instead of zeros."""
    with pillow().open(io.BytesIO(content), formats=formats()) as image:
        bands = len(image.getbands())
        image.im = pillow().new(image.mode, image.size, (255,) * bands if bands > 1 else 255).im
        image.load()
        return image.getpixel((image.width - 1, image.height - 1))


CONVERT = "convert it to JPEG or PNG"
# What other files begin with: texts in lower case, after white space.
TEXTS = (
    (b"version https://git-lfs", "a git-lfs pointer in place of the file; type: git lfs pull"),
    (b"<!doctype html", "a web page (HTML), as failed downloads leave it; download it again"),
    (b"<html", "a web page (HTML), as failed downloads leave it; download it again"),
    (b"<svg", f"a drawing (SVG); {CONVERT}"),
    (b"<?xml", "XML text, as failed downloads leave it; download it again"),
    (b"{", "JSON text, as failed downloads leave it; download it again"),
)
BYTES = (
    (b"%PDF", f"a PDF document; {CONVERT}"),
    (b"%!PS", f"PostScript, a program, which is not run; {CONVERT}"),
    (b"\xc5\xd0\xd3\xc6", f"PostScript, a program, which is not run; {CONVERT}"),
    (b"8BPS", f"a Photoshop document; {CONVERT}"),
    (b"\0\0\0\x0cJXL ", f"JPEG XL; {CONVERT}"),
    (b"\xff\x0a", f"JPEG XL; {CONVERT}"),
    (b"PK\3\4", "a ZIP archive; unpack it"),
    (b"\x1f\x8b", "gzip data; unpack it"),
)
HEIF = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}  # ISO/IEC 23008-12, annex B
AVIF = {b"avif", b"avis"}
ANY_CODEC = {b"mif1", b"msf1"}  # the codec is named among the compatible brands
SHOWN = 40  # characters of a text, for a person


def why_unreadable(content: bytes) -> str:
    """Return for a person why Pillow opens no image in the bytes of a file."""
    return _other_kind(content) or _damage(content) or _beginning(content)


def _other_kind(content: bytes) -> str:
    """Return what a file is if it is of a kind that is known and not read."""
    begin = content[:64].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for kinds, start in ((TEXTS, begin), (BYTES, content)):
        for magic, kind in kinds:
            if start.startswith(magic):
                return f"not an image but {kind}"
    if content[4:8] == b"ftyp":
        length = int.from_bytes(content[:4], "big")
        brands = {content[k : k + 4] for k in range(8, min(length, 256), 4) if k != 12}
        major = content[8:12]
        if major in HEIF or (major in ANY_CODEC and brands & HEIF and not brands & AVIF):
            if reads_heic():
                return ""
            return f"HEIC, which takes a package more: pip install pillow-heif; or {CONVERT}"
        if major not in AVIF | ANY_CODEC:
            return "a video or another file of the MP4 family, not an image"
    if content and content.count(0) == len(content):
        return "nothing but zero bytes: the file was never written; copy it again"
    return ""


def _damage(content: bytes) -> str:
    """Return what Pillow's plugin says of a file of a format that is read."""
    is_webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    if is_webp and int.from_bytes(content[4:8], "little") + 8 > len(content):  # Pillow does not say
        return "WEBP: the file is cut off"
    for name in formats():
        factory, accepts = pillow().OPEN.get(name, (None, None))
        if factory is None or not accepts:
            continue
        accepted = accepts(content[:16])
        if isinstance(accepted, str):
            return f"{name}: {accepted}"
        if accepted:
            return f"{name}: {_opening_error(factory, content)}"
    return ""


def _opening_error(factory: Callable, content: bytes) -> str:
    try:
        factory(io.BytesIO(content), "").close()
    except Exception as error:  # Pillow's parsers raise whatever broken bytes lead them to
        return f"{error}" or type(error).__name__
    return "the header is damaged"


def _beginning(content: bytes) -> str:
    """Return what an unknown file begins with."""
    head = content[:SHOWN]
    text = " ".join(head.decode(errors="replace").split())
    if text and text.isprintable() and "\ufffd" not in text[:-1]:
        return f"not an image but text, which begins with {text!r}"
    return f"no image format that is read here; the file begins with the bytes {head[:8].hex(' ')}"
