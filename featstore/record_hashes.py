"""The sha256 of each record, from the index: what protects records that are fetched alone."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..base.errors import CorruptStoreError
from ..base.parquet import joined_texts
from .lookup import SHAPE_BIT
from .metadata import StoreMetadata
from .shards import SHA_BYTES

HASH_COLUMNS = ("image_id", "shape", "row", "record_sha256")


class RecordHashTable:
    """The hashes of the records of a store: 8 bytes a record, and 16 for each of its arrays."""

    def __init__(self, index: Iterable[pa.RecordBatch], metadata: StoreMetadata):
        """`index` has HASH_COLUMNS; ids without a hash of each array are left out."""
        self._arrays = {name: number for number, name in enumerate(metadata.identity.arrays)}
        self._shapes = {shape: number for number, shape in enumerate(metadata.grid_shapes)}
        digits = 2 * SHA_BYTES * len(self._arrays)
        places, hashes = [np.zeros(0, np.int64)], [b""]
        for batch in index:
            lengths = pc.call_function("binary_length", [batch.column("record_sha256")])
            has_record = pc.call_function("equal", [lengths, digits])
            rows = batch.filter(has_record)
            numbers = pc.call_function(
                "index_in",
                [rows.column("shape")],
                pc.SetLookupOptions(pa.array(list(self._shapes), pa.string())),
            )
            shape = numbers.fill_null(len(self._shapes)).to_numpy().astype(np.int64)
            places.append(shape << SHAPE_BIT | rows.column("row").to_numpy())
            hashes.append(
                bytes.fromhex(joined_texts(rows.column("record_sha256")).to_pybytes().decode())
            )
        place = np.concatenate(places)
        order = np.argsort(place, kind="stable")
        self._places = place[order]
        size = SHA_BYTES * len(self._arrays)
        self._hashes = np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, size)[order]

    def compare(self, shape: str, row: int, array: str, encoded: bytes) -> None:
        """Raise CorruptStoreError unless the bytes of a record as stored are those of the index."""
        place = self._shapes[shape] << SHAPE_BIT | row
        at = int(np.searchsorted(self._places, place))
        if at == len(self._places) or self._places[at] != place:
            raise CorruptStoreError("has no sha256 in the index", code="E-SHARD-HASH")
        start = SHA_BYTES * self._arrays[array]
        expected = self._hashes[at, start : start + SHA_BYTES].tobytes()
        if hashlib.sha256(encoded).digest()[:SHA_BYTES] != expected:
            raise CorruptStoreError("its sha256 is not the one in the index", code="E-SHARD-HASH")
