"""Measure the bounds of a store's channels, and how much another store differs from it."""

from collections.abc import Callable, Iterator
from functools import partial, reduce
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from ...base.errors import StoreError
from ..metadata import Loss
from ..store import FeatureStore
from ..writing.describe import set_loss
from .derive import in_parallel
from .numbers import widened

CHUNK = 8  # records in memory at a time, in each thread
FLOAT16_MAX = float(np.finfo(np.float16).max)

Result = TypeVar("Result")


def measure_bounds(store: FeatureStore) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest number of each channel over all records, (dim,).

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
    low = np.full(store.dim, np.inf, np.float32)
    high = -low
    for cells in _cells(store, ids):
        low, high = np.minimum(low, cells.min(axis=0)), np.maximum(high, cells.max(axis=0))
    return low, high


def add_loss(source: FeatureStore, store: FeatureStore) -> FeatureStore:
    """Measure how much the grids of `store` differ from those of `source`; return it with the loss.

    What readers get is compared, cell by cell, over all records. The overall numbers are written to
    store.json, those of each channel to a document. A loss that is known stays.
    """
    if store.metadata.loss is not None:
        return store
    sums = _Sums.zeros(store.dim)
    for some in _over_records(store, "loss", partial(_differences, source, store)):
        sums = sums.plus(some)
    if not np.isfinite([*sums.error, sums.size.sum()]).all():
        raise StoreError(
            f"{source.location}: a record contains NaN or Inf; type: clipfeat store verify --deep "
            f"{source.location}",
            code="E-STORE-NUMBERS",
        )
    set_loss(store.path, sums.loss(), sums.table())
    return FeatureStore.open(store.path)


class _Sums(NamedTuple):
    """Sums over cells, x being the original and y the same as readers get it; arrays are (dim,)."""

    error: np.ndarray  # squares of x - y
    size: np.ndarray  # squares of x
    largest: np.ndarray  # |x - y|
    cells: int
    distance: float  # 1 - cos(x, y), of the cells whose x is not 0
    nonzero_cells: int

    @classmethod
    def zeros(cls, dim: int) -> "_Sums":
        return cls(np.zeros(dim), np.zeros(dim), np.zeros(dim), 0, 0.0, 0)

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> "_Sums":
        """Return the sums over the cells (cell, dim) of one record.

        The distance is (|x - y|^2 - (|x| - |y|)^2) / (2 |x| |y|), which equals 1 - cos, but is not
        the difference of two numbers near 1, for which float32 is not precise enough.
        """
        difference = x - y
        xx, yy, dd = (_squares(cells, "c") for cells in (x, y, difference))
        real = xx > 0
        norm_x, norm_y, dd = np.sqrt(xx[real]), np.sqrt(yy[real]), dd[real]
        product = 2 * norm_x * norm_y
        distance = np.ones_like(product)  # of a cell whose y is 0
        np.divide(dd - (norm_x - norm_y) ** 2, product, out=distance, where=product > 0)
        return cls(
            error=_squares(difference, "d"),
            size=_squares(x, "d"),
            largest=np.abs(difference).max(axis=0).astype(np.float64),
            cells=len(x),
            distance=float(distance.sum()),
            nonzero_cells=int(real.sum()),
        )

    def plus(self, other: "_Sums") -> "_Sums":
        """Return the sums over the cells of both."""
        return _Sums(
            self.error + other.error,
            self.size + other.size,
            np.maximum(self.largest, other.largest),
            self.cells + other.cells,
            self.distance + other.distance,
            self.nonzero_cells + other.nonzero_cells,
        )

    def loss(self) -> Loss:
        """Return the numbers over all channels."""
        size, cells = float(self.size.sum()), self.nonzero_cells
        return Loss(
            cosine_distance=min(2.0, max(0.0, self.distance / cells)) if cells else 0.0,
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


def _squares(cells: np.ndarray, of: Literal["c", "d"]) -> np.ndarray:
    """Return the sum of squares of each cell or of each channel, of (cell, dim), as float64."""
    return np.einsum(f"cd,cd->{of}", cells, cells).astype(np.float64)


def _differences(source: FeatureStore, store: FeatureStore, ids: tuple[str, ...]) -> _Sums:
    pairs = zip(_cells(source, ids), _cells(store, ids), strict=True)
    return reduce(_Sums.plus, (_Sums.of(x, y) for x, y in pairs))


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


def _cells(store: FeatureStore, ids: tuple[str, ...]) -> Iterator[np.ndarray]:
    """Yield the cells (cell, dim) of each record, which lie in memory as they do on disk.

    Float16 is widened to float32, and float32 to float64, so that squares do not overflow.
    """
    counts: list[int] = store.shapes(ids).prod(axis=1).tolist()
    is_first = store.identity.order == "channels_first"
    records = store.read(ids, channels_first=is_first).features
    for record, cells in zip(records, counts, strict=True):
        numbers = widened(record) if record.dtype == np.float16 else record.astype(np.float64)
        yield numbers.T[:cells] if is_first else numbers[:cells]
