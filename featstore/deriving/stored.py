"""Read records of a store as they are on disk, each proven by its sha256 in the index."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...base.errors import CorruptStoreError
from ...base.files import read_at
from ..geometry import GridShape
from ..identity import Identity
from ..layout import shard_path
from ..reading import kept_indexes
from ..shards import (
    ABSENT,
    Index,
    RecordHashes,
    as_bytes,
    decode_record,
    opened,
    read_index,
    zstd_bound,
)
from ..store import FeatureStore
from ..tables import IndexRow

Encoded = dict[str, bytes]  # the arrays of a record as they are on disk


class StoredRecords(ABC):
    """Reads records of one store as they are on disk; safe to share between threads."""

    def __init__(self, store: FeatureStore, remedy: str):
        """`remedy` is what errors say about a store whose bytes are wrong."""
        self.identity = store.identity
        self._location = store.location
        self._remedy = remedy
        self._lengths = store.metadata.grid_shapes
        self._shard_records = store.metadata.shard_records

    def read(self, rows: Sequence[IndexRow]) -> Generator[Encoded]:
        """Yield the record of each of these rows of the index, not decoded.

        Raises CorruptStoreError unless a record has the checksums and the sha256 of its row.
        """
        for row in rows:
            if not 0 <= row.row < self._lengths.get(row.shape, 0):
                problem = "the index refers to a row beyond its array"
                raise self._refused(row, problem, "E-TABLE-ROW")
        for row, encoded in zip(rows, self._encoded(rows), strict=True):
            record = encoded if _is_record(row, encoded) else self._again(row)
            if record is None or not _is_record(row, record):
                problem = "its sha256 is not the one in the index"
                raise self._refused(row, problem, "E-SHARD-HASH")
            yield record

    @abstractmethod
    def _encoded(self, rows: Sequence[IndexRow]) -> Iterator[Encoded]:
        """Yield the record of each row as the store has it now."""

    def _again(self, row: IndexRow) -> Encoded | None:
        """Return a wrong record as it is read once more, None where that would not differ."""
        return None

    def _shard_path(self, row: IndexRow, array: str) -> str:
        return shard_path(row.shape, array, row.row // self._shard_records)

    def _extent(self, row: IndexRow, array: str, index: Index) -> tuple[int, int]:
        """Return offset and length of an array of a record in its shard, which has this index."""
        offset, length = index[row.row % self._shard_records].tolist()
        if offset == ABSENT:
            raise CorruptStoreError(
                f"its {array} is absent, but its status is ok", code="E-SHARD-ABSENT"
            )
        size = self.identity.array(array, GridShape.parse(row.shape)).bytes
        if length > zstd_bound(size):
            raise CorruptStoreError(
                f"its {array} has {length:,} bytes, too many for {size:,} bytes of numbers",
                code="E-SHARD-FRAME",
            )
        return offset, length

    @contextmanager
    def _naming(self, row: IndexRow) -> Generator[None]:
        """Name the record in a CorruptStoreError."""
        try:
            yield
        except CorruptStoreError as error:
            raise self._refused(row, str(error), error.code) from None

    def _refused(self, row: IndexRow, problem: str, code: str) -> Exception:
        return CorruptStoreError(
            f"{self._location}: the record of image id {row.image_id!r:.100}: {problem}; "
            f"{self._remedy}",
            code=code,
        )


def _is_record(row: IndexRow, encoded: Encoded) -> bool:
    return RecordHashes.of(encoded.values()) == (row.checksum, row.record_sha256)


class LocalRecords(StoredRecords):
    """Reads records of a store on this machine, one after the other."""

    def __init__(self, store: FeatureStore):
        super().__init__(store, f"type: clipfeat store verify {store.path}")
        self._path = store.path
        self._index = lru_cache(kept_indexes(self._shard_records))(self._load_index)

    def _encoded(self, rows: Sequence[IndexRow]) -> Iterator[Encoded]:
        for row in rows:
            with self._naming(row):
                encoded = {name: self._read(row, name) for name in self.identity.arrays}
            yield encoded

    def _read(self, row: IndexRow, array: str) -> bytes:
        path = self._path / self._shard_path(row, array)
        offset, length = self._extent(row, array, self._index(path))
        with opened(str(path)) as descriptor:
            return read_at(descriptor, length, offset)

    def _load_index(self, path: Path) -> Index:
        with opened(str(path)) as descriptor:
            return read_index(descriptor, self._shard_records)


def decoded(identity: Identity, shape: GridShape, encoded: Encoded) -> dict[str, np.ndarray]:
    """Return the arrays of a record, {name: array}, with the numbers that are on disk.

    Those of a grid of uint8 are not turned into values. Raises CorruptStoreError for bytes that do
    not match their own checksum or have another length.
    """
    record: dict[str, np.ndarray] = {}
    for name, content in encoded.items():
        array = identity.array(name, shape)
        stored = np.empty([array.shape[k] for k in array.order], array.dtype)
        decode_record(identity.codec, content, None, as_bytes(stored), verify=True)
        record[name] = array.from_stored(stored)
    return record
