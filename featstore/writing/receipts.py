"""The receipt of a written shard: its files, and the rows of its ids by columns; checked in bulk."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...base.errors import StoreError
from ...base.parquet import MAX_TEXT
from ..geometry import GridShape
from ..identity import is_sha256
from ..layout import Ids, Shard
from ..lookup import Status
from ..metadata import MAX_IDS
from ..shards import CRC_BYTES, SHA_BYTES, ShardRow
from ..tables import HASH_DIGITS, INDEX_SCHEMA, IndexRow, are_hashes, has_record, index_batch

MAX_RECEIPT_BYTES = 1 << 29
MAX_LIBRARIES = 32  # that one process names
MAX_LIBRARY_TEXT = 100  # characters of a name or a version
CHECKED_BYTES = 1 << 21  # of receipts whose values are checked together
END_BYTES = 4  # of the number that says where a text ends
WIDTHS = [None if pa.types.is_string(t) else t.bit_width // 8 for t in INDEX_SCHEMA.types]  # bytes
# Of the columns that a record fills, for each of its arrays.
RECORD_DIGITS = {"checksum": 2 * CRC_BYTES, "record_sha256": 2 * SHA_BYTES}


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Proof that a shard was written: its files with their hashes, and the index rows of its ids."""

    shard: int  # its number in the plan
    files: tuple[ShardRow, ...]  # grid first
    columns: tuple[tuple[bytes, ...], ...]  # its rows of the index; see docs/store-format.md
    libraries: dict[str, str]  # of the process that wrote it: name to version

    def __post_init__(self) -> None:
        check_libraries(self.libraries)

    @classmethod
    def of(
        cls,
        shard: int,
        files: Iterable[ShardRow],
        rows: Iterable[IndexRow],
        libraries: Mapping[str, str],
    ) -> "Receipt":
        """Return the receipt of a shard with these rows of the index."""
        columns: list[tuple[bytes, ...]] = []
        for column in index_batch(rows).columns:
            _, *buffers = [buffer.to_pybytes() if buffer else b"" for buffer in column.buffers()]
            if len(buffers) == 2:  # texts: Arrow also states where the first one begins
                buffers[0] = buffers[0][END_BYTES:]
            columns.append(tuple(buffers))
        return cls(shard, tuple(files), tuple(columns), dict(libraries))

    @property
    def records(self) -> int:
        """The number of its rows of the index."""
        return len(self.columns[0][0]) // END_BYTES

    @property
    def size(self) -> int:
        """The bytes of its rows."""
        return sum(len(buffer) for buffers in self.columns for buffer in buffers)

    def has_whole_columns(self) -> bool:
        """Return whether each column has the buffers of so many values; texts are not looked at."""
        if len(self.columns) != len(INDEX_SCHEMA) or not self.columns[0]:
            return False
        records = self.records
        return all(
            len(buffers) == (2 if width is None else 1)
            and len(buffers[0]) == records * (width or END_BYTES)
            and (width or int.from_bytes(buffers[0][-END_BYTES:], "little") == len(buffers[1]))
            for buffers, width in zip(self.columns, WIDTHS, strict=True)
        )

    def is_of(self, shard: Shard, arrays: tuple[str, ...]) -> bool:
        """Return whether it has the files and the number of ids of `shard`."""
        place = (str(shard.shape), shard.first_row, shard.records)
        return (
            self.shard == shard.number
            and [(file.path, *file[3:]) for file in self.files]
            == [(shard.path(array), *place) for array in arrays]
            and all(0 <= file.bytes < 1 << 63 and is_sha256(file.sha256) for file in self.files)
            and self.records == len(shard.ids)
        )

    def to_bytes(self) -> bytes:
        """Return the bytes of the receipt; raises StoreError if they are more than readers take."""
        content = msgspec.msgpack.encode(self)
        limit = max_receipt_bytes(self.records)
        if len(content) > limit:
            raise StoreError(
                f"the receipt of shard {self.shard} would have {len(content):,} bytes, of "
                f"{limit:,} at most; choose smaller shards",
                code="E-RECEIPT-SIZE",
            )
        return content

    def described(self, ids: Ids, rows: np.ndarray, shard_records: int) -> Shard | None:
        """Return the shard with these ids and rows, None if no shard can have them."""
        if not self.files:
            return None
        _, _, _, text, first_row, records = self.files[0]
        try:
            shape = GridShape.parse(text)
        except StoreError:
            return None
        end = first_row + len(rows)
        if (
            not 0 <= first_row < MAX_IDS
            or first_row % shard_records
            or not 1 <= records <= shard_records
            or (rows[1:] <= rows[:-1]).any()
            or (len(rows) and not first_row <= rows[0] <= rows[-1] < first_row + records)
        ):
            return None
        numbers: Sequence[int] = range(first_row, end)
        if len(rows) and rows[-1] >= end:  # there are gaps
            numbers = tuple(rows.tolist())
        index = first_row // shard_records
        return Shard(self.shard, shape, index, first_row, records, ids, numbers)


def _column(name: str, receipts: Sequence[Receipt]) -> pa.Array:
    """Return a column of the index for the rows of some receipts, one after the other.

    Raises pa.ArrowInvalid for buffers that do not hold such values.
    """
    field = INDEX_SCHEMA.get_field_index(name)
    several = [receipt.columns[field] for receipt in receipts]
    buffers = [b"".join(parts) for parts in zip(*several, strict=True)]
    if len(buffers) == 2:
        ends = np.frombuffer(buffers[0], "<i4").astype(np.int64)
        starts = np.cumsum([0, *(len(texts) for _, texts in several[:-1])])
        ends += np.repeat(starts, [receipt.records for receipt in receipts])
        buffers[0] = np.concatenate([[0], ends]).astype("<i4").tobytes()
    rows = sum(receipt.records for receipt in receipts)
    kind = INDEX_SCHEMA.types[field]
    column = pa.Array.from_buffers(kind, rows, [None, *map(pa.py_buffer, buffers)])
    column.validate(full=True)
    return column


class Written(NamedTuple):
    """Some shards that are written, as their receipts prove."""

    shards: list[Shard]
    receipts: list[Receipt]  # of these
    rows: pa.RecordBatch  # of the index, of all of these


def written_shards(
    found: Iterable[tuple[Receipt, Shard | None]], shard_records: int, arrays: tuple[str, ...]
) -> Iterator[Written]:
    """Yield the shards that receipts prove, about CHECKED_BYTES of receipts at a time.

    A receipt with a shard must be of that shard; one without describes the shard that it is of.
    """
    held: list[tuple[Receipt, Shard | None]] = []
    size = 0
    for receipt, shard in found:
        held.append((receipt, shard))
        size += receipt.size
        if size >= CHECKED_BYTES:
            yield from _proven(held, shard_records, arrays)
            held, size = [], 0
    if held:
        yield from _proven(held, shard_records, arrays)


def _proven(
    several: list[tuple[Receipt, Shard | None]], shard_records: int, arrays: tuple[str, ...]
) -> Iterator[Written]:
    """Yield the shards of some receipts: of all at once, or of each alone if one is wrong."""
    written = _checked(several, shard_records, arrays)
    if written is not None:
        yield written
    elif len(several) > 1:
        for each in several:
            yield from _proven([each], shard_records, arrays)


def _checked(
    several: list[tuple[Receipt, Shard | None]], shard_records: int, arrays: tuple[str, ...]
) -> Written | None:
    """Return the shards of some receipts, None if one of them proves nothing."""
    receipts = [receipt for receipt, _ in several]
    try:
        columns = [_column(name, receipts) for name in INDEX_SCHEMA.names]
    except pa.ArrowInvalid:
        return None
    rows = pa.RecordBatch.from_arrays(columns, schema=INDEX_SCHEMA)
    ids, numbers = rows.column("image_id"), rows.column("row").to_numpy()
    shards: list[Shard] = []
    end = 0
    for receipt, planned in several:
        start, end = end, end + receipt.records
        shard = receipt.described(Ids(ids[start:end]), numbers[start:end], shard_records)
        if shard is None or not receipt.is_of(planned or shard, arrays):
            return None
        if planned is not None and not planned.has_same_records(shard):
            return None
        shards.append(planned or shard)
    shapes = pa.array([str(shard.shape) for shard in shards], pa.string())
    of_rows = np.repeat(np.arange(len(shards)), [receipt.records for receipt in receipts])
    if not rows.column("shape").equals(shapes.take(pa.array(of_rows))):
        return None
    return Written(shards, receipts, rows) if fits_index(rows, len(arrays)) else None


def fits_index(rows: pa.RecordBatch, arrays: int) -> bool:
    """Return whether the index of a store with so many arrays can have these rows."""
    status = rows.column("status")
    statuses = pa.array([status.value for status in Status], pa.string())  # here: it imports pandas
    is_known = pc.call_function("is_in", [status], pc.SetLookupOptions(statuses))
    has_digits = has_record(rows).to_numpy(zero_copy_only=False)
    fits = is_known.to_numpy(zero_copy_only=False).all()
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        if not pa.types.is_string(column.type):
            fits &= (column.to_numpy() >= 0).all()
            continue
        lengths = pc.call_function("binary_length", [column]).to_numpy()
        fits &= (lengths <= MAX_TEXT).all()
        if name in RECORD_DIGITS:
            fits &= (lengths == RECORD_DIGITS[name] * arrays * has_digits).all()
        if name in HASH_DIGITS:
            fits &= are_hashes(name, column)
    return bool(fits)


def max_receipt_bytes(records: int) -> int:
    """Return the largest size of a receipt of so many records, in bytes.

    Three texts of a record have at most MAX_TEXT bytes each, everything else has a few hundred.
    """
    return min(MAX_RECEIPT_BYTES, (1 << 20) + (records << 14))


def check_libraries(libraries: Mapping[str, Any]) -> None:
    """Raise ValueError unless these are names and versions of libraries that a receipt can hold."""
    texts: list[Any] = [*libraries, *libraries.values()]
    if len(libraries) > MAX_LIBRARIES or not all(
        isinstance(text, str) and 1 <= len(text) <= MAX_LIBRARY_TEXT and text.isprintable()
        for text in texts
    ):
        raise ValueError(
            f"expected at most {MAX_LIBRARIES} libraries, names and versions of 1 to "
            f"{MAX_LIBRARY_TEXT} printable characters; got {libraries!r:.200}"
        )
