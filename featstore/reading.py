"""Read many records at once: with several threads, in the order of the files, into reused memory."""

import os
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..base.errors import CorruptStoreError
from ..base.interruption import Interruption, interrupt
from .identity import copy_blocks
from .layout import shard_path
from .lookup import SHAPE_BIT, Places
from .shards import (
    ABSENT,
    CRC_BYTES,
    Buffer,
    Index,
    as_bytes,
    index_bytes,
    opened,
    read_index,
    read_record,
    thread_count,
)

KEPT = 2  # the batch that a loop works on, and the next one
INLINE_BYTES = 1 << 18  # smaller batches are read faster without threads
SPANS_PER_THREAD = 4  # parts that a batch is cut into for each thread, so that all end together
INDEX_CACHE_BYTES = 64 << 20  # of shard indexes kept in memory


@dataclass(frozen=True)
class FeatureBatch:
    """The records of the requested ids, in that order; None for what the store does not have."""

    features: np.ndarray  # (image, cell, dim), zeros after a smaller grid; see `FeatureStore.read`
    mask: np.ndarray  # (image, cell) bool, True where a cell holds pixels of the image
    grid_shapes: np.ndarray  # (image, 2) int64: rows, cols
    pooled: np.ndarray | None = None  # (image, dim)
    boxes: np.ndarray | None = None  # (image, cell, 4) float32: left, top, right, bottom in pixels
    classes: np.ndarray | None = None  # (image, cell) int32
    scores: np.ndarray | None = None  # (image, cell) float32


class BufferPool:
    """Gives out memory, and the same memory again; at most `kept` buffers stay with it.

    The kernel must clear new memory before it can be filled, which takes about as long as filling
    it. A buffer is reused when no array, view or tensor refers to it any more. It needs no lock,
    which a fork could find locked: a deque's own steps are atomic.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._buffers: deque[Buffer] = deque(maxlen=kept)

    def take(self, size: int) -> Buffer:
        """Return `size` bytes of any content that nothing else refers to."""
        for _ in range(self._kept):
            try:
                held = [self._buffers.popleft()]
            except IndexError:
                break
            is_idle = _references(held) == IDLE
            self._buffers.append(held[0])
            if is_idle and held[0].size >= size:
                return held[0][:size]
        buffer = np.empty(size, np.uint8)
        self._buffers.append(buffer)
        return buffer[:]


def _references(held: list[Buffer]) -> int:
    """Return how many references exist to the buffer in a list, a few of them our own."""
    return sys.getrefcount(held[0])


IDLE = _references([np.empty(0, np.uint8)])


class ThreadsOfObject:
    """Threads, started at the first use, that end with this object.

    Safe to share between threads. A forked child has none of its parent's threads and starts
    its own. It needs no lock, which a fork could find locked: two threads that are first at the
    same time both start threads, and those of one of them end after their first work.
    """

    def __init__(self, choose_count: Callable[[], int] = thread_count) -> None:
        self._choose_count = choose_count
        self._pool: tuple[int, int, ThreadPoolExecutor] | None = None  # process, threads, pool

    def count(self) -> int:
        """Return the number of threads."""
        return self._started()[1]

    def run(self, act: Callable[[Any], object], items: Sequence[Any]) -> None:
        """Call `act` with each item; raise the first error after all calls have ended.

        Ctrl-C also ends what they wait for, and calls that have not begun.
        """
        pool, interruption = self._started()[2], Interruption()
        calls: list[Future[object]] = []

        def call_unless_interrupted(item: Any) -> None:
            interruption.check()  # a thread whose call was ended takes the next one at once
            act(item)

        try:
            for item in items:
                calls.append(pool.submit(call_unless_interrupted, item))
            for call in calls:
                call.result()
        except KeyboardInterrupt:
            interrupt()
            raise
        finally:
            for call in calls:
                call.cancel()
            wait(calls)

    def _started(self) -> tuple[int, int, ThreadPoolExecutor]:
        pool = self._pool
        if pool is None or pool[0] != os.getpid():
            threads = self._choose_count()
            pool = self._pool = os.getpid(), threads, ThreadPoolExecutor(threads, "clipfeat reader")
        return pool


class WantedRecord(NamedTuple):
    """One record to read."""

    shape: str
    shard: int  # index in the array
    position: int  # in the shard
    check: bytes | None  # the last bytes of the record on disk, None to get them in `last`
    out: np.ndarray  # filled with it; its dimensions are in the order that they have on disk
    last: Buffer | None = None  # filled with the last bytes of the record on disk


# What fills an array from one of the same shape that holds a record as stored.
Convert = Callable[[np.ndarray, np.ndarray], None]


class RecordReader(ABC):
    """Reads records from the shards of one store."""

    def __init__(self, shapes: Sequence[str], shard_records: int):
        self._shapes = shapes  # in the order of their numbers
        self._shard_records = shard_records

    def fill(
        self,
        array: str,
        dtype: np.dtype[Any],
        places: Places,
        checks: Buffer | None,
        outs: Sequence[np.ndarray],
        convert: Convert | None = None,
        last: Buffer | None = None,
    ) -> None:
        """Fill `outs` with the records of one array at `places`; each is read once.

        Either `checks` are the last bytes that the records must have on disk, (record, 4), or
        `last` is filled with those that they have.
        """
        place = places.shape << SHAPE_BIT | places.row
        _, firsts, inverse = np.unique(place, return_index=True, return_inverse=True)
        every: list[bytes | None] = [None] * len(firsts)
        if checks is not None:
            every = np.ascontiguousarray(checks[firsts]).view(f"V{CRC_BYTES}")[:, 0].tolist()
        numbers: list[int] = places.shape[firsts].tolist()
        rows: list[int] = places.row[firsts].tolist()
        wanted: list[WantedRecord] = []
        ks: list[int] = firsts.tolist()
        for k, n, row, check in zip(ks, numbers, rows, every, strict=True):
            shard, position = divmod(row, self._shard_records)
            got = None if last is None else last[k]
            wanted.append(WantedRecord(self._shapes[n], shard, position, check, outs[k], got))
        self.read(array, dtype, wanted, convert)
        for k in np.flatnonzero(firsts[inverse] != np.arange(len(inverse))).tolist():
            first = int(firsts[inverse[k]])
            outs[k][...] = outs[first]
            if last is not None:
                last[k] = last[first]

    @abstractmethod
    def fetch(self, array: str, places: Places) -> None:
        """Bring the records of one array to this machine, unless they are here."""

    @abstractmethod
    def read(
        self,
        array: str,
        dtype: np.dtype[Any],
        wanted: list[WantedRecord],
        convert: Convert | None = None,
    ) -> None:
        """Fill the arrays of records that are in the order of the files.

        `array` is the name of the store's array, `dtype` that of its numbers on disk. `convert`
        makes the wanted numbers of stored ones; without it they are the same. Raises
        CorruptStoreError for bytes that have changed.
        """


class LocalReader(RecordReader):
    """Reads records of a store on this machine; no file stays open between reads.

    With `verify=False` the checksums of raw records (codec `none`) are not computed.
    """

    def __init__(
        self, store: Path, codec: str, shapes: Sequence[str], shard_records: int, *, verify: bool
    ):
        super().__init__(shapes, shard_records)
        self._store = store
        self._codec = codec
        self._verify = verify
        self._threads = ThreadsOfObject()
        # Not a method of this object, which would then live until the garbage collector runs.
        self._shard_index: Callable[[str], Index] = lru_cache(kept_indexes(shard_records))(
            partial(_load_index, shard_records)
        )

    def read(
        self,
        array: str,
        dtype: np.dtype[Any],
        wanted: list[WantedRecord],
        convert: Convert | None = None,
    ) -> None:
        """Fill the arrays of records, as in `RecordReader.read`, with several threads."""
        read_span = partial(self._read_span, array, dtype, convert)
        is_large = len(wanted) > 1 and sum(w.out.nbytes for w in wanted) >= INLINE_BYTES
        if is_large and (threads := self._threads.count()) > 1:
            size = -(-len(wanted) // (threads * SPANS_PER_THREAD))
            spans = [wanted[start : start + size] for start in range(0, len(wanted), size)]
            self._threads.run(read_span, spans)
        else:
            read_span(wanted)

    def fetch(self, array: str, places: Places) -> None:
        """Do nothing: the records are here."""

    def _read_span(
        self,
        array: str,
        dtype: np.dtype[Any],
        convert: Convert | None,
        wanted: list[WantedRecord],
    ) -> None:
        """Read records that are in the order of the files, opening each file once."""
        scratch: Buffer | None = None
        for (shape, number), records in groupby(wanted, key=lambda w: (w.shape, w.shard)):
            path = f"{self._store}/{shard_path(shape, array, number)}"
            try:
                index = self._shard_index(path)
                with opened(path) as descriptor:
                    for record in records:
                        out = record.out
                        if convert is None and out.flags.c_contiguous:
                            self._read_one(descriptor, index, record, as_bytes(out))
                            continue
                        size = out.size * dtype.itemsize
                        if scratch is None or scratch.size < size:
                            scratch = np.empty(size, np.uint8)
                        self._read_one(descriptor, index, record, scratch[:size])
                        stored = scratch[:size].view(dtype).reshape(out.shape)
                        (convert or copy_blocks)(stored, out)
            except CorruptStoreError as error:
                raise CorruptStoreError(
                    f"{path}: {error}; type: clipfeat store verify {self._store}", code=error.code
                ) from None

    def _read_one(
        self, descriptor: int, index: Index, record: WantedRecord, content: Buffer
    ) -> None:
        offset, length = index[record.position].tolist()
        try:
            if offset == ABSENT:
                raise CorruptStoreError("is absent, but its status is ok", code="E-SHARD-ABSENT")
            entry = (offset, length)
            last = read_record(
                descriptor, entry, self._codec, record.check, content, verify=self._verify
            )
        except CorruptStoreError as error:
            raise CorruptStoreError(f"record {record.position}: {error}", code=error.code) from None
        if record.last is not None:
            record.last[:] = np.frombuffer(last, np.uint8)


def last_bytes(places: Places, of: Literal["grid", "beside"]) -> Buffer:
    """Return the bytes (record, 4) that the lookup has of grids, or of what is beside them."""
    checks = places.check.astype("<u8").view(np.uint8).reshape(-1, 2, CRC_BYTES)
    return checks[:, 0 if of == "grid" else 1]


def kept_indexes(shard_records: int) -> int:
    """Return how many shard indexes are kept in memory."""
    return max(16, INDEX_CACHE_BYTES // index_bytes(shard_records))


def _load_index(shard_records: int, path: str) -> Index:
    with opened(path) as descriptor:
        return read_index(descriptor, shard_records)


def check_out(out: np.ndarray, shape: tuple[int, ...], axis: int, dtype: np.dtype[Any]) -> None:
    """Raise ValueError unless `out` can hold features of this shape; `axis` may be longer."""
    fits = out.ndim == len(shape) and all(
        have >= size if k == axis else have == size
        for k, (have, size) in enumerate(zip(out.shape, shape, strict=True))
    )
    if not fits or out.dtype != dtype:
        sizes = [f"{size} or more" if k == axis else f"{size}" for k, size in enumerate(shape)]
        raise ValueError(
            f"out: expected {dtype.name} of ({', '.join(sizes)}); got {out.dtype} of {out.shape}"
        )
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ValueError("out: expected an array that is C-contiguous and writeable")
