"""Read the sizes of images from their headers, many at a time; and use Pillow on any file."""

import contextlib
import functools
import importlib
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
from ..base.files import open_plain
from ..base.machine import usable_cores
from ..base.text import is_url
from .archives import ARCHIVE, archive_format
from .contents import disk_path, open_content, unescaped
from .manifest import MAX_SIDE

MAX_THREADS, THREADS_PER_CORE = 16, 4  # they mostly wait for the disk
BLOCK = 1 << 6  # files given to a thread at a time
WAVE = 1 << 12  # files given to all threads at a time
HEAD = 1 << 12  # first bytes of a file; most headers end within them
PNG = b"\x89PNG\r\n\x1a\n"
FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG markers followed by a size
ORIENTATION, UPRIGHT = 0x0112, 1  # EXIF's tag, and its value for "as it is"
SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height (Exif 2.32, tag 274)
SWITCHES = threading.RLock()  # held while Pillow's settings are changed
Size = tuple[int, int]  # width, height in pixels

# Pillow may open only these, and HEIC where its plugin is installed: for EPS it would run
# Ghostscript on a stranger's program. (MPO is opened as JPEG.)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")


@functools.cache
def pillow() -> ModuleType:
    """Return PIL.Image; UsageError says how to install Pillow."""
    with needs_extra("extract"):
        import PIL.Image
    return PIL.Image


@functools.cache
def reads_heic() -> bool:
    """Return whether Pillow reads HEIC here, through the package pillow-heif."""
    try:
        pillow_heif: Any = importlib.import_module("pillow_heif")  # optional, and without types
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def formats() -> tuple[str, ...]:
    """Return the formats that Pillow may open."""
    return (*FORMATS, "HEIF") if reads_heic() else FORMATS


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


def read_sizes(root: str, paths: Sequence[str], *, upright: bool = False) -> list[Size]:
    """Return (width, height) in pixels of each file below `root`, a folder or a URL.

    `paths` are those of a manifest. With `upright`, sizes are those of images that are turned as
    their EXIF orientation says. The size is (0, 0) if the file does not exist, has no header of
    an image, or has a side that is longer than a manifest can store. No pixel is decoded, so that a
    damaged image may have a size; extraction finds out.
    """
    is_local = not is_url(root)

    def read_block(block: Sequence[str]) -> list[Size]:
        heads = _heads(root, block) if is_local and not upright else itertools.repeat(b"")
        return [
            size_in(head) or _size_by_pillow(root, path, upright=upright)
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


def exif_orientation(image: Any) -> int:
    """Return the EXIF orientation, 1 to 8, of an image that Pillow has opened and not loaded.

    It is 1, as it is, where the header does not state another one, and for TIFF files, which Pillow
    turns itself. Of a PNG file, what comes after its pixels is not looked at.
    """
    if image.format == "TIFF":
        return UPRIGHT
    try:  # the method of the base class: that of PNG files decodes their pixels
        value = pillow().Image.getexif(image).get(ORIENTATION, UPRIGHT)
    except Exception:  # Pillow's parsers raise whatever broken bytes lead them to
        return UPRIGHT
    return value if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT


def upright_size(size: Size, orientation: int) -> Size:
    """Return the (width, height) of an image that is turned as its EXIF orientation says."""
    return (size[1], size[0]) if orientation in SIDEWAYS else size


def _size_by_pillow(root: str, path: str, *, upright: bool) -> Size:
    try:
        with open_content(root, path) as file, pillow().open(file, formats=formats()) as image:
            size = upright_size(image.size, exif_orientation(image) if upright else UPRIGHT)
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
        heads = _heads_in_archive(root, archive, names) if archive else None
        yield from heads or (_head(root, name) for name in names)


def _archive(path: str) -> str:
    """Return the part of a path that ends as an archive does, "" if none does."""
    match = ARCHIVE.search(path)
    return path[: match.end() - 1] if match else ""


def _heads_in_archive(root: str, archive: str, paths: Sequence[str]) -> list[bytes] | None:
    """Return the first bytes of members of an archive, opened once; None if it is not one."""
    try:
        names = [path[len(archive) + 1 :] for path in paths]
        return archive_format(archive).heads(disk_path(root, archive), names, HEAD)
    except OSError:
        return None


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
