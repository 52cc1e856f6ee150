"""Receive records of a store behind a URL as they are on its disk: many in few requests.

They do not pass through the cache: each is asked for once, and would displace what is used again.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple

from ...base.machine import usable_cores
from ...base.ranges import read_range
from ..reading import kept_indexes
from ..remote import OTHER_COPY, SPAN_BYTES, RemoteFiles, load_index
from ..remote_lookup import IN_FLIGHT
from ..shards import ShardRow
from ..store import FeatureStore
from ..tables import IndexRow
from .stored import Encoded, StoredRecords

# Two records with a smaller gap share a request. At 100 Mbit/s the gap takes 20 ms, about as long as
# a server takes to answer one more request.
GAP_BYTES = 1 << 18
AHEAD_BYTES = 1 << 26  # received or asked for, and not used yet, in all threads together


class _Place(NamedTuple):
    """Where an array of a record lies."""

    shard: ShardRow
    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class _Span(NamedTuple):
    """Places of one shard that are received with one request, in the order of the file."""

    places: list[_Place]

    @property
    def shard(self) -> ShardRow:
        return self.places[0].shard

    @property
    def first(self) -> int:
        return self.places[0].offset

    @property
    def size(self) -> int:
        return self.places[-1].end - self.first

    def takes(self, place: _Place) -> bool:
        """Return whether the next place can be received with these."""
        gap = place.offset - self.places[-1].end
        is_near = place.shard.path == self.shard.path and 0 <= gap <= GAP_BYTES
        return is_near and place.end - self.first <= SPAN_BYTES


class ReceivedRecords(StoredRecords):
    """Receives records of a store behind a URL, the next ones while one is used.

    Each core of this machine may read at the same time, and gets its part of the connections and of
    the memory.
    """

    def __init__(self, store: FeatureStore):
        assert isinstance(store.files, RemoteFiles)
        super().__init__(store, OTHER_COPY)
        self._folder = store.files.folder
        self._shards = {shard.path: shard for shard in store.shards}
        self._index = lru_cache(kept_indexes(self._shard_records))(
            partial(load_index, store.files, self._shard_records)
        )
        self._streams = max(1, IN_FLIGHT // usable_cores())
        self._ahead = AHEAD_BYTES // usable_cores() // len(self.identity.arrays)

    def _encoded(self, rows: Sequence[IndexRow]) -> Iterator[Encoded]:
        names = self.identity.arrays
        shards = dict.fromkeys(self._shard(row, name) for row in rows for name in names)
        threads = ThreadPoolExecutor(self._streams, "clipfeat receive")
        try:
            for _ in threads.map(self._index, shards):
                pass
            streams = [self._received(threads, self._places(rows, name)) for name in names]
            for contents in zip(*streams, strict=True):
                yield dict(zip(names, contents, strict=True))
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _shard(self, row: IndexRow, array: str) -> ShardRow:
        path = self._shard_path(row, array)
        if path not in self._shards:
            raise self._refused(row, f"the packing list does not have {path}", "E-TABLE-SHARD")
        return self._shards[path]

    def _places(self, rows: Sequence[IndexRow], array: str) -> Iterator[_Place]:
        for row in rows:
            shard = self._shard(row, array)
            with self._naming(row):
                extent = self._extent(row, array, self._index(shard))
            yield _Place(shard, *extent)

    def _received(self, threads: ThreadPoolExecutor, places: Iterable[_Place]) -> Iterator[bytes]:
        """Yield the bytes at each place; of those that follow, about `_ahead` are held."""
        pending: deque[tuple[_Span, Future[bytes]]] = deque()
        held = 0
        for span in _spans(places):
            while pending and held + span.size > self._ahead:
                held -= pending[0][0].size
                yield from _cut(*pending.popleft())
            pending.append((span, threads.submit(self._receive, span)))
            held += span.size
        while pending:
            yield from _cut(*pending.popleft())

    def _receive(self, span: _Span) -> bytes:
        url = self._folder.url(span.shard.path)
        return read_range(url, span.first, span.size, size=span.shard.bytes)


def _spans(places: Iterable[_Place]) -> Iterator[_Span]:
    """Yield the requests for some places."""
    span: _Span | None = None
    for place in places:
        if span is not None and span.takes(place):
            span.places.append(place)
            continue
        if span is not None:
            yield span
        span = _Span([place])
    if span is not None:
        yield span


def _cut(span: _Span, receiving: "Future[bytes]") -> Iterator[bytes]:
    """Yield the bytes at each place of a span, as soon as they are here."""
    content = receiving.result()
    for place in span.places:
        start = place.offset - span.first
        yield content[start : start + place.length]
