"""The records that every format stores: grids with the zeros of a rectified layer."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from clipfeat.featstore import GridShape

# Two thirds of a standard normal lie below this: what a rectified layer sets to zero.
ZEROS_BELOW = 0.43
# What the cells of a channel share in one image, and the rows and columns of its grid. With these, zstd
# makes 0.220 of float32 of a 14x14x2048 grid with the channels last, 0.165 with the channels first. A
# RN50 of random weights on photographs at caption448 gives 0.216 and 0.163, where two thirds of its
# numbers are made zero (docs/log.md, 2026-11-28). Independent numbers would give 0.223 in both orders.
CHANNEL, PLACE = 0.95, 0.3


@dataclass(frozen=True)
class Kind:
    """One kind of record, and how many of them a benchmark reads unless told otherwise."""

    name: str
    title: str
    shape: GridShape
    dim: int
    count: int


KINDS = {
    "A": Kind("A", "RN50x4 caption grids", GridShape(14, 14), 2560, 1024),
    "B": Kind("B", "RN50 grids of large pictures", GridShape(18, 31), 2048, 512),
}


@dataclass(frozen=True)
class Records:
    """The records, in memory, so that no writer is timed while it makes them."""

    kind: Kind
    grids: np.ndarray  # (record, row, col, dim) float16
    ids: Sequence[str]  # of the rows; sorted as the rows are

    @property
    def record_shape(self) -> tuple[int, int, int]:
        """(row, col, dim) of one record."""
        rows, cols = self.kind.shape
        return rows, cols, self.kind.dim

    @cached_property
    def _rounding(self) -> np.ndarray:
        """What float16 rounds away, as factors for one record: less than half a unit in its
        last place, so that a product rounds back to the same float16."""
        noise = np.random.default_rng(0).uniform(-1, 1, self.record_shape) * 2**-12.5
        return (1 + noise).astype(np.float32)

    def unrounded(self, grid: np.ndarray) -> np.ndarray:
        """Return float32 values as a model gives them, which round to a grid of the records.

        The grid itself as float32 would end in zero bits, which no model's output does, and
        compress far better than what is really stored.
        """
        return grid * self._rounding

    def __len__(self) -> int:
        return len(self.ids)


def rectified_grid(seed: int, shape: GridShape, dim: int) -> np.ndarray:
    """Return a grid (row, col, dim) float16 like one of a ResNet; two thirds are zero."""
    draw = partial(np.random.default_rng(seed).standard_normal, dtype=np.float32)
    place = draw((shape.rows, 1, dim)) + draw((1, shape.cols, dim))
    own = math.sqrt(1 - CHANNEL**2 - PLACE**2) * draw((*shape, dim))
    normal = CHANNEL * draw(dim) + PLACE / math.sqrt(2) * place + own
    return np.maximum(normal - ZEROS_BELOW, 0).astype(np.float16)


def make_records(kind: Kind, count: int) -> Records:
    """Return `count` records of a kind; the same ones every time."""
    grids = np.empty((count, *kind.shape, kind.dim), np.float16)

    def make(row: int) -> None:
        grids[row] = rectified_grid(row, kind.shape, kind.dim)

    with ThreadPoolExecutor() as threads:
        list(threads.map(make, range(count)))
    return Records(kind, grids, tuple(f"{row:06}" for row in range(count)))
