"""Read the size of images from their headers alone, many at a time."""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

from tqdm import tqdm

from ..base.errors import missing_extra

THREADS = min(16, 4 * (os.cpu_count() or 1))  # mostly waiting for the disk


def pillow() -> ModuleType:
    """Return PIL.Image, set up for files from anywhere.

    Pillow's own limit on pixels is off: callers decide by the header, before decoding. Its
    remarks on odd files are off too: what matters comes back as an error.
    """
    try:
        import PIL.Image
    except ImportError:
        raise missing_extra("extract", "Pillow") from None
    PIL.Image.MAX_IMAGE_PIXELS = None
    warnings.filterwarnings("ignore", module=r"PIL\.")
    return PIL.Image


def read_sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Return (width, height) in pixels of each file, (0, 0) where no image header is found.

    No pixel is decoded, so a broken image may still have a size; extraction finds out.
    """
    opener = pillow().open

    def read_size(path: Path) -> tuple[int, int]:
        try:
            with opener(path) as image:
                return image.size
        except (OSError, ValueError, SyntaxError):  # what Pillow's parsers raise on odd bytes
            return 0, 0

    with ThreadPoolExecutor(THREADS) as threads:
        results = threads.map(read_size, paths)
        return list(tqdm(results, "headers", len(paths), unit="image", disable=None))
