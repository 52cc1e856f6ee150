"""Grids as colours: three principal directions of a store's cells, the same for all its images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ...base.errors import CorruptStoreError
from ..store import FeatureStore
from .sample import SAMPLE_SEED
from .spectrum import FLOOR, with_fixed_signs

COLOURS = 3  # directions: red, green, blue
EDGE = 0.02  # share of the sampled cells that lie beyond each end of a colour's range
ROUNDING = 1e-10  # of the largest sum of squares; less along a direction is rounding
MIN_RANGE = 1e-3  # standard deviations; a smaller range is rounding, and gets no colours
BASIS_IMAGES, BASIS_CELLS = 64, 1024  # that decide the colours, at most
READ_NUMBERS = 1 << 26  # of these images together, at most; at least one image is read
BASIS_NUMBERS = 1 << 24  # of these cells together, at most


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
    explained: tuple[float, float, float]  # shares of the variance of standardised channels

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
        values, vectors = values[::-1][:COLOURS], vectors[:, ::-1][:, :COLOURS]
        kept = np.flatnonzero(values > max(ROUNDING * float(values[0]), 0.0))
        found = standard.T @ vectors[:, kept] if is_wide else vectors[:, kept]
        directions, explained = np.zeros((len(mean), COLOURS)), np.zeros(COLOURS)
        directions[:, kept] = with_fixed_signs(found / np.linalg.norm(found, axis=0))
        explained[kept] = values[kept] / max(float(np.trace(product)), np.finfo(np.float64).tiny)
        low, high = np.quantile(standard @ directions, (EDGE, 1 - EDGE), axis=0)
        red, green, blue = explained.tolist()
        return cls(mean, std, directions, low, high, (red, green, blue))

    def colours(self, cells: np.ndarray) -> np.ndarray:
        """Return the colours of (..., channel) numbers: (..., 3) uint8.

        A direction along which the sample does not differ is 128 in all of them; NaN becomes 0.
        """
        span = self.high - self.low
        has_range = span > MIN_RANGE
        with np.errstate(invalid="ignore", over="ignore"):
            places = ((cells - self.mean) / self.std) @ self.directions
            shares = np.where(has_range, (places - self.low) / np.where(has_range, span, 1.0), 0.5)
        return np.rint(255 * np.nan_to_num(shares).clip(0, 1)).astype(np.uint8)


def sampled_basis(store: FeatureStore, ids: Sequence[str]) -> ColourBasis | None:
    """Return the basis of cells of some images, the same for the same ids in whatever order.

    All that show colours of a store give the first BASIS_IMAGES ids that `drawn` with SAMPLE_SEED
    chooses. A record that is corrupt or contains NaN or Inf is left out; None if there is no other.
    """
    random = np.random.default_rng(SAMPLE_SEED)
    ids = sorted(ids)
    if not ids:
        return None
    numbers = np.cumsum(store.shapes(ids).astype(np.int64).prod(axis=1) * store.dim)
    ids = ids[: max(1, int(np.searchsorted(numbers, READ_NUMBERS, side="right")))]
    most = max(1, min(BASIS_CELLS, BASIS_NUMBERS // store.dim))
    each = -(-most // len(ids))
    parts: list[np.ndarray] = []
    for image_id in ids:
        try:
            cells = store[image_id][store.mask(image_id)]
        except CorruptStoreError:
            continue
        cells = cells[random.permutation(len(cells))[:each]].astype(np.float32)
        if np.isfinite(cells).all():
            parts.append(cells)
    return ColourBasis.of(np.concatenate(parts)[:most]) if parts else None
