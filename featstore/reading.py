"""Memory of batches, used again once nobody refers to it."""

import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np

from ..base.machine import usable_cores

Bytes = np.ndarray[Any, np.dtype[np.uint8]]

KEPT = 2  # the batch that a loop works on, and the next one


class BufferPool:
    """Gives out memory, and the same memory again; at most `kept` buffers stay with it.

    New memory must be cleared by the kernel before it can be filled, which takes about as long
    as filling it. A buffer is given out again when no array, view or tensor refers to it any
    more. There is no lock that a fork could find locked: a deque's own steps are atomic.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._buffers: deque[Bytes] = deque(maxlen=kept)

    def take(self, size: int) -> Bytes:
        """Return `size` bytes of any content, which nobody else has."""
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


def _references(held: list[Bytes]) -> int:
    """Return how many references there are to the buffer in a list, a few of them our own."""
    return sys.getrefcount(held[0])


IDLE = _references([np.empty(0, np.uint8)])


MOST_THREADS = 8


def thread_count() -> int:
    """Return how many threads read, hash or decode at a time."""
    return min(MOST_THREADS, usable_cores())


class ThreadsOfObject:
    """As many threads as `thread_count` says, used again and again.

    Safe to share between threads. A forked child has none of its parent's threads and starts
    its own. There is no lock that a fork could find locked: two threads that come first at the
    same time start threads each, and those of one of them end after their first work.
    """

    def __init__(self) -> None:
        self._pool: tuple[int, int, ThreadPoolExecutor] | None = None  # process, threads, pool

    def count(self) -> int:
        """Return how many threads there are."""
        return self._started()[1]

    def run(self, act: Callable[[Any], object], items: Sequence[Any]) -> None:
        """Call `act` with each item; raise the first error, once no call is running any more."""
        pool = self._started()[2]
        calls: list[Future[object]] = []
        try:
            for item in items:
                calls.append(pool.submit(act, item))
            for call in calls:
                call.result()
        finally:
            for call in calls:
                call.cancel()
            wait(calls)

    def _started(self) -> tuple[int, int, ThreadPoolExecutor]:
        pool = self._pool
        if pool is None or pool[0] != os.getpid():
            threads = thread_count()
            pool = self._pool = os.getpid(), threads, ThreadPoolExecutor(threads, "clipfeat reader")
        return pool
