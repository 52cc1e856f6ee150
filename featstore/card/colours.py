"""Numbers as colours, and pixels as PNG files."""

import struct
import zlib

import numpy as np

MOST_SIDE = 96  # cells of the longer side of a picture
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Anchors of the colours of a map of numbers, from low to high, equally far apart: dark blue, blue,
# green, yellow. Lightness rises all the way, so that the map can be read without seeing hues.
SEQUENCE = np.array([(38, 32, 96), (38, 98, 150), (45, 160, 130), (150, 205, 80), (250, 235, 120)])


def colours_of_numbers(numbers: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return (..., 3) uint8 colours of numbers from `low` to `high`, of the colours of SEQUENCE."""
    span = high - low
    shares = ((numbers - low) / span if span > 0 else np.full(numbers.shape, 0.5)).clip(0, 1)
    anchors = np.linspace(0, 1, len(SEQUENCE))
    channels = [np.interp(shares, anchors, SEQUENCE[:, channel]) for channel in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def shrunk(image: np.ndarray) -> np.ndarray:
    """Return every n-th row and col of an array, so that no side is longer than MOST_SIDE."""
    step = -(-max(image.shape[:2]) // MOST_SIDE)
    return image[::step, ::step]


def png(pixels: np.ndarray, mask: np.ndarray | None = None) -> bytes:
    """Return (row, col, 3) uint8 pixels as a PNG file (ISO/IEC 15948).

    Pixels where `mask`, (row, col) bool, is false are transparent.
    """
    rows, cols, _ = pixels.shape
    alpha = np.full((rows, cols, 1), 255, np.uint8)
    if mask is not None:
        alpha[~mask] = 0
    rgba = np.concatenate([pixels, alpha], axis=2)
    filters = np.zeros((rows, 1), np.uint8)  # each line begins with its filter: none
    lines = np.hstack([filters, rgba.reshape(rows, 4 * cols)])
    header = struct.pack(">IIBBBBB", cols, rows, 8, 6, 0, 0, 0)  # 8 bits, RGB with alpha
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
