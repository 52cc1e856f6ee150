"""Who may write a store: one process, or several that write a part each, shown by lock files."""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import msgspec

from ...base.errors import StoreError
from ...base.files import naming, open_output, read_at, try_lock
from ...base.text import printable
from ..layout import JOURNAL, Part

logger = logging.getLogger(__name__)

LOCK = "lock"  # the file in the journal of who writes the whole store
HEARTBEAT = 10.0  # seconds between touches of the file
MAX_HOLDER_BYTES = 4096


class StoreLock:
    """The right to write a store alone, or as one of its parts; a context manager that holds it.

    Whoever writes a whole store, commits or repairs it holds `lock`; a part holds its own file,
    `part-3-of-16.lock`. Each first takes its own lock, which others can see from then on, and
    only then examines the locks of its rivals: for `lock` every part is a rival, for a part `lock`
    and all parts of another number of parts. Of two rivals the one that looks last sees the
    other, so that both never continue; if they come at the same instant, perhaps neither does.

    This also holds between hosts, whether or not the file system passes flock on: the text of a
    lock is on the disk before its holder examines another. flock between hosts is only needed
    where two processes take the same lock at the same instant. If both write the same part, they
    do no harm: temporary files never share a name; each shard and each receipt is whole, from one
    or the other; and if their bits differ, the commit finds a shard that is not the one of its
    receipt, and asks for that part again.

    A process that dies loses its flock, and its text counts for nothing on its own host. The
    holder of `lock`, after it has examined the others, may remove the locks of parts together with
    the journal: nobody holds one, but a process may be about to. It then finds `lock` held, or
    its own lock without a name, and starts again.
    """

    def __init__(self, store: Path, part: Part | None = None, *, break_lock: bool = False):
        """`break_lock` takes locks of processes on other hosts, never of a living one on this."""
        self._store = store
        self._part = part
        self._break_lock = break_lock
        self._own = self._lock_of(part)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Get the right; raise StoreError that names the holder if another process has it."""
        while True:
            gone = [self._own.acquire(break_lock=self._break_lock)]
            try:
                for rival in self._rivals():
                    gone.append(self._lock_of(rival).check_free(break_lock=self._break_lock))
            except BaseException:
                self._own.release()
                raise
            if self._own.is_held():
                break
            self._own.release()
        for holder in filter(None, gone):
            logger.info(f"Taking over the lock of {holder}, which is gone")

    def is_held(self) -> bool:
        """Return whether the right is still ours: another host may have broken the lock."""
        return self._own.is_held()

    def check_held(self) -> None:
        """Raise StoreError if another process has broken the lock."""
        if not self.is_held():
            raise StoreError(
                f"{self._store}: another process has broken the lock and writes now",
                code="E-LOCK-BROKEN",
            )

    def release(self) -> None:
        """Let others in; does nothing without the right."""
        self._own.release()

    def _lock_of(self, part: Part | None) -> "LockFile":
        folder = self._store / JOURNAL
        if part is None:
            return LockFile(folder / LOCK, str(self._store))
        return LockFile(folder / part.lock_name, f"part {part} of {self._store}")

    def _rivals(self) -> list[Part | None]:
        """Return the parts that must not be written meanwhile; None stands for the whole."""
        parts = started_parts(self._store)
        if self._part is None:
            return [*parts]
        return [None, *(part for part in parts if part.of != self._part.of)]


def started_parts(store: Path) -> list[Part]:
    """Return the parts that a process writes or has written: those with a lock file."""
    parts = (Part.of_lock(path.name) for path in (store / JOURNAL).iterdir())
    return sorted(part for part in parts if part is not None)


class _Holder(msgspec.Struct, frozen=True):
    """What a lock file says of the process that took it."""

    host: str
    pid: int
    since: str  # ISO 8601, UTC

    def __str__(self) -> str:
        return f"process {self.pid} on {printable(self.host[:100])}"


class LockFile:
    """The right to write `subject`, a store or a part of one.

    On one machine the lock is the kernel's (flock), which ends with its process, however that
    ends. Not every file system passes flock on between machines, so a lock that another host has
    written is respected until a user who knows that its process is gone has it broken.
    """

    def __init__(self, path: Path, subject: str):
        self._path = path
        self._subject = subject
        self._descriptor: int | None = None
        self._released = threading.Event()

    def acquire(self, *, break_lock: bool = False) -> str | None:
        """Become the only holder; return who held the lock and is gone, or None.

        Raises StoreError that names the holder if there is one. `break_lock` takes the lock of a
        process on another host, never that of a living process on this one.
        """
        descriptor, gone, broken = self._open(shared=False, break_lock=break_lock)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        holder = _Holder(socket.gethostname(), os.getpid(), since)
        with _closed_on_error(descriptor), naming(self._path):
            os.ftruncate(descriptor, 0)
            text, written = json.dumps(msgspec.structs.asdict(holder)).encode(), 0
            while written < len(text):  # a full disk takes a part, and refuses the rest
                written += os.pwrite(descriptor, text[written:], written)
            os.fsync(descriptor)  # for other hosts, which may read it from now on
            self._released.clear()
            threading.Thread(target=self._beat, daemon=True, name="lock heartbeat").start()
        self._descriptor = descriptor
        gone = gone or broken
        return None if gone is None else str(gone)

    def check_free(self, *, break_lock: bool = False) -> str | None:
        """Raise StoreError if another process holds the lock, by the rules of `acquire`.

        Returns whose lock was broken, or None. Any number of processes may check at once.
        """
        descriptor, _, broken = self._open(shared=True, break_lock=break_lock)
        os.close(descriptor)
        return None if broken is None else str(broken)

    def _open(
        self, *, shared: bool, break_lock: bool
    ) -> tuple[int, _Holder | None, _Holder | None]:
        """Open and flock the file; return its descriptor, who has died, and whose was broken."""
        broken = None
        while True:
            descriptor = open_output(self._path)
            with _closed_on_error(descriptor), naming(self._path):
                holder = _read_holder(descriptor)
                elsewhere = holder is not None and holder.host != socket.gethostname()
                alive = not try_lock(descriptor, shared=shared)
                if elsewhere and break_lock:
                    broken = holder
                    with contextlib.suppress(FileNotFoundError):
                        if self._is_named(descriptor):
                            self._path.unlink()
                elif alive or elsewhere:
                    silent = time.time() - os.fstat(descriptor).st_mtime
                    raise self._refusal(holder, silent, elsewhere=elsewhere)
                elif self._is_named(descriptor):
                    return descriptor, holder, broken
            os.close(descriptor)  # its holder, or this process, has just removed the file

    def _refusal(self, holder: _Holder | None, silent: float, *, elsewhere: bool) -> StoreError:
        since = f", since {printable(holder.since[:100])}" if holder else ""
        remedy = (
            "if that process is gone, add --break-lock" if elsewhere else "choose another folder"
        )
        return StoreError(
            f"{self._subject} is being written by {holder or 'another process'}{since}, last sign "
            f"of life {silent:.0f} s ago; wait for it, or {remedy}",
            code="E-LOCK-HELD",
        )

    def is_held(self) -> bool:
        """Return whether the lock is still ours: another host may have broken it."""
        return self._descriptor is not None and self._is_named(self._descriptor)

    def release(self) -> None:
        """Let another writer in; an empty file stays, which names nobody."""
        if self._descriptor is not None:
            self._released.set()
            descriptor, self._descriptor = self._descriptor, None
            with contextlib.suppress(OSError):  # a text that stays counts for nothing here
                os.ftruncate(descriptor, 0)
            os.close(descriptor)
            # Of a journal that was removed: on NFS its folder stays while a file in it is open.
            with contextlib.suppress(OSError):
                self._path.parent.rmdir()

    def _is_named(self, descriptor: int) -> bool:
        """Return whether the path still leads to the opened file."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.lstat())
        except FileNotFoundError:
            return False

    def _beat(self) -> None:
        """Touch the file until release."""
        while not self._released.wait(HEARTBEAT):
            descriptor = self._descriptor
            if descriptor is not None:
                with contextlib.suppress(OSError):  # released at this very moment
                    os.utime(descriptor)


@contextlib.contextmanager
def _closed_on_error(descriptor: int) -> Generator[None]:
    """Close the descriptor, which gives back its flock, if the block raises."""
    try:
        yield
    except BaseException:
        os.close(descriptor)
        raise


def _read_holder(descriptor: int) -> _Holder | None:
    """Return who wrote the lock file, None for an empty file or any other text."""
    try:
        return msgspec.json.decode(read_at(descriptor, MAX_HOLDER_BYTES, 0), type=_Holder)
    except ValueError:
        return None
