"""Merge columns of several sources, each sorted by image id, in bounded memory."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator

import pyarrow as pa

KEY = "image_id"


def merged(streams: Iterable[Iterator[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of all streams, sorted by id, holding one batch of each.

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
