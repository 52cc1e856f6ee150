"""Measure the bounds of a store's channels, and how much another store differs from it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from ...base.errors import StoreError
from ..metadata import Loss
from ..store import FeatureStore
from ..writing.describe import set_loss
from .derive import in_parallel

CHUNK = 16  # records in memory at a time, in each thread
# The square of the smallest float16 above 0 is larger; 0 / 0 is avoided.
TINY = 1e-300
FLOAT16_MAX = float(np.finfo(np.float16).max)

Result = TypeVar("Result")


def measure_bounds(store: FeatureStore) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest number of each channel over all records, (dim,) float32.

    Both are 0 in a store without records. Raises StoreError for a number beyond float16, which
    readers of 8 bits get.
    """
    low = np.full(store.dim, np.inf, np.float32)
    high = -low
    for lowest, highest in _over_records(store, "bounds", partial(_bounds, store)):
        low, high = np.minimum(low, lowest), np.maximum(high, highest)
    if not len(store):
        return np.zeros_like(low), np.zeros_like(low)
    largest = np.maximum(np.abs(low), np.abs(high)).max()
    if not largest <= FLOAT16_MAX:  # NaN is not, either
        raise StoreError(
            f"a number of {largest:.4g} is beyond float16, which readers of uint8 get; "
            f"choose float32",
            code="E-STORE-RANGE",
        )
    return low, high


def _bounds(store: FeatureStore, ids: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    cells = _cells(store, ids)
    return cells.min(axis=0).astype(np.float32), cells.max(axis=0).astype(np.float32)


def add_loss(source: FeatureStore, store: FeatureStore) -> FeatureStore:
    """Measure how much the grids of `store` differ from those of `source`; return it with the loss.

    What readers get is compared, cell by cell, over all records. The overall numbers are written to
    store.json, those of each channel to a document. A loss that is known stays.
    """
    if store.metadata.loss is not None:
        return store
    sums = _Sums.zeros(store.dim)
    for some in _over_records(store, "loss", partial(_differences, source, store)):
        sums = sums + some
    set_loss(store.path, sums.loss(), sums.table())
    return FeatureStore.open(store.path)


class _Sums(NamedTuple):
    """Sums over cells, x being the original and y the same as readers get it; arrays are (dim,)."""

    error: np.ndarray  # squares of x - y
    size: np.ndarray  # squares of x
    largest: np.ndarray  # |x - y|
    cells: int
    cosine: float  # of the cells whose x is not 0
    nonzero_cells: int

    @classmethod
    def zeros(cls, dim: int) -> "_Sums":
        return cls(np.zeros(dim), np.zeros(dim), np.zeros(dim), 0, 0.0, 0)

    def __add__(self, other: "_Sums") -> "_Sums":  # type: ignore[override]
        return _Sums(
            self.error + other.error,
            self.size + other.size,
            np.maximum(self.largest, other.largest),
            self.cells + other.cells,
            self.cosine + other.cosine,
            self.nonzero_cells + other.nonzero_cells,
        )

    def loss(self) -> Loss:
        size, cells = float(self.size.sum()), self.nonzero_cells
        return Loss(
            cosine_distance=min(2.0, max(0.0, 1 - self.cosine / cells)) if cells else 0.0,
            relative_l2=float(np.sqrt(self.error.sum() / size)) if size else 0.0,
            largest=float(self.largest.max()),
        )

    def table(self) -> bytes:
        """Return the numbers of each channel as CSV."""
        cells = max(self.cells, 1)
        columns = (np.sqrt(self.size / cells), np.sqrt(self.error / cells), self.largest)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        lines = [f"{k},{a:.6g},{b:.6g},{c:.6g}\n" for k, (a, b, c) in enumerate(rows)]
        return "".join(["channel,rms,rms_error,largest_error\n", *lines]).encode()


def _differences(source: FeatureStore, store: FeatureStore, ids: tuple[str, ...]) -> _Sums:
    x, y = (_cells(each, ids).astype(np.float64) for each in (source, store))
    difference = x - y
    xx, yy, xy = (np.einsum("cd,cd->c", a, b) for a, b in ((x, x), (y, y), (x, y)))
    real = xx > 0
    return _Sums(
        error=np.einsum("cd,cd->d", difference, difference),
        size=np.einsum("cd,cd->d", x, x),
        largest=np.abs(difference).max(axis=0),
        cells=len(x),
        cosine=float((xy[real] / np.sqrt(xx[real] * np.maximum(yy[real], TINY))).sum()),
        nonzero_cells=int(real.sum()),
    )


def _over_records(
    store: FeatureStore, label: str, call: Callable[[tuple[str, ...]], Result]
) -> Iterator[Result]:
    """Yield what `call` returns for a few ids after another, of all that have a record."""
    ids = store.ids
    chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
    with tqdm(total=len(ids), desc=label, unit="image", disable=None) as bar:
        for some, result in zip(chunks, in_parallel(call, chunks), strict=True):
            bar.update(len(some))
            yield result


def _cells(store: FeatureStore, ids: tuple[str, ...]) -> np.ndarray:
    """Return the cells (cell, dim) of some records, one record after the other."""
    counts: list[int] = store.shapes(ids).prod(axis=1).tolist()
    records = zip(store.read(ids).features, counts, strict=True)
    return np.concatenate([record[:cells] for record, cells in records])
