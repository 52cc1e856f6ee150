"""index.parquet and shards.parquet, to and from rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..base.files import atomic_file
from .errors import CorruptStoreError
from .format import IndexRow, ShardRow

ROWS_AT_A_TIME = 1 << 16

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


def write_index(path: Path, rows: list[IndexRow]) -> None:
    """Write the index; rows are sorted by image id."""
    _write(path, rows, INDEX_SCHEMA)


def write_shards(path: Path, rows: list[ShardRow]) -> None:
    """Write the packing list; rows are sorted by path."""
    _write(path, rows, SHARDS_SCHEMA)


def read_index(path: Path) -> pa.Table:
    """Return the index as a table; `index_rows` gives its rows."""
    return _read(path, INDEX_SCHEMA)


def index_rows(index: pa.Table) -> Iterator[IndexRow]:
    """Yield the rows of an index, a batch at a time: all at once would hold them twice."""
    for batch in index.to_batches(max_chunksize=ROWS_AT_A_TIME):
        columns = (column.to_pylist() for column in batch.columns)
        yield from map(IndexRow._make, zip(*columns, strict=True))


def read_shards(path: Path) -> list[ShardRow]:
    """Return the packing list."""
    columns = _read(path, SHARDS_SCHEMA).columns
    return [ShardRow(*row) for row in zip(*(c.to_pylist() for c in columns), strict=True)]


def _write(path: Path, rows: list[Any], schema: pa.Schema) -> None:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    table = pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)],
        schema=schema,
    )
    with atomic_file(path) as file:
        pq.write_table(table, file, compression="zstd")


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    """Return a table, raising CorruptStoreError unless it has exactly `schema` and no nulls."""
    try:
        # As a plain file: nothing in the path or the file may name other files to open.
        with path.open("rb") as file:
            table = pq.ParquetFile(file).read()
    except (OSError, pa.ArrowException) as error:
        raise CorruptStoreError(f"{path}: not a readable Parquet file: {error!s:.200}") from None
    if not table.schema.equals(schema) or any(column.null_count for column in table.columns):
        raise CorruptStoreError(
            f"{path}: columns must be {', '.join(schema.names)} without nulls, "
            f"as docs/store-format.md gives them; got {', '.join(table.schema.names)!s:.200}"
        )
    return table
