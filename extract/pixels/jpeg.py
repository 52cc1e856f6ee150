"""Which JPEG files the device decodes: plain ones, in which every decoder reads the same image."""

import re
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import Any, NamedTuple

from ...manifests.headers import FRAMES
from ..recipes.recipe import Recipe

BASELINE, EXTENDED, PROGRESSIVE = 0xC0, 0xC1, 0xC2  # begin a frame with Huffman codes
HUFFMAN, QUANTISATION = 0xC4, 0xDB
START, END, SCAN, ADOBE, COMMENT = 0xD8, 0xD9, 0xDA, 0xEE, 0xFE
ASIDE = {*range(0xE0, 0xF0), COMMENT}  # EXIF, colour profiles: nothing of the image
# (horizontal, vertical) of the luma where each chroma has (1, 1): 4:4:4, 4:2:2, 4:4:0, 4:2:0.
SAMPLINGS = {(1, 1), (2, 1), (1, 2), (2, 2)}
YCBCR = 1  # what an Adobe segment calls it; 0 would be RGB
MAX_BYTES = 1 << 24  # of a file: a few batches of them are in memory
# With about 45, a GPU's antialiased bicubic resize needs more shared memory than there is.
MAX_SHRINK = 32
MAX_SEGMENTS = 1000  # colour profile and EXIF may have some hundred
BEHIND_CODES = re.compile(rb"\xff[^\x00]")  # within codes, a zero follows each byte of ones
BEHIND_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # restarts belong to a scan
# Codes of whatever meaning, for the scan that is being read and for any restart interval to come.
NOISE = bytes(89 * k % 251 for k in range(1, 512))
PADDING = NOISE + b"".join(bytes((0xFF, restart)) + NOISE for restart in range(0xD0, 0xD8))


def is_for_device(image: Any, content: bytes, recipe: Recipe) -> bool:
    """Return whether the device is to decode `content`, which Pillow has opened as `image`."""
    if image.format != "JPEG" or image.mode not in ("L", "RGB") or len(content) > MAX_BYTES:
        return False
    sizes = [image.size, *recipe.sizes(*image.size)]
    shrinks = any(
        before > MAX_SHRINK * after
        for befores, afters in pairwise(sizes)
        for before, after in zip(befores, afters, strict=True)
    )
    return not shrinks and is_plain(content)


def is_plain(content: bytes) -> bool:
    """Return whether a JPEG file is one that decoders cannot understand differently.

    It is one frame of 8 bits, baseline in one scan or progressive, gray or YCbCr in one of the
    usual samplings; its segments follow one another without a gap, and the marker of the end is
    the file's last two bytes. Restart intervals are not plain: with them decoders go on behind
    damage, each in its own way. Only markers are looked at: damage within the codes stays unseen.
    """
    try:
        segments = list(islice(_segments(content), MAX_SEGMENTS + 1))
    except (IndexError, ValueError):  # cut off, or no marker where one must be
        return False
    markers = [marker for marker, _ in segments]
    frames = [at for at, marker in enumerate(markers) if marker in (BASELINE, PROGRESSIVE)]
    known = {BASELINE, PROGRESSIVE, HUFFMAN, QUANTISATION, SCAN, *ASIDE}
    if len(segments) > MAX_SEGMENTS or len(frames) != 1:
        return False
    if not {HUFFMAN, QUANTISATION, SCAN} <= set(markers) <= known:
        return False
    frame, first_scan = frames[0], markers.index(SCAN)
    if frame > first_scan or not _is_plain_frame(segments[frame][1]):
        return False
    components = segments[frame][1][5]
    if markers[frame] == BASELINE:
        scanned = segments[first_scan][1][:1]
        if markers.count(SCAN) != 1 or scanned != bytes((components,)):
            return False
    adobe = [body for marker, body in segments if marker == ADOBE and body.startswith(b"Adobe")]
    return components == 1 or all(body[11:] == bytes((YCBCR,)) for body in adobe)


def is_sequential(content: bytes) -> bool:
    """Return whether a JPEG file is decoded row by row, so that memory holds only the image.

    Otherwise the coefficients of the whole image are held beside it: progressive files, and
    those whose first scan has not all components (ITU-T T.81, B.2.2 and B.2.3).
    """
    scan = _first_scan(content)
    return scan is not None and scan.frame in (BASELINE, EXTENDED) and scan.is_whole


def padded(content: bytes) -> bytes:
    """Return a JPEG file with codes added behind those of its first scan.

    They change nothing in an image whose codes are all there, since nobody reads them; else they
    become pixels where the decoder would fill. Files that are not understood come as they are.
    """
    scan = _first_scan(content)
    if scan is None or scan.frame not in (BASELINE, EXTENDED, PROGRESSIVE):
        return content
    end = BEHIND_SCAN.search(content, scan.codes)
    at = end.start() if end else len(content)
    return content[:at] + PADDING + content[at:]


def _is_plain_frame(body: bytes) -> bool:
    """Return whether a frame has 8 bits, and is gray or has luma and two chroma components."""
    if len(body) < 6 or len(body) != 6 + 3 * body[5] or body[0] != 8:
        return False
    names = list(body[6::3])
    samplings = [(both >> 4, both & 15) for both in body[7::3]]
    if len(names) == 1:
        return samplings == [(1, 1)]
    # Components that are called R, G and B instead are RGB to libjpeg.
    return names == [1, 2, 3] and samplings[0] in SAMPLINGS and samplings[1:] == [(1, 1), (1, 1)]


class _Scan(NamedTuple):
    """The first scan of a JPEG file."""

    frame: int  # its marker
    is_whole: bool  # whether it has all components of the frame
    codes: int  # where in the file they begin


def _first_scan(content: bytes) -> _Scan | None:
    """Return the first scan of a JPEG file, None where no row of segments leads to one."""
    at, frame, components = 2, 0, 0
    try:
        for marker, body in islice(_segments(content), MAX_SEGMENTS):
            at += 4 + len(body)
            if marker == SCAN:
                return _Scan(frame, body[0] == components, at)
            if marker in FRAMES:
                frame, components = marker, body[5]
    except (IndexError, ValueError):
        pass
    return None


def _segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker and body of each segment between start and end, without the scans' codes.

    Raises ValueError or IndexError where the file is not a row of segments up to its last byte.
    """
    if content[:2] != bytes((0xFF, START)):
        raise ValueError
    at = 2
    while content[at : at + 2] != bytes((0xFF, END)):
        marker = content[at + 1]
        length = int.from_bytes(content[at + 2 : at + 4], "big")
        behind = at + 2 + length
        if content[at] != 0xFF or length < 2 or behind > len(content):
            raise ValueError
        yield marker, content[at + 4 : behind]
        at = behind
        if marker == SCAN:
            found = BEHIND_CODES.search(content, behind)
            if found is None:
                raise ValueError
            at = found.start()
    if at + 2 != len(content):
        raise ValueError
