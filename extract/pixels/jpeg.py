"""JPEG files decoded straight into memory by simplejpeg, where its pixels are Pillow's.

It takes three fifths to four fifths of Pillow's time (docs/design.md). Both have libjpeg-turbo
inside, each its own build: so every process first compares the two.
"""

import io
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np

from ...manifests.headers import pillow

SIDES = (61, 83)  # of the test files: odd, so that all samplings have a remainder
VARIANTS = (
    {"subsampling": "4:4:4"},
    {"subsampling": "4:2:2"},
    {"subsampling": "4:2:0"},
    {"subsampling": "4:1:1"},
    {"progressive": True},
)


def decode_jpeg(content: bytes, pixels: np.ndarray) -> bool:
    """Decode an RGB or gray JPEG file into (height, width, 3) uint8 RGB `pixels`, contiguous.

    Returns False where Pillow must decode the file: it is damaged in any way, it is of another
    size, or Pillow's pixels may be other ones here.
    """
    decoder = jpeg_decoder()
    return decoder is not None and _decode(decoder, content, pixels)


def _decode(decoder: Callable[..., np.ndarray], content: bytes, pixels: np.ndarray) -> bool:
    try:
        decoded = decoder(content, "RGB", buffer=pixels, strict=True)
    except ValueError:
        return False
    return decoded.shape == pixels.shape


@cache
def jpeg_decoder() -> Callable[..., np.ndarray] | None:
    """Return simplejpeg's decoder, None if it is not installed or gives other pixels than Pillow."""
    try:
        from simplejpeg import decode_jpeg
    except ImportError:
        return None
    pixels = np.empty((*SIDES, 3), np.uint8)
    for content, expected in _examples():
        if not (_decode(decode_jpeg, content, pixels) and np.array_equal(pixels, expected)):
            return None
    return decode_jpeg


def _examples() -> Iterator[tuple[bytes, np.ndarray]]:
    """Yield JPEG files of random pixels, and their pixels by Pillow."""
    height, width = SIDES
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image: Any = pillow().frombytes("RGB", (width, height), values.tobytes())
    for variant in (*VARIANTS, {}):
        content = io.BytesIO()
        (image if variant else image.convert("L")).save(content, "JPEG", quality=85, **variant)
        with pillow().open(content) as opened:
            yield content.getvalue(), np.asarray(opened.convert("RGB"))
