"""Threads that stay with an object: started at the first use, gone when the object is."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from ..base.machine import usable_cores

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
