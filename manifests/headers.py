"""Read the size of images from their headers alone, many at a time."""

import functools
import logging
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

from tqdm import tqdm

from ..base.errors import ClipfeatError, needs_extra
from ..base.machine import usable_cores
from .contents import open_content

MAX_THREADS, THREADS_PER_CORE = 16, 4  # mostly waiting for the disk
BLOCK = 1 << 12  # files handed to the threads at a time

# What a folder is searched for, and no more: for EPS, Pillow would run Ghostscript on a
# stranger's program. (MPO is opened as JPEG.)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")


@functools.cache
def pillow() -> ModuleType:
    """Return PIL.Image, set up for files from anywhere, once in a process.

    Pillow's own limit on pixels is off: callers decide by the header, before decoding. Its
    remarks on odd files are off too: what matters comes back as an error.
    """
    with needs_extra("extract"):
        import PIL.AvifImagePlugin
        import PIL.Image
    PIL.AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # many files are decoded side by side already
    PIL.Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    return PIL.Image


def read_sizes(root: str, paths: Sequence[str]) -> list[tuple[int, int]]:
    """Return (width, height) in pixels of each file under `root`, (0, 0) where there is no
    file or no image header.

    No pixel is decoded, so a broken image may still have a size; extraction finds out.
    """
    opener = pillow().open

    def read_size(path: str) -> tuple[int, int]:
        try:
            with open_content(root, path) as file, opener(file, formats=FORMATS) as image:
                return image.size
        except (ClipfeatError, MemoryError):
            raise
        except Exception:  # Pillow's parsers raise whatever broken bytes lead them to
            return 0, 0

    sizes: list[tuple[int, int]] = []
    with (
        ThreadPoolExecutor(min(MAX_THREADS, THREADS_PER_CORE * usable_cores())) as threads,
        tqdm(desc="headers", total=len(paths), unit="image", disable=None) as bar,
    ):
        for start in range(0, len(paths), BLOCK):
            for size in threads.map(read_size, paths[start : start + BLOCK]):
                sizes.append(size)
                bar.update()
    return sizes
