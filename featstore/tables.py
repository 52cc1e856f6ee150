"""index.parquet and shards.parquet: written, read back with all checks, and summed up for people."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..base.errors import CorruptStoreError
from ..base.files import atomic_file, sha256_file
from ..base.parquet import as_batch, joined_texts, read_batches, rows_of, write_batches, write_rows
from ..base.text import printable
from .geometry import GridShape
from .layout import RECORD_DIMS, SHARD_PATH, check_plain, shard_path
from .lookup import Status
from .metadata import StoreMetadata
from .shards import ShardRow, index_bytes, zstd_bound

INDEX_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("shape", pa.string()),
        ("row", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("source_sha256", pa.string()),
        ("source", pa.string()),
        ("checksum", pa.string()),
        ("record_sha256", pa.string()),
    ]
)
SHARDS_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("shape", pa.string()),
        ("first_row", pa.int64()),
        ("records", pa.int64()),
    ]
)

TABLE_BYTES, ROW_BYTES = 1 << 26, 1 << 15  # that a table, and each row of it, may take on disk
JSON_SAFE = bytes(set(range(0x20, 0x7F)) - set(b'"\\'))  # characters that JSON leaves as they are
HASH_DIGITS = {  # columns of both tables that hold hashes: how many hex digits a text may have
    "source_sha256": range(0, 65, 64),
    "checksum": range(0, 8 * len(RECORD_DIMS) + 1, 8),
    "record_sha256": range(0, 32 * len(RECORD_DIMS) + 1, 32),
    "sha256": range(64, 65),
}
FROM_SOURCE = "copy it again from its source"


class IndexRow(NamedTuple):
    """One image id, with or without a record, as a row of index.parquet."""

    image_id: str
    status: str
    reason: str
    shape: str
    row: int  # in the array of its shape
    width: int  # pixels of the source image, 0 where it could not be read
    height: int
    source_sha256: str  # of the source file's bytes, "" where it could not be read
    source: str  # path relative to the image root
    # Of its grid as stored, then of each other array, as hex digits; "" without a record:
    checksum: str = ""  # the last 4 bytes
    record_sha256: str = ""  # the first 16 bytes of the sha256


def index_batch(rows: Iterable[IndexRow]) -> pa.RecordBatch:
    """Return rows of the index as columns."""
    return as_batch(INDEX_SCHEMA, rows)


def index_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[IndexRow]:
    """Yield columns of the index as rows."""
    for batch in batches:
        yield from map(IndexRow._make, rows_of(batch))


def write_index(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Write the index; rows come sorted by image id."""
    with atomic_file(path) as file:
        write_batches(file, INDEX_SCHEMA, batches)


def write_shards(path: Path, rows: Iterable[ShardRow]) -> None:
    """Write the packing list; rows come sorted by path."""
    with atomic_file(path) as file:
        write_rows(file, SHARDS_SCHEMA, rows)


def read_index(
    path: Path, sha256: str, ids: int, names: tuple[str, ...] = (), *, shown: str = ""
) -> Iterator[pa.RecordBatch]:
    """Yield an index of `ids` ids, whose file has this sha256: all columns, or those of `names`.

    `names` begin with image_id. Errors call the file `shown`, or else by its path. Raises
    CorruptStoreError for another file, for ids that are not sorted or not unique, and for columns
    of hashes that hold other texts.
    """
    return _read(path, INDEX_SCHEMA, sha256, range(ids, ids + 1), names, shown or str(path))


def most_shards(metadata: StoreMetadata) -> int:
    """Return how many rows the packing list of a store may have."""
    shards = sum(-(-length // metadata.shard_records) for length in metadata.grid_shapes.values())
    return shards * len(metadata.identity.arrays)


def read_shards(path: Path, metadata: StoreMetadata, *, shown: str = "") -> list[ShardRow]:
    """Return the packing list of a store; errors call its file `shown`, or else by its path.

    Raises CorruptStoreError as `read_index` does, for paths instead of ids, and unless paths and
    rows follow from each other: a store from elsewhere may name any file, give one shard
    another's place, or claim a size that takes days to read.
    """
    shown = shown or str(path)
    counts = range(most_shards(metadata) + 1)
    sha256 = metadata.tables["shards"]
    shards: list[ShardRow] = []
    for batch in _read(path, SHARDS_SCHEMA, sha256, counts, (), shown):
        for shard in map(ShardRow._make, rows_of(batch)):
            if not _is_possible(shard, metadata):
                raise CorruptStoreError(
                    f"{shown}: {shard.path!r:.200} cannot be the shard of {shard.records} records "
                    f"of {shard.shape!r:.20} from row {shard.first_row}, {shard.bytes} bytes; "
                    f"{FROM_SOURCE}",
                    code="E-TABLE-SHARD",
                )
            shards.append(shard)
    return shards


def _is_possible(shard: ShardRow, metadata: StoreMetadata) -> bool:
    """Return whether the values of a row of the packing list fit each other and the store."""
    match = SHARD_PATH.fullmatch(shard.path)
    length = metadata.grid_shapes.get(shard.shape, 0)
    if match is None or match["shape"] != shard.shape or not length:
        return False
    number, array = int(match["number"]), match["array"]
    return (
        shard.path == shard_path(shard.shape, array, number)
        and array in metadata.identity.arrays
        and shard.first_row == number * metadata.shard_records
        and 1 <= shard.records <= metadata.shard_records
        and shard.first_row + shard.records <= length
        and shard.bytes in _possible_bytes(shard, array, metadata)
    )


def _possible_bytes(shard: ShardRow, array: str, metadata: StoreMetadata) -> range:
    """Return the sizes that an honest shard may have."""
    index = index_bytes(metadata.shard_records)
    record = zstd_bound(metadata.identity.array(array, GridShape.parse(shard.shape)).bytes)
    return range(index, index + shard.records * record + 1)


def most_table_bytes(rows: int) -> int:
    """Return the largest size of a table of at most `rows` rows."""
    return TABLE_BYTES + rows * ROW_BYTES


def table_size_problem(path: Path, rows: int) -> str | None:
    """Return what is wrong with the size of a table of at most `rows` rows."""
    size = path.stat().st_size
    if size > most_table_bytes(rows):
        return f"has {size:,} bytes, too many for {rows:,} rows"
    return None


def _read(
    path: Path, schema: pa.Schema, sha256: str, counts: range, names: tuple[str, ...], shown: str
) -> Iterator[pa.RecordBatch]:
    """Yield columns, checked; `counts` are the numbers of rows that the file may have.

    The first column must be sorted and unique: a few bytes of Parquet can repeat one row a
    billion times.
    """

    def refuse(problem: str, code: str = "E-TABLE-FILE") -> CorruptStoreError:
        return CorruptStoreError(f"{shown}: {problem}; {FROM_SOURCE}", code=code)

    check_plain([path])
    if not path.exists():
        raise refuse("no such file (if the store has been added to, open it again)")
    problem = table_size_problem(path, counts[-1])
    if problem:
        raise refuse(problem)
    if sha256_file(path) != sha256:
        raise refuse("has changed: its sha256 is not the one in store.json", "E-TABLE-CHANGED")
    before = ""
    for batch in read_batches(path, schema, refuse, counts, names):
        key = batch.column(0)
        both = pa.concat_arrays([pa.array([before], pa.string()), key])
        is_rising = pc.call_function("less", [both[:-1], both[1:]])
        option = pc.IndexOptions(pa.scalar(value=False))
        first_bad = pc.call_function("index", [is_rising], option).as_py()
        if first_bad >= 0:
            raise refuse(
                f"{both[first_bad + 1].as_py()!r:.100} follows {both[first_bad].as_py()!r:.100}; "
                f"{batch.schema.names[0]} must be sorted and unique, and not empty",
                "E-TABLE-ORDER",
            )
        before = key[-1].as_py()
        for name in HASH_DIGITS.keys() & set(batch.schema.names):
            if not are_hashes(name, batch.column(name)):
                raise refuse(f"{name} must hold hashes, in lower-case hex digits", "E-STORE-HASH")
        yield batch


def index_lines(batch: pa.RecordBatch) -> bytes:
    """Return the canonical JSON of each row of the index, each ended by a newline."""
    pieces: list[Any] = []
    before = "["
    for column in batch.columns:
        quote = '"' if pa.types.is_string(column.type) else ""
        texts = _escaped(column) if quote else column.cast(pa.string())
        pieces += [before + quote, texts]
        before = quote + ","
    lines = pc.call_function("binary_join_element_wise", [*pieces, f"{before[:-1]}]\n", ""])
    return joined_texts(lines).to_pybytes()


def _escaped(texts: pa.Array) -> pa.Array:
    """Return each text as JSON has it between the quotes, ASCII only."""
    if not joined_texts(texts).to_pybytes().translate(None, JSON_SAFE):
        return texts
    return pa.array([json.dumps(text)[1:-1] for text in texts.to_pylist()], pa.string())


def are_hashes(name: str, texts: pa.Array) -> bool:
    """Return whether the column `name`, one of HASH_DIGITS, can hold all of these texts."""
    lengths = pc.call_function("binary_length", [texts]).to_numpy()
    digits = np.frombuffer(joined_texts(texts), np.uint8)
    # Numbers below 0 become large ones: two comparisons find what is in neither 0-9 nor a-f.
    are_hex = (digits - ord("0") < 10) | (digits - ord("a") < 6)
    return bool(np.isin(lengths, HASH_DIGITS[name]).all() and are_hex.all())


def is_rising(texts: pa.Array) -> bool:
    """Return whether each text is less than the next, so that they are sorted and distinct."""
    less = pc.call_function("less", [texts[:-1], texts[1:]])
    return pc.call_function("all", [less], pc.ScalarAggregateOptions(min_count=0)).as_py()


VIEW = re.compile(r"view \d+: ")  # of a panorama: before a remark on one of its views


def has_record(rows: pa.RecordBatch) -> pa.BooleanArray:
    """Return for each row of the index whether its id has a record."""
    return pc.call_function("equal", [rows.column("status"), Status.OK.value])


def rows_without_record(batches: Iterable[pa.RecordBatch]) -> tuple[IndexRow, ...]:
    """Return the rows of ids that have no record."""
    others = (rows.filter(pc.call_function("invert", [has_record(rows)])) for rows in batches)
    return tuple(index_rows(others))


def frequent_reasons(rows: Sequence[IndexRow], most: int = 5) -> list[dict[str, Any]]:
    """Return the most frequent reasons of rows without a record, each with its number and an id."""
    counts = Counter((row.status, row.reason) for row in rows)
    example = {(row.status, row.reason): row.image_id for row in reversed(rows)}
    return [
        {"images": n, "status": str(pair[0]), "reason": pair[1], "example": example[pair]}
        for pair, n in counts.most_common(most)
    ]


def reasons_text(rows: Sequence[IndexRow]) -> str:
    """Return `frequent_reasons` as a line, and how many images have other ones."""
    shown = frequent_reasons(rows)
    texts = [
        printable("{images} {status} ({reason}; such as {example})".format_map(each))
        for each in shown
    ]
    others = len(rows) - sum(each["images"] for each in shown)
    return "; ".join(texts + ([f"{others} for other reasons"] if others else []))


class Remarks:
    """Counts the remarks on images that have a record.

    An image may have several, separated by semicolons; it counts once for each.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._example: dict[str, str] = {}

    def add(self, rows: pa.RecordBatch) -> None:
        """Count those of some rows of the index."""
        has_remark = pc.call_function("not_equal", [rows.column("reason"), ""])
        chosen = rows.filter(pc.call_function("and", [has_record(rows), has_remark]))
        for row in index_rows([chosen]):
            for remark in {VIEW.sub("", text) for text in row.reason.split("; ")}:
                self._counts[remark] += 1
                self._example.setdefault(remark, row.image_id)

    def frequent(self, most: int = 10) -> list[dict[str, Any]]:
        """Return the most frequent remarks: number of images, an id."""
        ordered = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))
        return [
            {"images": n, "remark": remark, "example": self._example[remark]}
            for remark, n in ordered[:most]
        ]


def remarks_text(remarks: Sequence[dict[str, Any]]) -> str:
    """Return `Remarks.frequent` as a line."""
    return "; ".join(
        printable("{images}: {remark} (such as {example})".format_map(each)) for each in remarks
    )
