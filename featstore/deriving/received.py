"""Receive records of a store behind a URL as they are on its disk: many in few requests.

They do not pass through the cache: each is asked for once, and would displace what is used again.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from ...base.errors import CorruptStoreError
from ...base.machine import usable_cores
from ...base.ranges import read_range
from ..remote import RemoteFiles
from ..remote_indexes import OTHER_COPY, ShardIndexes
from ..remote_lookup import IN_FLIGHT
from ..shards import ShardRow
from ..spans import Place, Span, spans
from ..store import FeatureStore
from ..tables import IndexRow
from .stored import Encoded, StoredRecords

# Two records with a smaller gap share a request. At 100 Mbit/s the gap takes 20 ms, about as long as
# a server takes to answer one more request.
GAP_BYTES = 1 << 18
AHEAD_BYTES = 1 << 26  # received or asked for, and not used yet, in all threads together


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
        self._index = ShardIndexes(self._folder, store.files.cache, self._shard_records)
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

    def _again(self, row: IndexRow) -> Encoded | None:
        shards = [self._shard(row, name) for name in self.identity.arrays]
        if not any([self._index.renew(shard) for shard in shards]):
            return None
        (encoded,) = self._encoded([row])
        return encoded

    def _shard(self, row: IndexRow, array: str) -> ShardRow:
        path = self._shard_path(row, array)
        if path not in self._shards:
            raise self._refused(row, f"the packing list does not have {path}", "E-TABLE-SHARD")
        return self._shards[path]

    def _places(self, rows: Sequence[IndexRow], array: str) -> Iterator[Place[None]]:
        for row in rows:
            shard = self._shard(row, array)
            with self._naming(row):
                extent = self._extent_in(shard, row, array)
            yield Place(shard, *extent, None)

    def _extent_in(self, shard: ShardRow, row: IndexRow, array: str) -> tuple[int, int]:
        """Return offset and length of an array of a record; a wrong index of the cache is replaced."""
        try:
            return self._extent(row, array, self._index(shard))
        except CorruptStoreError:
            if not self._index.renew(shard):
                raise
        return self._extent(row, array, self._index(shard))

    def _received(
        self, threads: ThreadPoolExecutor, places: Iterable[Place[None]]
    ) -> Iterator[bytes]:
        """Yield the bytes at each place; of those that follow, about `_ahead` are held."""
        pending: deque[tuple[Span[None], Future[bytes]]] = deque()
        held = 0
        for span in spans(places, GAP_BYTES):
            while pending and held + span.size > self._ahead:
                held -= pending[0][0].size
                yield from _cut(*pending.popleft())
            pending.append((span, threads.submit(self._receive, span)))
            held += span.size
        while pending:
            yield from _cut(*pending.popleft())

    def _receive(self, span: Span[None]) -> bytes:
        url = self._folder.url(span.shard.path)
        return read_range(url, span.first, span.size, size=span.shard.bytes)


def _cut(span: Span[None], receiving: "Future[bytes]") -> Iterator[bytes]:
    """Yield the bytes at each place of a span, as soon as they are here."""
    for _, encoded in span.cut(receiving.result()):
        yield encoded
