"""Parquet tables: written in row groups, and read in bounded memory, whoever wrote them."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .errors import reason_of
from .files import open_plain

GROUP_ROWS = 1 << 16  # rows in a row group that is written
BATCH_ROWS = 1 << 13  # rows in memory at a time when reading
MAX_TEXT = 4096  # bytes of one text; a path may have as many
MAX_CHUNK = 1 << 28  # bytes of a column of a row group, besides its texts
TEXT_TYPES = ("string", "large_string", "string_view")


def write_rows(file: BinaryIO, schema: pa.Schema, rows: Iterable[Any]) -> None:
    """Write `rows`, tuples in the order of the schema's fields, with GROUP_ROWS in memory."""
    remaining = iter(rows)
    groups = iter(lambda: list(islice(remaining, GROUP_ROWS)), [])
    write_batches(file, schema, (as_batch(schema, group) for group in groups))


def as_batch(schema: pa.Schema, rows: Iterable[Any]) -> pa.RecordBatch:
    """Return `rows`, tuples in the order of the schema's fields, as a batch of columns."""
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(c, kind) for c, kind in zip(columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def joined_texts(texts: pa.Array) -> pa.Buffer:
    """Return the UTF-8 of some texts, one after the other; together they have less than 2 GiB."""
    whole = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    return pc.call_function("binary_join", [whole, ""])[0].as_buffer()


def write_batches(file: BinaryIO, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write columns in row groups of GROUP_ROWS, whatever the sizes of the batches."""
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        held: list[pa.RecordBatch] = []
        for batch in batches:
            held.append(batch)
            while sum(map(len, held)) >= GROUP_ROWS:
                # In one piece: the ends of pieces decide where pages end, and so the bytes.
                table = pa.Table.from_batches(held, schema).combine_chunks()
                writer.write_table(table.slice(0, GROUP_ROWS))
                held = table.slice(GROUP_ROWS).to_batches()
        if held:
            writer.write_table(pa.Table.from_batches(held, schema).combine_chunks())


def read_schema(path: Path, refuse: Callable[[str], Exception]) -> pa.Schema:
    """Return the schema of the Parquet file `path`, with its metadata."""
    return _opened(path, refuse)[1].schema_arrow


def column_names(path: Path, refuse: Callable[[str], Exception]) -> list[str]:
    """Return the names of the columns of the Parquet file `path`."""
    return read_schema(path, refuse).names


def count_rows(path: Path, refuse: Callable[[str], Exception]) -> int:
    """Return the number of rows of the Parquet file `path` according to its footer."""
    return _opened(path, refuse)[1].metadata.num_rows


class GroupSizes(NamedTuple):
    """Rows of each row group of a Parquet file, and bytes of one of its columns in it."""

    rows: list[int]
    bytes: list[int]  # as the footer states them, without compression


def group_sizes(path: Path, leaf: str, refuse: Callable[[str], Exception]) -> GroupSizes:
    """Return the sizes of row groups; `leaf` names a column of values, such as `image.bytes`."""
    footer = _opened(path, refuse)[1].metadata
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    columns = range(footer.num_columns)
    at = next((k for k in columns if footer.schema.column(k).path == leaf), None)
    if at is None:
        raise refuse(f"has no column {leaf!r:.100}")
    return GroupSizes(
        [group.num_rows for group in groups],
        [group.column(at).total_uncompressed_size for group in groups],
    )


def read_leaf(
    path: Path, leaf: str, group: int, limit: int, refuse: Callable[[str], Exception]
) -> list[pa.Array]:
    """Return the texts or bytes of a row group, each as an array of one value, perhaps null.

    `leaf` is a column or, as `image.bytes`, a part of one. One value is read at a time, so that a
    file in which a few bytes mean "this gigabyte, a thousand times" is found out by its second row.
    Raises `refuse(reason)` for more than `limit` bytes, and for a file that cannot be read.
    """
    source, file = _opened(path, refuse)
    values: list[pa.Array] = []
    total = 0
    try:
        for batch in file.iter_batches(1, row_groups=[group], columns=[leaf], use_threads=False):
            value = batch.column(0)
            value = value.flatten()[0] if pa.types.is_struct(value.type) else value
            total += value.nbytes
            if total > limit:
                raise refuse(f"a row group holds more than {limit:,} bytes of {leaf:.100}")
            values.append(value)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise refuse(_unreadable(error)) from None
    finally:
        source.close()
    if len(values) != file.metadata.row_group(group).num_rows:
        raise refuse(f"has {len(values):,} rows in a group with another number in its footer")
    return values


def read_rows(
    path: Path, schema: pa.Schema, refuse: Callable[[str], Exception]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the Parquet file `path`.

    Raises `refuse(reason)` for a file that is not Parquet, other columns than those of `schema`, a
    null value, and a text of more than MAX_TEXT bytes.
    """
    for batch in read_batches(path, schema, refuse):
        yield from rows_of(batch)


def rows_of(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a batch of columns."""
    yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def read_batches(
    path: Path,
    schema: pa.Schema,
    refuse: Callable[[str], Exception],
    counts: range | None = None,
    names: Sequence[str] = (),
) -> Iterator[pa.RecordBatch]:
    """Yield batches of the columns called `names`, or of all columns.

    `counts` are the numbers of rows that the file may have; its footer is checked before any row is
    read, and no more rows are read than it states. Raises as `read_rows` does.
    """
    for columns in _read(path, names or schema.names, refuse, counts, schema):
        arrays = [
            column.dictionary_decode() if isinstance(column, pa.DictionaryArray) else column
            for column in columns
        ]
        yield pa.RecordBatch.from_arrays(arrays, names=list(names or schema.names))


def read_columns(
    path: Path, names: Sequence[str], refuse: Callable[[str], Exception]
) -> Iterator[tuple[Any, ...]]:
    """Yield the values of some columns of the Parquet file `path`, row by row.

    Raises `refuse(reason)` for a file that is not Parquet, a column that is missing or has neither
    texts nor numbers, a null value, and a text of more than MAX_TEXT bytes.
    """
    for columns in _read(path, names, refuse):
        yield from zip(*(column.to_pylist() for column in columns), strict=True)


def _read(
    path: Path,
    names: Sequence[str],
    refuse: Callable[[str], Exception],
    counts: range | None = None,
    schema: pa.Schema | None = None,
) -> Iterator[list[pa.Array]]:
    """Yield the columns `names`, checked, a batch at a time; if given, `schema` must be the file's.

    Texts are read as dictionaries, and measured before they are copied: a few bytes on disk can
    mean "this gigabyte, a million times". The file is opened once, since another file may take its
    name in between.
    """
    source, file = _opened(path, refuse)
    if schema is not None and not file.schema_arrow.equals(schema):
        expected, got = (
            ", ".join(f"{column.name} {column.type}" for column in columns)
            for columns in (schema, file.schema_arrow)
        )
        raise refuse(f"columns must be {expected}; got {got:.200}")
    for name in names:
        if file.schema_arrow.names.count(name) != 1:
            columns = ", ".join(file.schema_arrow.names)
            raise refuse(f"needs one column {name!r:.100}; its columns are {columns:.200}")
    types = {name: file.schema_arrow.field(name).type for name in names}
    texts = [name for name, type_ in types.items() if _is_text(type_)]
    for name, type_ in types.items():
        if name not in texts and not pa.types.is_primitive(type_):
            raise refuse(
                f"column {name!r:.100} must hold texts or numbers; its type is {type_!s:.200}"
            )
    file = _parsed(source, refuse, texts, file.metadata)
    _check_footer(file.metadata, refuse, counts)
    rows = 0
    try:
        for batch in file.iter_batches(BATCH_ROWS, columns=list(names), use_threads=False):
            rows += len(batch)
            if rows > file.metadata.num_rows:
                break
            yield [_checked(batch.column(name), refuse) for name in names]
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise refuse(_unreadable(error)) from None
    if rows != file.metadata.num_rows:
        raise refuse(f"has {rows:,} rows or more; its footer states {file.metadata.num_rows:,}")


def _check_footer(
    footer: pq.FileMetaData, refuse: Callable[[str], Exception], counts: range | None
) -> None:
    """Raise `refuse(reason)` for an impossible number of rows or size of a column in memory."""
    if counts is not None and footer.num_rows not in counts:
        least, most = counts[0], counts[-1]
        expected = f"{most:,}" if least == most else f"{least:,} to {most:,}"
        raise refuse(f"has {footer.num_rows:,} rows; expected {expected}")
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        most = MAX_CHUNK + group.num_rows * (MAX_TEXT + 8)
        for position in range(group.num_columns):
            size = group.column(position).total_uncompressed_size
            if not 0 <= size <= most:
                raise refuse(f"a column takes {size:,} bytes; expected at most {most:,}")


def _is_text(type_: pa.DataType) -> bool:
    if isinstance(type_, pa.DictionaryType):
        type_ = type_.value_type
    return str(type_) in TEXT_TYPES


def _opened(path: Path, refuse: Callable[[str], Exception]) -> tuple[pa.NativeFile, pq.ParquetFile]:
    """Open a Parquet file as one regular file; nothing in it or in its path may name other files.

    Other kinds of files are rejected first, because Arrow would wait for a pipe forever.
    """
    try:
        os.close(open_plain(path, follow=True))
        source = pa.OSFile(os.fsencode(path))
    except OSError as error:
        raise refuse(_unreadable(error)) from None
    return source, _parsed(source, refuse)


def _parsed(
    source: pa.NativeFile,
    refuse: Callable[[str], Exception],
    texts: Sequence[str] = (),
    footer: pq.FileMetaData | None = None,
) -> pq.ParquetFile:
    """Return an open file as Parquet, with the columns `texts` as dictionaries."""
    try:
        return pq.ParquetFile(
            source, metadata=footer, read_dictionary=list(texts), buffer_size=1 << 20
        )
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise refuse(_unreadable(error)) from None


def _unreadable(error: Exception) -> str:
    return f"not a readable Parquet file: {reason_of(error):.200}"


def _checked(column: pa.Array, refuse: Callable[[str], Exception]) -> pa.Array:
    """Return a column, checked to contain no null value and no text longer than MAX_TEXT."""
    if column.null_count:
        raise refuse("contains a null value; every row needs all values")
    if isinstance(column, pa.DictionaryArray):
        lengths = pc.call_function("binary_length", [column.dictionary])
        longest = pc.call_function("max", [lengths]).as_py() or 0
        if longest > MAX_TEXT:
            raise refuse(f"holds a text of {longest:,} bytes; expected at most {MAX_TEXT:,}")
        column.validate(full=True)  # texts are UTF-8, and each row refers to one of them
    return column
