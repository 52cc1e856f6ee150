"""What all who write shards do: hold a lock, go on where a run was cut off, clear up."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Self

from ..format import IndexRow
from ..layout import Shard
from .part import Part
from .run import Run
from .store_lock import StoreLock


class RunWriter(ABC):
    """The one writer of some shards of a run; those down from an earlier one are kept.

    A context manager that holds the lock. `shards` are all that it is for, and `pending` those
    that are not down.
    """

    shards: tuple[Shard, ...]
    pending: tuple[Shard, ...]

    def __init__(
        self, run: Run, part: Part | None, *, break_lock: bool, say: Callable[[str], None]
    ):
        self._run = run
        self._lock = StoreLock(run.journal, part)
        self._break_lock = break_lock
        self._say = say

    def __enter__(self) -> Self:
        self._run.journal.create()
        taken_over = self._lock.acquire(break_lock=self._break_lock)
        try:
            for gone in taken_over:
                self._say(f"Taking over the lock of {gone}, which is gone")
            self._begin()
            self.pending = self._run.pending(self.shards)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._lock.is_held():  # a process that wrote shards for this one may have been ended
                self._clear_temporaries()
        finally:
            self._lock.release()

    @abstractmethod
    def _begin(self) -> None:
        """Make sure of the plan, and clear up after a run that was killed."""

    @abstractmethod
    def _clear_temporaries(self) -> None:
        """Remove files in the making, which are nobody's while the lock is held."""

    def rows(self) -> Iterator[IndexRow]:
        """Yield what became of every id of `shards` that is down."""
        return self._run.rows(self.shards)
