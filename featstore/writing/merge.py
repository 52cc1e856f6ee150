"""Merge columns of several sources, each sorted by image id, in bounded memory."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator

import pyarrow as pa

KEY = "image_id"
FAN_IN = 16  # streams merged at a time
BATCH_ROWS = 1 << 12  # handed from one level of merging to the next


def merged(streams: Iterable[Iterator[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of all streams, sorted by id, holding one batch of each.

    Streams are merged FAN_IN at a time, then what comes of these, and so on: a row costs the
    same at each level, and levels grow with the logarithm of the number of streams.
    """
    streams = list(streams)
    while len(streams) > FAN_IN:
        groups = (streams[k : k + FAN_IN] for k in range(0, len(streams), FAN_IN))
        streams = [_full(_merged(group)) for group in groups]
    return _merged(streams)


def _merged(streams: list[Iterator[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """Merge a few streams.

    In every step all that can be said to come next is taken: the rows up to the lowest of the
    last ids of the batches at hand.
    """
    heads = [(head, stream) for stream in streams if (head := _next(stream)) is not None]
    while heads:
        bound = min(_id(head, len(head) - 1) for head, _ in heads)
        taken, rest = [], []
        for head, stream in heads:
            end = bisect_right(range(len(head)), bound, key=lambda k, head=head: _id(head, k))
            taken.append(head.slice(0, end))
            left = head.slice(end) if end < len(head) else _next(stream)
            if left is not None:
                rest.append((left, stream))
        heads = rest
        yield from _sorted([batch for batch in taken if len(batch)])


def _full(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the same rows in batches of BATCH_ROWS or more, but for the last."""
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


def _sorted(batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    if len(batches) == 1:
        yield batches[0]
    else:
        yield from pa.Table.from_batches(batches).sort_by(KEY).to_batches()
