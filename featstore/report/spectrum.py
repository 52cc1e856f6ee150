"""A sample of a store's cells, and how their variance is spread over directions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...base.errors import ClipfeatError
from ..store import FeatureStore
from .moments import Covariance

MIN_RECORDS = 256  # of the sample, where there are so many: cells of one image resemble each other
CELLS_PER_CHANNEL = 20  # a covariance of dim channels needs several times dim cells
MIN_CELLS = 1 << 14  # of the sample: a channel's mean is known to about 1% of its std
BLOCK_NUMBERS = 1 << 22  # read at a time, or one record: 32 MiB as float64
MAX_COVARIANCE_DIM = 6144  # of a covariance: 300 MB, and some minutes on a few cores


def sampled_cells(store: FeatureStore, ids: Sequence[str], *, seed: int) -> Iterator[np.ndarray]:
    """Yield blocks of real cells, (cell, dim) float64, from a seeded sample of the records of `ids`.

    The sample has about CELLS_PER_CHANNEL * dim cells of at least MIN_RECORDS records, or all that
    `ids` have. Of each record at most an equal share of that is taken, at random, so that large
    grids do not dominate. Raises ClipfeatError (E-FEATURES-FINITE) for a record with NaN or
    infinity, and as `FeatureStore.read` does.
    """
    random = np.random.default_rng(seed)
    wanted = max(CELLS_PER_CHANNEL * store.dim, MIN_CELLS)
    most = -(-wanted // min(len(ids), MIN_RECORDS))  # cells of one record
    order = random.permutation(len(ids))
    cells = store.shapes(ids).prod(axis=1)
    reached = np.minimum(cells[order], most).cumsum()
    chosen = np.sort(order[: max(MIN_RECORDS, int(np.searchsorted(reached, wanted)) + 1)])
    at_a_time = max(1, BLOCK_NUMBERS // (int(cells[chosen].max()) * store.dim))
    for start in range(0, len(chosen), at_a_time):
        part = [ids[int(number)] for number in chosen[start : start + at_a_time]]
        batch = store.read(part)
        block: list[np.ndarray] = []
        for image_id, padded, mask in zip(part, batch.features, batch.mask, strict=True):
            grid = padded[mask]
            if not np.isfinite(grid).all():
                raise ClipfeatError(
                    f"{store.location}: the record of image id {image_id!r:.100} contains NaN or Inf; "
                    f"extract it again",
                    code="E-FEATURES-FINITE",
                )
            if len(grid) > most:
                grid = grid[random.choice(len(grid), most, replace=False)]
            block.append(grid)
        yield np.concatenate(block).astype(np.float64)


def principal_directions(covariance: Covariance) -> tuple[np.ndarray, np.ndarray]:
    """Return (variances, directions) of a covariance, the largest variance first.

    Variances are (direction,), at least 0; directions (channel, direction), of length 1 and
    orthogonal. The largest entry of each is positive, so that its sign does not depend on the
    machine.
    """
    variances, directions = np.linalg.eigh(covariance.matrix)
    return np.maximum(variances[::-1], 0), with_fixed_signs(directions)[:, ::-1]


def with_fixed_signs(directions: np.ndarray) -> np.ndarray:
    """Return directions, (channel, direction), each with the sign that makes its largest entry positive.

    The largest is that of the largest absolute value, the first of equal ones.
    """
    largest = np.abs(directions).argmax(axis=0)
    return directions * np.sign(directions[largest, np.arange(len(largest))])


FLOOR = 1e-4  # of the mean variance, added to that of each channel or direction


def standardised_share(covariance: np.ndarray) -> float:
    """Return the share of one direction in the variance of standardised channels.

    `covariance` is (dim, dim). The share is the largest eigenvalue of the correlation matrix over
    its trace: 1 / dim where channels are not correlated, 1 where all are the same up to a factor.
    FLOOR leaves dead channels near zero. Returns 0 where there is no variance.
    """
    variances = covariance.diagonal()
    if not variances.any():
        return 0.0
    std = np.sqrt(variances + FLOOR * variances.mean())
    correlations = covariance / std / std[:, None]
    return float(np.linalg.eigvalsh(correlations)[-1] / np.trace(correlations))


SHARES = (1, 10, 100)  # directions whose share of the variance is reported
CONDITION = 100  # directions that the condition number compares


@dataclass(frozen=True)
class Spectrum:
    """The variances of a sample of cells along their principal directions."""

    cells: int  # of the sample
    variances: np.ndarray  # (dim,) float64, the largest first; none is negative
    standardised: float  # share of one direction, after each channel is standardised

    @classmethod
    def of(cls, covariance: Covariance) -> "Spectrum":
        """Return the eigenvalues of a covariance; those within rounding of 0 are 0."""
        variances = np.linalg.eigvalsh(covariance.matrix)[::-1]
        rounding = len(variances) * np.finfo(np.float64).eps * variances[0]
        variances = np.where(variances > rounding, variances, 0.0)
        return cls(covariance.n, variances, standardised_share(covariance.matrix))

    def share(self, directions: int) -> float:
        """Return the part of the variance in the first `directions`; 0 where there is no variance."""
        total = self.variances.sum()
        return float(self.variances[:directions].sum() / total) if total else 0.0

    @property
    def condition(self) -> float:
        """The condition number of the covariance within the first CONDITION directions.

        It is the first variance over the CONDITION-th, or over the last of fewer; inf if that is 0.
        """
        last = self.variances[:CONDITION][-1]
        return float(self.variances[0] / last) if last else float("inf")

    def to_json(self) -> dict[str, Any]:
        """Return every number, for scripts; a condition that is infinite is None."""
        condition = self.condition
        return {
            "cells": self.cells,
            "variances": self.variances.tolist(),
            "standardised_share": self.standardised,
            "shares": {str(count): self.share(count) for count in SHARES},
            "condition": condition if np.isfinite(condition) else None,
        }


def store_spectrum(store: FeatureStore, *, seed: int = 0) -> Spectrum | None:
    """Return the spectrum of a sample of a store's cells; None above MAX_COVARIANCE_DIM channels.

    Raises as `sampled_cells` does.
    """
    if store.dim > MAX_COVARIANCE_DIM:
        return None
    return Spectrum.of(Covariance.of(sampled_cells(store, store.ids, seed=seed), store.dim))
