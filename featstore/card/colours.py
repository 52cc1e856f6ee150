"""Grids as colours: three principal directions of a store's cells, the same for all its images."""

import struct
import zlib
from dataclasses import dataclass
from typing import Self

import numpy as np

from ..report.spectrum import FLOOR, with_fixed_signs

COLOURS = 3  # directions: red, green, blue
EDGE = 0.02  # share of the sampled cells that lie beyond each end of a colour's range
MOST_SIDE = 96  # cells of the longer side of a picture
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Anchors of the colours of a map of numbers, from low to high, equally far apart: dark blue, blue,
# green, yellow. Lightness rises all the way, so that the map can be read without seeing hues.
SEQUENCE = np.array([(38, 32, 96), (38, 98, 150), (45, 160, 130), (150, 205, 80), (250, 235, 120)])


@dataclass(frozen=True)
class ColourBasis:
    """What turns a cell into a colour.

    Channels are standardised, since one of large scale would decide all colours. Each direction's
    largest entry is positive (`with_fixed_signs`), so that a store has one choice of colours, and
    those of different images can be compared.
    """

    mean: np.ndarray  # (channel,)
    std: np.ndarray  # (channel,), above 0
    directions: np.ndarray  # (channel, 3), orthogonal, of length 1; 0 where there are fewer
    low: np.ndarray  # (3,), what becomes 0
    high: np.ndarray  # (3,), what becomes 255
    share: float  # of the variance of standardised channels that the directions have

    @classmethod
    def of(cls, cells: np.ndarray) -> Self:
        """Return the basis of a sample of cells, (cell, channel) finite numbers, at least one."""
        cells = cells.astype(np.float64)
        mean, variance = cells.mean(axis=0), cells.var(axis=0)
        std = np.sqrt(variance + FLOOR * variance.mean())
        std[std == 0] = 1.0
        standard = (cells - mean) / std
        # The eigenvectors of the smaller of the two products lead to the same directions.
        is_wide = standard.shape[1] > len(standard)
        product = standard @ standard.T if is_wide else standard.T @ standard
        values, vectors = np.linalg.eigh(product)
        vectors = vectors[:, ::-1][:, :COLOURS]
        found = standard.T @ vectors if is_wide else vectors
        lengths = np.linalg.norm(found, axis=0)
        directions = np.zeros((len(mean), COLOURS))
        directions[:, : found.shape[1]] = with_fixed_signs(found / np.where(lengths, lengths, 1.0))
        low, high = np.quantile(standard @ directions, (EDGE, 1 - EDGE), axis=0)
        total = float(np.trace(product))
        share = float(values[-COLOURS:].sum()) / total if total else 0.0
        return cls(mean, std, directions, low, high, share)

    def colours(self, cells: np.ndarray) -> np.ndarray:
        """Return the colours of (..., channel) numbers: (..., 3) uint8; gray where none differ."""
        places = ((cells - self.mean) / self.std) @ self.directions
        span = self.high - self.low
        shares = np.where(span > 0, (places - self.low) / np.where(span > 0, span, 1.0), 0.5)
        return np.rint(255 * shares.clip(0, 1)).astype(np.uint8)


def colours_of_numbers(numbers: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return (..., 3) uint8 colours of numbers from `low` to `high`, of the colours of SEQUENCE."""
    span = high - low
    shares = ((numbers - low) / span if span > 0 else np.full(numbers.shape, 0.5)).clip(0, 1)
    anchors = np.linspace(0, 1, len(SEQUENCE))
    channels = [np.interp(shares, anchors, SEQUENCE[:, channel]) for channel in range(COLOURS)]
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
