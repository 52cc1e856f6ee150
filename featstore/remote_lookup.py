"""The lookup of a store behind a URL: searched by ranges for a few ids, fetched for many."""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np

from .lookup import (
    HEADER_BYTES,
    MAX_SAME_KEY,
    READ_BYTES,
    Lookup,
    Places,
    lookup_header,
    lookup_size,
)
from .reading import ThreadsOfObject

MOST_SEARCHED = 64  # ids; for more at a time the whole file is fetched
BLOCK = 1 << 13  # keys that are requested at a time
MAX_BLOCKS = 256  # kept in memory, 64 kB each
IN_FLIGHT = 32


class RemoteLookup:
    """The ids of a store. A large file is searched by ranges, until that costs more than all of it.

    The keys of ids are hashes, thus uniform: where a key lies among n keys is known to about
    sqrt(n) / 2 entries (the standard deviation of an order statistic), so mostly one request finds
    it. Each entry is protected by its seal. The whole file, whose sha256 is compared, is fetched
    for a file of up to 64 MB, for more than MOST_SEARCHED ids, and before an id is reported as
    absent.
    """

    def __init__(
        self, ids: int, shown: str, read: Callable[[int, int], bytes], load: Callable[[], Lookup]
    ):
        """`read` returns bytes of the file from (first, length), `load` fetches all of it."""
        self._ids = ids
        self._shown = shown
        self._read = read
        self._load = load
        self._most = 0 if lookup_size(ids) <= READ_BYTES else MOST_SEARCHED
        self._whole: Lookup | None = None
        self._blocks: dict[int, list[int]] = {}
        self._threads = ThreadsOfObject(lambda: IN_FLIGHT)

    def find_one(self, image_id: str) -> tuple[int, int, int, int]:
        """Return (state, shape, row, check) of one id, as `Lookup.find_one` does."""
        if self._whole is None and self._most:
            place = self._search(image_id)
            if place[0] >= 0:
                return place
        return self._fetched().find_one(image_id)

    def find(self, ids: Sequence[str]) -> Places:
        """Return the places of `ids`, as `Lookup.find` does."""
        if self._whole is None and len(ids) <= self._most:
            places: dict[str, tuple[int, int, int, int]] = {}

            def search(image_id: str) -> None:
                places[image_id] = self._search(image_id)

            self._threads.run(search, list(dict.fromkeys(ids)))
            columns = np.array([places[i] for i in ids], object).reshape(-1, 4).T
            if (columns[0] >= 0).all():
                state, shape, row = columns[:3].astype(np.int64)
                return Places(state, shape, row, columns[3].astype(np.uint64))
        return self._fetched().find(ids)

    def _fetched(self) -> Lookup:
        if self._whole is None:
            self._whole = self._load()
        return self._whole

    def _search(self, image_id: str) -> tuple[int, int, int, int]:
        """Return the place of an id, or one with state -1 where the search does not find it."""
        digest = hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).digest()
        at = min(self._position(int.from_bytes(digest[:8], "big")), self._ids - 1)
        count = min(MAX_SAME_KEY, self._ids - at)
        columns = [self._column(number, at, count) for number in range(4)]
        content = lookup_header(count) + b"".join(columns)
        few = Lookup(content, count, "", self._shown, "use another copy of the store")
        return few.search(image_id)

    def _position(self, key: int) -> int:
        """Return the position of the first entry whose key is not smaller."""
        low, high = 0, (self._ids - 1) // BLOCK  # blocks
        guess = (key * self._ids >> 64) // BLOCK
        for attempt in range(64):
            keys = self._keys(guess)
            if key <= keys[0] and guess > low:
                high = guess - 1
            elif key > keys[-1] and guess < high:
                low = guess + 1
            else:
                return guess * BLOCK + bisect_left(keys, key)
            near = high if guess > high else low
            guess = near if attempt < 2 else (low + high) // 2
        return 0

    def _keys(self, block: int) -> list[int]:
        """Return the keys of a block of entries."""
        keys = self._blocks.get(block)
        if keys is None:
            first = block * BLOCK
            content = self._column(0, first, min(BLOCK, self._ids - first))
            keys = np.frombuffer(content, "<u8").tolist()
            if len(self._blocks) >= MAX_BLOCKS:
                self._blocks.clear()
            self._blocks[block] = keys
        return keys

    def _column(self, number: int, first: int, count: int) -> bytes:
        """Return the bytes of some entries of a column: 0 key, 1 place, 2 check, 3 seal."""
        return self._read(HEADER_BYTES + 8 * (number * self._ids + first), 8 * count)
