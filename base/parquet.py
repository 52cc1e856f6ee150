"""Parquet tables: written in row groups, read in bounded memory whoever wrote them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .files import open_plain

GROUP_ROWS = 1 << 16  # rows that are packed together when writing
BATCH_ROWS = 1 << 13  # rows held at a time when reading
MAX_TEXT = 4096  # bytes of one text: as long as a path may be
MAX_CHUNK = 1 << 28  # bytes that a column of a row group may take beside those of its texts
TEXTS = ("string", "large_string", "string_view")


def write_rows(file: BinaryIO, schema: pa.Schema, rows: Iterable[Any]) -> None:
    """Write `rows`, tuples in the order of the schema's fields, holding GROUP_ROWS at a time."""
    remaining = iter(rows)
    groups = iter(lambda: list(islice(remaining, GROUP_ROWS)), [])
    write_batches(file, schema, (as_batch(schema, group) for group in groups))


def as_batch(schema: pa.Schema, rows: Iterable[Any]) -> pa.RecordBatch:
    """Return `rows`, tuples in the order of the schema's fields, as columns."""
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    arrays = [pa.array(c, kind) for c, kind in zip(columns, schema.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def write_batches(file: BinaryIO, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    """Write columns in row groups of GROUP_ROWS, however they come."""
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        held: list[pa.RecordBatch] = []
        for batch in batches:
            held.append(batch)
            while sum(map(len, held)) >= GROUP_ROWS:
                # In one piece: where pieces end decides where pages end, and so the bytes.
                table = pa.Table.from_batches(held, schema).combine_chunks()
                writer.write_table(table.slice(0, GROUP_ROWS))
                held = table.slice(GROUP_ROWS).to_batches()
        if held:
            writer.write_table(pa.Table.from_batches(held, schema).combine_chunks())


def read_schema(path: Path, refuse: Callable[[str], Exception]) -> pa.Schema:
    """Return the schema of the Parquet file `path`, with its metadata."""
    return _opened(path, refuse)[1].schema_arrow


def count_rows(path: Path, refuse: Callable[[str], Exception]) -> int:
    """Return the number of rows of the Parquet file `path`, as its footer says."""
    return _opened(path, refuse)[1].metadata.num_rows


def read_rows(
    path: Path, schema: pa.Schema, refuse: Callable[[str], Exception]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the Parquet file `path`.

    Raises `refuse(why)` for a file that is not Parquet, has other columns than `schema`, a
    null, or a text of more than MAX_TEXT bytes.
    """
    for batch in read_batches(path, schema, refuse):
        yield from rows_of(batch)


def rows_of(batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of some columns."""
    yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def read_batches(
    path: Path,
    schema: pa.Schema,
    refuse: Callable[[str], Exception],
    counts: range | None = None,
    names: Sequence[str] = (),
) -> Iterator[pa.RecordBatch]:
    """Yield what `read_rows` does, as columns: all of them, or those called `names`.

    `counts` are the numbers of rows that the file may have: its footer is looked at before a row
    is read, and no more rows are read than it says.
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
    """Yield the values of some columns of the Parquet file `path`, row for row.

    Raises `refuse(why)` for a file that is not Parquet, a column that is neither of texts nor
    of numbers, a null, or a text of more than MAX_TEXT bytes.
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
    """Yield some columns, checked, a batch at a time; of a file of this schema, where one is given.

    Texts are read as dictionaries and measured before they are copied out: a few bytes on disk
    can say "this gigabyte, a million times". The file is opened once: between two times, another
    may take its name.
    """
    source, file = _opened(path, refuse)
    found = file.schema_arrow
    if schema is not None and not found.equals(schema):
        wanted = ", ".join(f"{f.name} {f.type}" for f in schema)
        got = ", ".join(f"{f.name} {f.type}" for f in found)
        raise refuse(f"columns must be {wanted}; got {got:.200}")
    kinds = {name: found.field(name).type for name in names}
    texts = [name for name, kind in kinds.items() if _is_text(kind)]
    for name, kind in kinds.items():
        if name not in texts and not pa.types.is_primitive(kind):
            raise refuse(
                f"column {name!r:.100} must hold texts or numbers; its type is {kind!s:.200}"
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
        raise refuse(f"not a readable Parquet file: {error!s:.200}") from None
    if rows != file.metadata.num_rows:
        raise refuse(f"holds other rows than the {file.metadata.num_rows:,} that its footer says")


def _check_footer(
    footer: pq.FileMetaData, refuse: Callable[[str], Exception], counts: range | None
) -> None:
    """Refuse a number of rows, or a size of a column in memory, that cannot be."""
    if counts is not None and footer.num_rows not in counts:
        least, most = counts[0], counts[-1]
        wanted = f"{most:,}" if least == most else f"{least:,} to {most:,}"
        raise refuse(f"has {footer.num_rows:,} rows; expected {wanted}")
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        most = MAX_CHUNK + group.num_rows * (MAX_TEXT + 8)
        for position in range(group.num_columns):
            size = group.column(position).total_uncompressed_size
            if not 0 <= size <= most:
                raise refuse(f"a column takes {size:,} bytes; expected at most {most:,}")


def _is_text(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.DictionaryType):
        kind = kind.value_type
    return str(kind) in TEXTS


def _opened(path: Path, refuse: Callable[[str], Exception]) -> tuple[pa.NativeFile, pq.ParquetFile]:
    """Open a Parquet file as one plain file: nothing in it or its path may name others to open.

    What is no plain file is refused first: Arrow would wait for a pipe, where nobody can stop it.
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
    """Return an opened file as Parquet, the columns `texts` as dictionaries."""
    try:
        return pq.ParquetFile(
            source, metadata=footer, read_dictionary=list(texts), buffer_size=1 << 20
        )
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise refuse(_unreadable(error)) from None


def _unreadable(error: Exception) -> str:
    why = f"{error!s:.200}"
    if isinstance(error, OSError) and error.filename:  # whose text would name the file once more
        why = error.strerror
    return f"not a readable Parquet file: {why}"


def _checked(column: pa.Array, refuse: Callable[[str], Exception]) -> pa.Array:
    """Return a column that holds no null and no text beyond reason."""
    if column.null_count:
        raise refuse("holds a null; every value must be there")
    if isinstance(column, pa.DictionaryArray):
        lengths = pc.call_function("binary_length", [column.dictionary])
        longest = pc.call_function("max", [lengths]).as_py() or 0
        if longest > MAX_TEXT:
            raise refuse(f"holds a text of {longest:,} bytes; expected at most {MAX_TEXT:,}")
        column.validate(full=True)  # that texts are UTF-8, and that each row is one of them
    return column
