"""Read records of a store as they lie on disk, each proven by its sha256 in the index."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from ...base.errors import CorruptStoreError
from ...base.files import read_at
from ..geometry import GridShape
from ..identity import Identity
from ..layout import shard_path
from ..reading import INDEX_CACHE_BYTES
from ..shards import (
    ABSENT,
    Index,
    RecordHashes,
    as_bytes,
    decode,
    index_bytes,
    opened,
    read_index,
    zstd_bound,
)
from ..store import FeatureStore
from ..tables import IndexRow


class StoredRecords:
    """Reads records of one store as they lie on disk; safe to share between threads."""

    def __init__(self, store: FeatureStore):
        self._path = store.path
        self._identity = store.identity
        self._lengths = store.metadata.grid_shapes
        self._shard_records = store.metadata.shard_records
        size = max(16, INDEX_CACHE_BYTES // index_bytes(self._shard_records))
        self._index = lru_cache(size)(self._load_index)

    def read(self, row: IndexRow) -> dict[str, bytes]:
        """Return the arrays of the record of a row of the index, {name: bytes}, not decoded.

        Raises CorruptStoreError unless they have the checksums and the sha256 of the row.
        """
        if not 0 <= row.row < self._lengths.get(row.shape, 0):
            raise self._refused(row, "the index refers to a row beyond its array")
        try:
            encoded = {name: self._read(row, name) for name in self._identity.arrays}
        except CorruptStoreError as error:
            raise self._refused(row, str(error), error.code) from None
        if RecordHashes.of(encoded.values()) != (row.checksum, row.record_sha256):
            raise self._refused(row, "its sha256 is not the one in the index")
        return encoded

    def _read(self, row: IndexRow, array: str) -> bytes:
        number, position = divmod(row.row, self._shard_records)
        path = self._path / shard_path(row.shape, array, number)
        offset, length = self._index(path)[position].tolist()
        if offset == ABSENT:
            raise CorruptStoreError(
                f"its {array} is absent, but its status is ok", code="E-SHARD-ABSENT"
            )
        size = self._identity.array(array, GridShape.parse(row.shape)).bytes
        if length > zstd_bound(size):
            raise CorruptStoreError(
                f"its {array} has {length:,} bytes, too many for {size:,} bytes of numbers",
                code="E-SHARD-FRAME",
            )
        with opened(str(path)) as descriptor:
            return read_at(descriptor, length, offset)

    def _load_index(self, path: Path) -> Index:
        with opened(str(path)) as descriptor:
            return read_index(descriptor, self._shard_records)

    def _refused(self, row: IndexRow, problem: str, code: str = "E-SHARD-DATA") -> Exception:
        return CorruptStoreError(
            f"{self._path}: the record of image id {row.image_id!r:.100}: {problem}; "
            f"type: clipfeat store verify {self._path}",
            code=code,
        )


def decode_record(
    identity: Identity, shape: GridShape, encoded: dict[str, bytes]
) -> dict[str, np.ndarray]:
    """Return the arrays of a record, {name: array}, with the numbers that are on disk.

    Those of a grid of uint8 are not turned into values. Raises CorruptStoreError for bytes that do
    not match their own checksum or have another length.
    """
    record: dict[str, np.ndarray] = {}
    for name, content in encoded.items():
        array = identity.array(name, shape)
        stored = np.empty([array.shape[k] for k in array.order], array.dtype)
        decode(identity.codec, content, as_bytes(stored))
        record[name] = array.from_stored(stored)
    return record
