"""Read the sizes of images from their headers, many at a time; and use Pillow on any file."""

import contextlib
import functools
import itertools
import logging
import os
import struct
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

from tqdm import tqdm

from ..base.errors import ClipfeatError, needs_extra
from ..base.files import open_plain, read_at
from ..base.machine import usable_cores
from ..base.text import is_url
from .contents import disk_path, open_content, unescaped
from .manifest import MAX_SIDE
from .tars import Member, members, open_archive

MAX_THREADS, THREADS_PER_CORE = 16, 4  # they mostly wait for the disk
BLOCK = 1 << 6  # files given to a thread at a time
WAVE = 1 << 12  # files given to all threads at a time
HEAD = 1 << 12  # first bytes of a file; most headers end within them
NEAR = 8  # heads that are read at once, at most
PNG = b"\x89PNG\r\n\x1a\n"
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers followed by a size
EMPTY = Member(0, 0)
SWITCHES = threading.RLock()  # held while Pillow's settings are changed
Size = tuple[int, int]  # width, height in pixels

# Pillow may open only these: for EPS it would run Ghostscript on a stranger's program. (MPO is
# opened as JPEG.)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")


@functools.cache
def pillow() -> ModuleType:
    """Return PIL.Image; UsageError says how to install Pillow."""
    with needs_extra("extract"):
        import PIL.Image
    return PIL.Image


@contextlib.contextmanager
def pillow_for_any_file(*, accept_truncated: bool = False) -> Generator[ModuleType]:
    """Yield PIL.Image, set up in this block for files from anywhere.

    Pillow's limit on pixels is off: callers decide by the header, before decoding. Its warnings and
    messages about odd files are off, since what matters comes back as an error. With
    `accept_truncated` it decodes what is left of a damaged file.

    These settings belong to the whole process. They are restored at the end, and another thread
    that enters such a block waits until then.
    """
    image: Any = pillow()
    from PIL import ImageFile

    pillow_logger, silent = logging.getLogger("PIL"), logging.NullHandler()
    with SWITCHES, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        before = image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, accept_truncated
        pillow_logger.addHandler(silent)
        try:
            yield image
        finally:
            pillow_logger.removeHandler(silent)
            image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def read_sizes(root: str, paths: Sequence[str]) -> list[Size]:
    """Return (width, height) in pixels of each file below `root`, a folder or a URL.

    `paths` are those of a manifest. The size is (0, 0) if the file does not exist, has no header of
    an image, or has a side that is longer than a manifest can store. No pixel is decoded, so that a
    damaged image may have a size; extraction finds out.
    """
    is_local = not is_url(root)

    def read_block(block: Sequence[str]) -> list[Size]:
        heads = _heads(root, block) if is_local else itertools.repeat(b"")
        return [
            size_in(head) or _size_by_pillow(root, path)
            for path, head in zip(block, heads, strict=False)
        ]

    sizes: list[Size] = []
    with (
        pillow_for_any_file(),
        ThreadPoolExecutor(min(MAX_THREADS, THREADS_PER_CORE * usable_cores())) as threads,
        tqdm(desc="headers", total=len(paths), unit="image", disable=None) as bar,
    ):
        for start in range(0, len(paths), WAVE):
            wave = paths[start : start + WAVE]
            blocks = (wave[k : k + BLOCK] for k in range(0, len(wave), BLOCK))
            for block_sizes in threads.map(read_block, blocks):
                sizes += block_sizes
                bar.update(len(block_sizes))
    return sizes


def size_in(head: bytes) -> Size | None:
    """Return the size in the first bytes of a JPEG or PNG file, None if it is not there.

    For a JPEG file this takes 2 us, and Pillow 61 us, which reads what is left. The size is in the
    frame's header, one of the segments that the file begins with (ITU-T T.81, B.1 and B.2).
    """
    width = height = 0
    if head.startswith(PNG) and head[12:16] == b"IHDR" and len(head) >= 24:
        width, height = struct.unpack_from(">II", head, 16)
    elif head.startswith(b"\xff\xd8\xff"):
        at = 2
        while at + 9 <= len(head) and head[at] == 0xFF and 0xC0 <= head[at + 1] < 0xFF:
            marker, length = head[at + 1], head[at + 2] << 8 | head[at + 3]
            if marker in FRAMES:
                height, width = struct.unpack_from(">HH", head, at + 5)
                break
            if 0xD0 <= marker <= 0xDA:  # not a segment, or the scan itself
                break
            at += 2 + length
    return (width, height) if _is_storable((width, height)) else None


def _size_by_pillow(root: str, path: str) -> Size:
    try:
        with open_content(root, path) as file, pillow().open(file, formats=FORMATS) as image:
            size = image.size
    except (ClipfeatError, MemoryError):
        raise
    except Exception:  # Pillow's parsers raise all kinds of errors for damaged files
        return 0, 0
    return size if _is_storable(size) else (0, 0)


def _is_storable(size: Size) -> bool:
    return min(size) > 0 and max(size) <= MAX_SIDE


def _heads(root: str, paths: Sequence[str]) -> Iterator[bytes]:
    """Yield the first bytes of each file below a local root; b"" for one that cannot be read."""
    for archive, group in itertools.groupby(map(unescaped, paths), _archive):
        names = list(group)
        heads = _heads_in_tar(root, archive, names) if archive else None
        yield from heads or (_head(root, name) for name in names)


def _archive(path: str) -> str:
    """Return the part of a path that ends in .tar, "" if none does."""
    start, dot, _ = path.partition(".tar/")
    return f"{start}.tar" if dot else ""


def _heads_in_tar(root: str, archive: str, paths: Sequence[str]) -> list[bytes] | None:
    """Return the first bytes of members of a tar, which is opened once; None if it is not a tar."""
    try:
        tar = disk_path(root, archive)
        by_name = members(tar)
        entries = (by_name.get(path[len(archive) + 1 :], EMPTY) for path in paths)
        with open_archive(tar) as descriptor:
            return list(_read_near(descriptor, [(at, min(HEAD, size)) for at, size in entries]))
    except OSError:
        return None


def _read_near(descriptor: int, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Yield the bytes at each (offset, length); those close to each other are read at once.

    At each read Python's lock passes between the threads, which takes longer than the read.
    """
    piece, start = b"", 0
    for number, (offset, length) in enumerate(places):
        if not start <= offset <= offset + length <= start + len(piece):
            ends = (at + size for at, size in places[number : number + NEAR] if at >= offset)
            end = max((end for end in ends if end <= offset + NEAR * HEAD), default=0)
            piece, start = read_at(descriptor, max(length, end - offset), offset), offset
        yield piece[offset - start : offset - start + length]


def _head(root: str, path: str) -> bytes:
    try:
        descriptor = open_plain(disk_path(root, path), follow=True)
    except OSError:
        return b""
    try:
        return os.read(descriptor, HEAD)
    except OSError:
        return b""
    finally:
        os.close(descriptor)
