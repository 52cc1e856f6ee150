"""What the cells of a grid have in common by their place: their norms, and their mean vectors."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from ..geometry import GridShape

MOST_MEAN_NUMBERS = 1 << 23  # of the mean vectors of all places: 64 MB


@dataclass(frozen=True)
class PlaceStats:
    """The cells of one grid shape by their place; maps are (row, col), NaN where no image has a cell."""

    shape: GridShape
    images: int
    norm: np.ndarray  # mean of the L2 norm over images
    spread: np.ndarray  # standard deviation of the norm over images
    zero: np.ndarray  # share of images in which the cell is 0 in every channel
    bias: "Bias | None"  # None where the mean vectors would take too much memory

    @property
    def dead(self) -> list[tuple[int, int]]:
        """The places (row, col) whose cells are 0 in every image."""
        return [(int(row), int(col)) for row, col in np.argwhere(self.zero == 1)]


@dataclass(frozen=True)
class Bias:
    """How much the mean vectors of places differ."""

    distance: np.ndarray  # (row, col), of the place's mean vector from that of all cells
    share: float  # of the variance of cells that lies between the places, 0 to 1
    chance: float  # the share to expect if features did not depend on the place


@dataclass
class PlaceSums:
    """Sums over images of one grid shape; arrays are (cell,)."""

    shape: GridShape
    images: int
    count: np.ndarray  # images in which the cell is not padding
    norms: np.ndarray
    squares: np.ndarray  # of the norms
    zeros: np.ndarray
    vectors: np.ndarray | None  # (cell, channel); None where they would take too much memory

    @classmethod
    def zeros_of(cls, shape: GridShape, dim: int) -> Self:
        """Return the sums over no image."""
        n = shape.cells
        vectors = np.zeros((n, dim)) if n * dim <= MOST_MEAN_NUMBERS else None
        return cls(shape, 0, np.zeros(n, int), np.zeros(n), np.zeros(n), np.zeros(n, int), vectors)

    def add(self, features: np.ndarray, mask: np.ndarray) -> None:
        """Add the grids of some images, (image, cell, channel); `mask` is false where they padded."""
        self.images += len(features)
        for cells, is_real in zip(features.astype(np.float64), mask, strict=True):
            norms = np.where(is_real, np.sqrt(np.einsum("vc,vc->v", cells, cells)), 0.0)
            self.count += is_real
            self.norms += norms
            self.squares += norms**2
            self.zeros += is_real & (norms == 0)
            if self.vectors is not None:
                self.vectors[is_real] += cells[is_real]

    def stats(self) -> PlaceStats:
        """Return what the sums show."""
        count = np.where(self.count, self.count, np.nan)
        mean = self.norms / count
        spread = np.sqrt(np.maximum(self.squares / count - mean**2, 0))
        zero = self.zeros / count
        norm, spread, zero = (each.reshape(self.shape) for each in (mean, spread, zero))
        return PlaceStats(self.shape, self.images, norm, spread, zero, self._bias())

    def _bias(self) -> Bias | None:
        """Return how much the mean vectors differ, None where they are not known."""
        if self.vectors is None:
            return None
        real, cells = self.count > 0, int(self.count.sum())
        means = self.vectors[real] / self.count[real, None]
        weights = self.count[real] / cells
        centre = weights @ means
        distance = np.full(len(real), np.nan)
        distance[real] = np.linalg.norm(means - centre, axis=1)
        between = float(weights @ distance[real] ** 2)
        total = float(self.squares.sum() / cells - centre @ centre)  # variance over all channels
        share = min(1.0, between / total) if total > 0 else 0.0
        # Of independent cells: the sums of squares are as their degrees of freedom.
        chance = (len(means) - 1) / max(1, cells - 1)
        return Bias(distance.reshape(self.shape), share, chance)
