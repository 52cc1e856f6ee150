"""Rows of the index in the order of their ids: sorted runs on the disk, which are then merged."""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ...base.files import naming, read_at, temporary_name
from ..layout import table_file
from ..tables import INDEX_SCHEMA, is_rising

KEY = "image_id"
FAN_IN = 16  # streams merged at a time
BATCH_ROWS = 1 << 12  # of the index, handled together


class SortedRuns:
    """Rows of the index in a file without a name, which ends with the process or with `close`.

    The rows of a batch belong to the run of the batch before as long as the ids rise. An OSError
    names the table that the rows are for.
    """

    def __init__(self, store: Path):
        self._table = store / table_file("index", 0)
        temporary = store / temporary_name(f".{self._table.name}")
        self._file = temporary.open("x+b")
        temporary.unlink()
        self._runs: list[list[tuple[int, int]]] = []  # of each batch: offset, length in bytes
        self._end = 0
        self._last = ""  # id

    def add(self, rows: pa.RecordBatch) -> None:
        """Write some rows, with the columns of INDEX_SCHEMA."""
        if not len(rows):
            return
        if not is_rising(rows.column(KEY)):  # they belong to several grid shapes
            rows = rows.sort_by(KEY)
        if not self._runs or _id(rows, 0) <= self._last:
            self._runs.append([])
        self._last = _id(rows, len(rows) - 1)
        content = rows.serialize()
        with naming(self._table):
            self._file.write(content)
        self._runs[-1].append((self._end, len(content)))
        self._end += len(content)

    def streams(self) -> list[Iterator[pa.RecordBatch]]:
        """Return the rows of each run, sorted by id."""
        with naming(self._table):
            self._file.flush()
        return [self._read(run) for run in self._runs]

    def _read(self, run: list[tuple[int, int]]) -> Iterator[pa.RecordBatch]:
        for offset, length in run:
            content = pa.py_buffer(read_at(self._file.fileno(), length, offset))
            yield pa.ipc.read_record_batch(content, INDEX_SCHEMA)

    def close(self) -> None:
        """Give the space on the disk back."""
        with contextlib.suppress(OSError):  # a full disk rejects the last bytes again
            self._file.close()


def first_of_each(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return the first row of each id; rows are sorted by id."""
    ids = rows.column(KEY)
    if is_rising(ids):
        return rows
    is_other = pc.call_function("not_equal", [ids[1:], ids[:-1]])
    return rows.filter(pa.concat_arrays([pa.array([True]), is_other]))


Unite = Callable[[pa.RecordBatch], pa.RecordBatch]


def merged(
    streams: Iterable[Iterator[pa.RecordBatch]], unite: Unite = first_of_each
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of all streams, sorted by id, holding one batch of each.

    Of several rows with one id `unite` keeps one. It gets rows sorted by id, those of one id in
    the order of the streams. Streams are merged FAN_IN at a time, then the results of these, and
    so on: a row costs the same at each level, and the number of levels is the logarithm of the
    number of streams.
    """
    streams = list(streams)
    while len(streams) > FAN_IN:
        groups = (streams[k : k + FAN_IN] for k in range(0, len(streams), FAN_IN))
        streams = [_rebatched(_merge_few(group, unite)) for group in groups]
    return _merge_few(streams, unite)


def _merge_few(streams: list[Iterator[pa.RecordBatch]], unite: Unite) -> Iterator[pa.RecordBatch]:
    """Merge streams, in every step all rows up to the lowest of the last ids of their batches."""
    heads = [(head, stream) for stream in streams if (head := _next(stream)) is not None]
    while heads:
        bound = min(_id(head, len(head) - 1) for head, _ in heads)
        taken: list[pa.RecordBatch] = []
        left: list[tuple[pa.RecordBatch, Iterator[pa.RecordBatch]]] = []
        for head, stream in heads:
            end = bisect_right(range(len(head)), bound, key=partial(_id, head))
            if end:
                taken.append(head.slice(0, end))
            rest = head.slice(end) if end < len(head) else _next(stream)
            if rest is not None:
                left.append((rest, stream))
        heads = left
        if len(taken) == 1:
            yield taken[0]
        else:
            yield unite(pa.concat_batches(taken).sort_by(KEY))  # stable


def _rebatched(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the same rows in batches of at least BATCH_ROWS, except for the last."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= BATCH_ROWS:
            yield pa.concat_batches(held)
            held = []
    if held:
        yield pa.concat_batches(held)


def _next(stream: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
    """Return the next batch that holds a row."""
    return next((batch for batch in stream if len(batch)), None)


def _id(batch: pa.RecordBatch, row: int) -> str:
    return batch.column(KEY)[row].as_py()
