"""The indexes of shards behind a URL, which say where each record lies."""

from functools import lru_cache, partial

import numpy as np

from ..base.errors import CorruptStoreError, StoreError
from ..base.ranges import read_range
from ..base.remote import RemoteFolder
from .cache import Cache
from .reading import kept_indexes
from .shards import Index, ShardRow, decode_index, index_bytes

OTHER_COPY = "the server's file has changed, so use another copy of the store"


class ShardIndexes:
    """The indexes of the shards of a store, from the cache or from the ends of their files.

    Those of the cache may have come from another server, and nothing proves an index but the records
    that it leads to.
    """

    def __init__(self, folder: RemoteFolder, cache: Cache, shard_records: int):
        self._fetch = partial(_fetch_index, folder, cache, shard_records)
        self._was_wrong: dict[ShardRow, bool] = {}  # of those that were compared with the server's
        # Not a method of this object, which would then live until the garbage collector runs.
        self._kept = lru_cache(kept_indexes(shard_records))(
            partial(_load_index, folder, cache, shard_records)
        )

    def __call__(self, shard: ShardRow) -> Index:
        """Return the index of a shard; raises as `read_range`, and CorruptStoreError."""
        return self._kept(shard)

    def renew(self, shard: ShardRow) -> bool:
        """Return whether the index of a shard was another one than the server has; use that one."""
        if shard not in self._was_wrong:
            old = self._kept(shard)
            try:
                new = self._fetch(shard)
            except StoreError:
                return False  # it could not be compared
            # Another thread may have replaced the index before `old` was read: its answer stays.
            self._was_wrong.setdefault(shard, not np.array_equal(old, new))
            self._kept.cache_clear()
        return self._was_wrong[shard]


def _load_index(folder: RemoteFolder, cache: Cache, shard_records: int, shard: ShardRow) -> Index:
    """Return the index of a shard, from the cache or from the end of its file."""
    content = cache.get(_key(shard), index_bytes(shard_records))
    if content is not None and len(content) == index_bytes(shard_records):
        try:
            return decode_index(content, shard.bytes)
        except CorruptStoreError:
            cache.drop(_key(shard))
    return _fetch_index(folder, cache, shard_records, shard)


def _fetch_index(folder: RemoteFolder, cache: Cache, shard_records: int, shard: ShardRow) -> Index:
    """Return the index at the end of a shard's file, and keep it in the cache."""
    length = index_bytes(shard_records)
    first = shard.bytes - length
    content = read_range(folder.url(shard.path), first, length, size=shard.bytes)
    try:
        index = decode_index(content, shard.bytes)
    except CorruptStoreError as error:
        raise CorruptStoreError(
            f"{folder.location}/{shard.path}: {error}; {OTHER_COPY}", code=error.code
        ) from None
    cache.put(_key(shard), content)
    return index


def _key(shard: ShardRow) -> str:
    return f"{shard.sha256}.index"
