"""What a sample of a store's records shows: channels, norms, cells by their place, a few grids."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from ...base.errors import CorruptStoreError
from ..geometry import GridShape
from ..reading import FeatureBatch
from ..report.colours import BASIS_IMAGES, ColourBasis, sampled_basis
from ..report.sample import SAMPLE_SEED, sample_rows
from ..report.stats import VectorStats
from ..store import FeatureStore
from ..tables import IndexRow
from .colours import shrunk
from .places import PlaceStats, PlaceSums

MOST_RECORDS = 512  # of the sample
MOST_NUMBERS = 1 << 26  # of the sample; at least one record is read
BLOCK_NUMBERS = 1 << 20  # in float64 at a time, or one record
MOST_PLACES = 1 << 16  # cells of a grid whose places are shown
MOST_SHAPES = 3  # grid shapes whose places are shown, the most frequent of the sample
SHOWN = 12  # images whose grids are shown


@dataclass(frozen=True)
class Unreadable:
    """A record of the sample that cannot be used, and why."""

    image_id: str
    reason: str


@dataclass(frozen=True)
class GridPicture:
    """The grid of an image as colours."""

    row: IndexRow
    shape: GridShape
    colours: np.ndarray  # (row, col, 3) uint8; of a large grid that is `shrunk`
    mask: np.ndarray  # (row, col) bool, False where the recipe has padded; as large as `colours`
    boxes: np.ndarray | None  # (row, 4) pixels: left, top, right, bottom; of regions


@dataclass(frozen=True)
class Survey:
    """The statistics of a sample of records; padding is left out of all of them."""

    records: int  # that were read
    total: int  # in the store
    grid: VectorStats | None  # over all cells; None if no record could be read
    pooled: VectorStats | None
    places: tuple[PlaceStats, ...]  # of the most frequent grid shapes of more than one cell
    basis: ColourBasis | None
    pictures: tuple[GridPicture, ...]
    unreadable: tuple[Unreadable, ...]
    sizes: tuple[tuple[int, int], ...]  # (width, height) of the sampled images, most frequent first


def survey(store: FeatureStore) -> Survey:
    """Return what a sample of records shows, and the records of it that cannot be used.

    The sample has at most MOST_RECORDS records and MOST_NUMBERS numbers, and SHOWN of its grids become
    pictures. A record with changed bytes, NaN or Inf is left out. Raises StoreError where a server
    fails, CorruptStoreError for an index that has changed.
    """
    rows = sample_rows(store, MOST_RECORDS, SAMPLE_SEED)
    coloured = [row.image_id for row in rows[:BASIS_IMAGES]]
    numbers = np.cumsum([GridShape.parse(row.shape).cells * store.dim for row in rows])
    rows = rows[: max(1, int(np.searchsorted(numbers, MOST_NUMBERS, side="right")))]
    return _Surveyor(store, rows).run(coloured)


class _Surveyor:
    """Reads a sample once, and adds it up."""

    def __init__(self, store: FeatureStore, rows: Sequence[IndexRow]):
        self._store, self._rows = store, rows
        self._unreadable: list[Unreadable] = []
        frequent = Counter(row.shape for row in rows).most_common(MOST_SHAPES)
        shapes = (GridShape.parse(shape) for shape, _ in frequent)
        has_places = not store.identity.regions
        self._places = {
            shape: PlaceSums.zeros_of(shape, store.dim)
            for shape in shapes
            if has_places and 1 < shape.cells <= MOST_PLACES
        }

    def run(self, coloured: Sequence[str]) -> Survey:
        """Return what the sample shows; `coloured` are the ids that decide the colours."""
        sums: dict[str, VectorStats] = {}
        records = 0
        for rows, batch in self._batches():
            records += len(rows)
            shape = GridShape(*batch.grid_shapes[0].tolist())
            if shape in self._places:
                self._places[shape].add(batch.features, batch.mask)
            _add(sums, "grid", batch.features[batch.mask])
            if batch.pooled is not None:
                _add(sums, "pooled", batch.pooled)
        failed = {each.image_id for each in self._unreadable}
        good = [row for row in self._rows if row.image_id not in failed]
        sizes = Counter((row.width, row.height) for row in good if row.width and row.height)
        basis = sampled_basis(self._store, coloured) if records else None
        return Survey(
            records=records,
            total=len(self._store),
            grid=sums.get("grid"),
            pooled=sums.get("pooled"),
            places=tuple(places.stats() for places in self._places.values() if places.images),
            basis=basis,
            pictures=tuple(self._picture(row, basis) for row in good[:SHOWN]) if basis else (),
            unreadable=tuple(self._unreadable),
            sizes=tuple(size for size, _ in sizes.most_common()),
        )

    def _batches(self) -> Iterator[tuple[list[IndexRow], FeatureBatch]]:
        """Yield the readable records of the sample, each batch of one grid shape."""
        by_shape: dict[str, list[IndexRow]] = {}
        for row in self._rows:
            by_shape.setdefault(row.shape, []).append(row)
        with tqdm(total=len(self._rows), desc="card", unit="image", disable=None) as bar:
            for shape, rows in by_shape.items():
                size = max(1, BLOCK_NUMBERS // (GridShape.parse(shape).cells * self._store.dim))
                for start in range(0, len(rows), size):
                    some = rows[start : start + size]
                    yield from self._readable(some)
                    bar.update(len(some))

    def _readable(self, rows: list[IndexRow]) -> Iterator[tuple[list[IndexRow], FeatureBatch]]:
        """Yield records in one batch, or if one of them cannot be used, one by one without it."""
        try:
            batch = self._store.read([row.image_id for row in rows])
            problem = None if _is_finite(batch) else "contains NaN or Inf"
        except CorruptStoreError as error:
            batch, problem = None, str(error)
        if batch is not None and problem is None:
            yield rows, batch
        elif len(rows) == 1:
            # Of a store on this machine, the text names its folder, which is nobody else's concern.
            text = str(problem).replace(f"{self._store.location}/", "")
            self._unreadable.append(Unreadable(rows[0].image_id, text.partition("; ")[0]))
        else:
            for row in rows:
                yield from self._readable([row])

    def _picture(self, row: IndexRow, basis: ColourBasis) -> GridPicture:
        batch = self._store.read([row.image_id])
        shape = GridShape(*batch.grid_shapes[0].tolist())
        grid, mask = batch.features[0].reshape(*shape, -1), batch.mask[0].reshape(shape)
        if batch.boxes is None:
            grid, mask = shrunk(grid), shrunk(mask)
        boxes = None if batch.boxes is None else batch.boxes[0].copy()
        return GridPicture(row, shape, basis.colours(grid.astype(np.float64)), mask.copy(), boxes)


def _is_finite(batch: FeatureBatch) -> bool:
    """Return whether all numbers of cells and pooled vectors are finite."""
    arrays: list[np.ndarray[Any, Any]] = [batch.features]
    arrays += [] if batch.pooled is None else [batch.pooled]
    return all(bool(np.isfinite(array).all()) for array in arrays)


def _add(sums: dict[str, VectorStats], array: str, vectors: np.ndarray) -> None:
    """Add vectors, (vector, channel), to the sums of an array."""
    if not len(vectors):
        return
    new = VectorStats.of(vectors.astype(np.float64))
    sums[array] = sums[array].merged(new) if array in sums else new
