"""A grid as colours: three principal directions that all images of a store share, or one channel."""

from typing import Any

import numpy as np

from ..base.errors import StoreUsageError
from ..featstore.report.colours import BASIS_IMAGES, ColourBasis, sampled_basis
from .records import Grid, ViewedStore


def store_basis(viewed: ViewedStore) -> ColourBasis:
    """Return the colours of a store, those of its card; all gray if no record can be read."""
    ids = viewed.catalogue.with_record(BASIS_IMAGES)
    basis = sampled_basis(viewed.store, ids)
    return basis or ColourBasis.of(np.zeros((1, viewed.store.dim)))


def colours(basis: ColourBasis | None, grid: Grid, show: str) -> dict[str, Any]:
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
