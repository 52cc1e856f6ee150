"""A grid as colours: three principal directions that all images of a store share, or one channel."""

from typing import Any, NamedTuple

import numpy as np

from ..base.errors import CorruptStoreError, StoreUsageError
from .records import Grid, ViewedStore

SEED = 0
BASIS_IMAGES, BASIS_CELLS = 64, 1024  # that the directions are computed from, at most
BASIS_NUMBERS = 1 << 24  # of these cells together, at most
LOW, HIGH = 2, 98  # percentiles of the sample between which the colours go from 0 to 255
EPSILON = 1e-10  # of the largest sum of squares; less along a direction is rounding
MIN_SPAN = 1e-3  # standard deviations; smaller variation is rounding, and gets no colours


class Basis(NamedTuple):
    """The principal directions of a store's cells, and how they become red, green and blue."""

    mean: np.ndarray  # (dim,)
    scale: np.ndarray  # (dim,) standard deviation, at least 1e-6
    directions: np.ndarray  # (3, dim)
    low: np.ndarray  # (3,)
    high: np.ndarray
    explained: tuple[float, float, float]  # share of the variance of standardised channels

    def colours(self, cells: np.ndarray) -> np.ndarray:
        """Return cells (cell, dim) as (cell, 3) uint8."""
        with np.errstate(invalid="ignore"):
            along = (cells - self.mean) / self.scale @ self.directions.T
            share = (along - self.low) / np.maximum(self.high - self.low, MIN_SPAN)
        return (np.nan_to_num(share).clip(0, 1) * 255).round().astype(np.uint8)


def make_basis(cells: np.ndarray) -> Basis:
    """Return the basis of a sample of cells (cell, dim), at least one.

    Channels are standardised first: a few channels of CLIP have far larger numbers than all others,
    and would be all that is seen. The directions are those of principal component analysis of the
    standardised sample. The largest entry of each is positive, so that colours do not depend on the
    machine. Where there are fewer than three, the others are zero.
    """
    wide = cells.astype(np.float64)
    mean, scale = wide.mean(axis=0), wide.std(axis=0) + 1e-6
    standardised = (wide - mean) / scale
    variances, directions = _principal(standardised)
    along = standardised @ directions.T
    low, high = np.percentile(along, (LOW, HIGH), axis=0)
    red, green, blue = (variances / max(float((standardised**2).sum()), 1e-300)).tolist()
    return Basis(mean, scale, directions, low, high, (red, green, blue))


def _principal(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first three principal directions (3, dim) of centred vectors (n, dim).

    And before them the sum of squares along each, (3,). They are the eigenvectors of the products
    of all pairs of channels; of fewer vectors than channels, they follow from those of the products
    of all pairs of vectors, which takes a tenth of the time of a singular value decomposition.
    """
    is_wide = len(vectors) < vectors.shape[1]
    products = vectors @ vectors.T if is_wide else vectors.T @ vectors
    values, sides = np.linalg.eigh(products)
    values, sides = values[::-1][:3], sides[:, ::-1][:, :3]
    rows = (vectors.T @ sides if is_wide else sides).T
    lengths = np.linalg.norm(rows, axis=1)
    real = values > EPSILON * max(float(values[0]), 1e-300)  # the others are rounding
    variances, directions = np.zeros(3), np.zeros((3, vectors.shape[1]))
    kept = np.flatnonzero(real)
    rows = rows[kept] / lengths[kept, None]
    signs = np.sign(rows[np.arange(len(kept)), np.abs(rows).argmax(axis=1)])
    directions[kept], variances[kept] = rows * signs[:, None], values[kept]
    return variances, directions


def sampled_basis(viewed: ViewedStore) -> Basis:
    """Return the basis of a store: of cells of BASIS_IMAGES images, the same at each call.

    A record that is corrupt or has NaN is left out.
    """
    random = np.random.default_rng(SEED)
    most = max(1, min(BASIS_CELLS, BASIS_NUMBERS // viewed.store.dim))
    ids = viewed.catalogue.with_record(BASIS_IMAGES, SEED)
    each = max(1, -(-most // max(1, len(ids))))
    parts: list[np.ndarray] = []
    for image_id in ids:
        try:
            values = viewed.store[image_id]
            cells = values[viewed.store.mask(image_id)].astype(np.float32)
        except CorruptStoreError:
            continue
        cells = cells[random.permutation(len(cells))[:each]]
        if np.isfinite(cells).all():
            parts.append(cells)
    if not parts:
        parts.append(np.zeros((1, viewed.store.dim), np.float32))
    return make_basis(np.concatenate(parts)[:most])


def colours(basis: Basis | None, grid: Grid, show: str) -> dict[str, Any]:
    """Return a grid as colours: `show` is "pca", for which there is a basis, or "channel:17".

    A channel is shown from black to white over its range in this grid. Raises StoreUsageError
    (E-VIEW-SHOW) for anything else.
    """
    if basis is not None:
        rgb = basis.colours(grid.cells)
        return {"rgb": rgb.tolist(), "range": None, "explained": [*basis.explained]}
    number = channel_number(show, grid.cells.shape[1])
    values = grid.cells[:, number].astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    with np.errstate(invalid="ignore"):
        share = np.nan_to_num((values - low) / max(high - low, 1e-12)).clip(0, 1)
    grey = (share * 255).round().astype(np.uint8)
    return {"rgb": np.repeat(grey[:, None], 3, axis=1).tolist(), "range": [low, high],
            "explained": None}  # fmt: skip


def channel_number(show: str, dim: int) -> int:
    """Return the channel of a text like "channel:17".

    >>> channel_number("channel:17", 2048)
    17
    """
    kind, _, digits = show.partition(":")
    if kind != "channel" or not (digits.isascii() and digits.isdigit() and len(digits) < 9):
        raise StoreUsageError(
            f"show must be pca or channel:NUMBER; got {show!r:.40}", code="E-VIEW-SHOW"
        )
    if int(digits) >= dim:
        raise StoreUsageError(
            f"show: the store has channels 0 to {dim - 1}; got {digits}", code="E-VIEW-SHOW"
        )
    return int(digits)
