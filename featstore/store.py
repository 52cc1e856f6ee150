"""Open a store and read records by image id, in any order, at the speed of memory."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .checks import check_places, read_card
from .codecs import Buffer
from .errors import CorruptStoreError, MissingRecordError, StoreError
from .format import (
    INDEX_PARQUET,
    JOURNAL,
    SHARDS_PARQUET,
    STORE_JSON,
    GridShape,
    Identity,
    IndexRow,
    ShardRow,
    Status,
)
from .layout import Layout
from .shard_file import as_bytes, opened, read_index, read_record
from .shard_index import ABSENT, Index
from .tables import index_rows, read_shards
from .tables import read_index as read_index_table
from .zarr_metadata import metadata_files

MAX_READ_THREADS = 8


@dataclass(frozen=True)
class FeatureBatch:
    """The records of the ids asked for, in that order."""

    features: np.ndarray  # (image, cell, dim), dtype of the store, zeros in padding cells
    mask: np.ndarray  # (image, cell) bool, True where a cell is real
    grid_shapes: np.ndarray  # (image, 2) int64: rows, cols
    pooled: np.ndarray | None  # (image, dim), where the store has pooled vectors


@dataclass(frozen=True)
class _Place:
    """Where a record lies."""

    shard: ShardRow
    position: int  # in the shard
    out: Buffer  # where its bytes go


class FeatureStore:
    """A finished store, open for reading.

    Safe to share between threads, to inherit by fork and to send to a spawned process: no
    file stays open between reads.
    """

    def __init__(self, path: Path, card: dict[str, Any]):
        """Use `FeatureStore.open`."""
        self.path = path
        self.card = card
        self.identity = Identity.from_json(card["identity"])
        self.digest: str = card["digest"]
        self._shard_records: int = card["shard_records"]
        self._index = read_index_table(path / INDEX_PARQUET)
        self._shards = read_shards(path / SHARDS_PARQUET)
        check_places(path, self.identity, card, self._shards)
        self._shard_indexes: dict[str, Index] = {}

    @classmethod
    def open(cls, path: str | Path) -> "FeatureStore":
        """Return the store at `path`.

        Raises StoreError if there is none, if it is unfinished or of another format version,
        CorruptStoreError if its tables are not what was written.
        """
        path = Path(path)
        if not (path / STORE_JSON).is_file():
            if (path / JOURNAL).is_dir():
                raise StoreError(
                    f"{path} is unfinished: it has no {STORE_JSON}; "
                    f"run the same clipfeat extract command again to finish it"
                )
            what = "is no feature store" if path.exists() else "does not exist"
            raise StoreError(f"{path} {what}: expected a folder that holds {STORE_JSON}")
        return cls(path, read_card(path / STORE_JSON))

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureStore.open, (self.path,)

    @cached_property
    def _rows(self) -> dict[str, IndexRow]:
        rows = {row.image_id: row for row in index_rows(self._index)}
        if len(rows) != self._index.num_rows:
            raise CorruptStoreError(f"{self.path / INDEX_PARQUET}: an image id stands there twice")
        return rows

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids that have a record (status ok), sorted."""
        return tuple(i for i, row in self._rows.items() if row.status == Status.OK)

    @property
    def index(self) -> Iterable[IndexRow]:
        """Every id asked for, sorted, with its status and reason."""
        return self._rows.values()

    @property
    def shards(self) -> Sequence[ShardRow]:
        """The packing list: every file of features."""
        return self._shards

    @property
    def dim(self) -> int:
        """Channels of a cell."""
        return self.identity.dim

    @property
    def grid_shapes(self) -> tuple[GridShape, ...]:
        """The (rows, cols) that occur."""
        return tuple(map(GridShape.parse, self.card["grid_shapes"]))

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image_id: object) -> bool:
        row = self._rows.get(image_id) if isinstance(image_id, str) else None
        return row is not None and row.status == Status.OK

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Return the grid of one image: (row, col, dim), in the store's dtype.

        Raises MissingRecordError (a KeyError) for an id that has no record.
        """
        shape = GridShape.parse(self._row(image_id).shape)
        return self.read([image_id]).features.reshape(*shape, self.dim)

    def read(self, ids: Sequence[str]) -> FeatureBatch:
        """Return the records of `ids`, in that order, padded to the largest grid among them.

        Every record's checksum is verified. Raises MissingRecordError for an id without a
        record, CorruptStoreError for bytes that have changed.
        """
        rows = [self._row(image_id) for image_id in ids]
        shapes = [GridShape.parse(row.shape) for row in rows]
        grid_shapes = np.array(shapes, dtype=np.int64).reshape(-1, 2)
        counts = grid_shapes.prod(axis=1)
        cells = int(counts.max(initial=0))
        mask = np.arange(cells) < counts[:, None]
        identity = self.identity
        # Padding must be zeros; where there is none, clearing the memory first is wasted time.
        allocate = np.empty if mask.all() else np.zeros
        features = allocate((len(rows), cells, identity.dim), identity.numpy_dtype)
        self._fill("grid", rows, [f[:n] for f, n in zip(features, counts, strict=True)])
        pooled = None
        if identity.pooled_dim is not None:
            pooled = np.empty((len(rows), identity.pooled_dim), identity.numpy_dtype)
            self._fill("pooled", rows, list(pooled))
        return FeatureBatch(features, mask, grid_shapes, pooled)

    def zarr_metadata(self) -> dict[str, bytes]:
        """Return {path relative to the store: bytes} of every zarr.json it must have."""
        records = {GridShape.parse(shape): n for shape, n in self.card["grid_shapes"].items()}
        return metadata_files(self.identity, records, self._shard_records)

    def holds(self, layout: Layout) -> bool:
        """Return whether the store's ids, rows and shards are those of `layout`."""
        planned = {
            image_id: (str(shard.shape), shard.first_row + position)
            for shard in layout.shards
            for position, image_id in enumerate(shard.ids)
        }
        stored = {row.image_id: (row.shape, row.row) for row in self.index}
        return planned == stored and layout.shard_records == self._shard_records

    def _row(self, image_id: str) -> IndexRow:
        """Return the index row of an id that has a record."""
        row = self._rows.get(image_id)
        if row is None:
            example = f"; ids here look like {self.ids[0]!r}" if self.ids else ""
            raise MissingRecordError(f"{self.path} has no image id {image_id!r:.100}{example}")
        if row.shape not in self.card["grid_shapes"]:
            raise CorruptStoreError(f"{self.path}: {image_id!r} has no grid shape {row.shape:.20}")
        if row.status != Status.OK:
            raise MissingRecordError(
                f"image id {image_id!r} has no record in {self.path}: {row.status}, {row.reason}"
            )
        return row

    @cached_property
    def _shard_of(self) -> dict[tuple[str, str, int], ShardRow]:
        """{(array, shape, index of the shard in its array): shard}."""
        return {
            (shard.path.split("/")[-2], shard.shape, shard.first_row // self._shard_records): shard
            for shard in self._shards
        }

    def _fill(self, array: str, rows: list[IndexRow], outs: list[np.ndarray]) -> None:
        """Read the records of one array into `outs`, each shard's together, in file order."""
        by_shard: dict[str, list[_Place]] = {}
        for row, out in zip(rows, outs, strict=True):
            number, position = divmod(row.row, self._shard_records)
            shard = self._shard_of.get((array, row.shape, number))
            if shard is None:
                raise CorruptStoreError(
                    f"{self.path}: no shard of {row.shape}/{array} holds row {row.row} "
                    f"(image id {row.image_id!r}); type: clipfeat store verify {self.path}"
                )
            by_shard.setdefault(shard.path, []).append(_Place(shard, position, as_bytes(out)))
        if len(rows) == 1:
            self._read_places(*by_shard.values())
            return
        with ThreadPoolExecutor(min(MAX_READ_THREADS, os.cpu_count() or 1)) as threads:
            list(threads.map(self._read_places, by_shard.values()))

    def _read_places(self, places: list[_Place]) -> None:
        """Read records of one shard file."""
        shard = places[0].shard
        with opened(self.path / shard.path) as descriptor:
            index = self._shard_indexes.get(shard.path)
            if index is None:
                index = read_index(descriptor, shard, self._shard_records)
                self._shard_indexes[shard.path] = index
            for place in sorted(places, key=lambda place: int(index[place.position, 0])):
                offset, length = map(int, index[place.position])
                if offset == ABSENT:
                    raise CorruptStoreError(
                        f"{shard.path}: record {place.position} is absent, though its id is ok"
                    )
                try:
                    read_record(descriptor, offset, length, self.identity.codec, place.out)
                except CorruptStoreError as error:
                    raise CorruptStoreError(
                        f"{self.path / shard.path}: record {place.position}: {error}; "
                        f"type: clipfeat store verify {self.path}"
                    ) from None
