"""Parquet tables: written in row groups, read in bounded memory whoever wrote them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

GROUP_ROWS = 1 << 16  # rows that are packed together when writing
BATCH_ROWS = 1 << 13  # rows held at a time when reading
MAX_TEXT = 4096  # bytes of one text: as long as a path may be


def write_rows(file: BinaryIO, schema: pa.Schema, rows: Iterable[Any]) -> None:
    """Write `rows`, tuples in the order of the schema's fields, holding GROUP_ROWS at a time."""
    remaining = iter(rows)
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        while group := list(islice(remaining, GROUP_ROWS)):
            columns = zip(zip(*group, strict=True), schema.types, strict=True)
            arrays = [pa.array(values, kind) for values, kind in columns]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def read_schema(path: Path, refuse: Callable[[str], Exception]) -> pa.Schema:
    """Return the schema of the Parquet file `path`, with its metadata."""
    return _opened(path, [], refuse).schema_arrow


def read_rows(
    path: Path,
    schema: pa.Schema,
    refuse: Callable[[str], Exception],
    names: Sequence[str] = (),
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the Parquet file `path`, or only the columns `names` of them.

    Raises `refuse(why)` for a file that is not Parquet, has other columns than `schema`, a
    null, or a text of more than MAX_TEXT bytes.
    """
    found = read_schema(path, refuse)
    if not found.equals(schema):
        wanted = ", ".join(f"{f.name} {f.type}" for f in schema)
        got = ", ".join(f"{f.name} {f.type}" for f in found)
        raise refuse(f"columns must be {wanted}; got {got:.200}")
    yield from read_columns(path, names or schema.names, refuse)


def read_columns(
    path: Path, names: Sequence[str], refuse: Callable[[str], Exception]
) -> Iterator[tuple[Any, ...]]:
    """Yield the values of some columns of the Parquet file `path`, row for row.

    Raises `refuse(why)` for a file that is not Parquet, a column that is neither of texts nor
    of numbers, a null, or a text of more than MAX_TEXT bytes. Texts are read as dictionaries and
    measured before they are copied out: a few bytes on disk can say "this gigabyte, a million
    times".
    """
    schema = read_schema(path, refuse)
    kinds = {name: schema.field(name).type for name in names}
    texts = [name for name, kind in kinds.items() if _is_text(kind)]
    for name, kind in kinds.items():
        if name not in texts and not pa.types.is_primitive(kind):
            raise refuse(
                f"column {name!r:.100} must hold texts or numbers; its type is {kind!s:.200}"
            )
    file = _opened(path, texts, refuse)
    try:
        for batch in file.iter_batches(BATCH_ROWS, columns=list(names), use_threads=False):
            columns = (_values(batch.column(name), refuse) for name in names)
            yield from zip(*columns, strict=True)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise refuse(f"not a readable Parquet file: {error!s:.200}") from None


def _is_text(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.DictionaryType):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _opened(path: Path, texts: list[str], refuse: Callable[[str], Exception]) -> pq.ParquetFile:
    try:
        # As one plain file: nothing in the path or the file may name other files to open.
        source = pa.OSFile(str(path))
        return pq.ParquetFile(source, read_dictionary=texts, buffer_size=1 << 20)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise refuse(f"not a readable Parquet file: {error!s:.200}") from None


def _values(column: pa.Array, refuse: Callable[[str], Exception]) -> list[Any]:
    """Return a column's values, checked for nulls and for texts beyond reason."""
    if column.null_count:
        raise refuse("holds a null; every value must be there")
    if not isinstance(column, pa.DictionaryArray):
        return column.to_pylist()
    lengths = pc.call_function("binary_length", [column.dictionary])
    longest = pc.call_function("max", [lengths]).as_py() or 0
    if longest > MAX_TEXT:
        raise refuse(f"holds a text of {longest:,} bytes; expected at most {MAX_TEXT:,}")
    return column.dictionary_decode().to_pylist()
