"""Who may write a store: one process all of it, or several a part each."""

from ..errors import StoreError
from .journal import Journal
from .lock import WriterLock
from .part import Part


class StoreLock:
    """The right to write a store alone, or as one of its parts.

    Whoever writes all of a store, finishes or repairs it holds `lock`; a part holds a file of its
    own, `part-3-of-16.lock`. Each first takes its own lock, which others can see from then on, and
    only then looks whether a rival holds theirs: for `lock` every part is a rival, for a part
    `lock` and all parts of another number of parts. Of two rivals the one that looks last sees the
    other, so that never both go on; if they came at the same instant, it may be that neither does.

    That holds between hosts whether or not the file system passes flock on: the text of a lock
    is on the disk before its holder looks at another. What needs flock between hosts is that
    two processes take the same lock at the same instant. Two that write one part so do no harm:
    names of files in the making are never the same; each shard and each receipt is that of
    one or of the other, whole; and where their bits differ, finishing hashes a shard that is not
    the one of its receipt, and asks for that part again.

    A process that dies takes its flock with it, and its text counts for nothing on its own host.
    One who holds `lock`, and has looked, may remove the locks of parts with the journal: nobody
    holds one, but somebody may be about to. Such a one finds `lock` held; or free again, and its
    own lock without a name, and begins once more.
    """

    def __init__(self, journal: Journal, part: Part | None = None):
        self._journal = journal
        self._part = part
        self._own = self._lock_of(part)

    def acquire(self, *, break_lock: bool = False) -> tuple[str, ...]:
        """Get the right, or raise StoreError naming who has it; return who had it and is gone.

        `break_lock` takes the locks of processes on other hosts, and never that of a living
        process on this one.
        """
        while True:
            gone = [self._own.acquire(break_lock=break_lock)]
            try:
                for rival in self._rivals():
                    gone.append(self._lock_of(rival).check_free(break_lock=break_lock))
            except BaseException:
                self._own.release()
                raise
            if self._own.is_held():
                return tuple(holder for holder in gone if holder is not None)
            self._own.release()

    def is_held(self) -> bool:
        """Return whether the right is still ours: another host may have broken it."""
        return self._own.is_held()

    def release(self) -> None:
        """Let others in."""
        self._own.release()

    def check_held(self) -> None:
        """Raise StoreError if another process has broken the lock."""
        if not self.is_held():
            raise StoreError(
                f"{self._journal.store}: another process has broken the lock; it writes now"
            )

    def _lock_of(self, part: Part | None) -> WriterLock:
        store = self._journal.store
        if part is None:
            return WriterLock(self._journal.lock_path, str(store))
        return WriterLock(self._journal.folder / part.lock_name, f"part {part} of {store}")

    def _rivals(self) -> list[Part | None]:
        """Return the parts that must not be written meanwhile; None stands for the whole."""
        parts = self._journal.parts()
        if self._part is None:
            return [*parts]
        return [None, *(part for part in parts if part.of != self._part.of)]
