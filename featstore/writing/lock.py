"""A lock file: it says who holds it, is held by the kernel, and is touched as a heartbeat."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from ...base.errors import StoreError
from ...base.files import naming, open_output, read_at, try_lock
from ...base.text import printable

HEARTBEAT = 10.0  # seconds between touches of the file
MAX_HOLDER_BYTES = 4096


class WriterLock:
    """The right to write `what`, a store or a part of one.

    On one machine the lock is the kernel's (flock), which ends with its process, however that
    ends. Between machines not every file system passes flock on, so a lock that another host
    has written is respected until someone who knows better breaks it.
    """

    def __init__(self, path: Path, what: str):
        self._path = path
        self._what = what
        self._descriptor: int | None = None
        self._released = threading.Event()

    def acquire(self, *, break_lock: bool = False) -> str | None:
        """Become the only holder; return who held the lock and is gone, or None.

        Raises StoreError naming the holder if there is one. `break_lock` takes the lock of a
        process on another host, and never that of a living process on this one.
        """
        descriptor, gone, broken = self._open(shared=False, break_lock=break_lock)
        content = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with _closed_on_error(descriptor), naming(self._path):
            os.ftruncate(descriptor, 0)
            text, written = json.dumps(content).encode(), 0
            while written < len(text):  # a full disk takes a part, and refuses the rest
                written += os.pwrite(descriptor, text[written:], written)
            os.fsync(descriptor)  # for other hosts to read from now on
            self._released.clear()
            threading.Thread(target=self._beat, daemon=True, name="lock heartbeat").start()
        self._descriptor = descriptor
        gone = gone or broken
        return None if gone is None else _name(gone)

    def check_free(self, *, break_lock: bool = False) -> str | None:
        """Raise StoreError if another process holds the lock, by the rules of `acquire`.

        Returns whose lock was broken, or None. Any number of processes may look at once.
        """
        descriptor, _, broken = self._open(shared=True, break_lock=break_lock)
        os.close(descriptor)
        return None if broken is None else _name(broken)

    def _open(
        self, *, shared: bool, break_lock: bool
    ) -> tuple[int, dict[str, str] | None, dict[str, str] | None]:
        """Open the file and flock it; return its descriptor, who died, and whose was broken."""
        broken = None
        while True:
            descriptor = open_output(self._path)
            with _closed_on_error(descriptor), naming(self._path):
                holder = _read_holder(descriptor)
                elsewhere = holder is not None and holder["host"] != socket.gethostname()
                alive = not try_lock(descriptor, shared=shared)
                if elsewhere and break_lock:
                    broken = holder
                    with contextlib.suppress(FileNotFoundError):
                        if self._is_named(descriptor):
                            self._path.unlink()
                elif alive or elsewhere:
                    silent = time.time() - os.fstat(descriptor).st_mtime
                    raise _refusal(self._what, holder, silent, elsewhere=elsewhere)
                elif self._is_named(descriptor):
                    return descriptor, holder, broken
            os.close(descriptor)  # its holder has just removed the file, or we have

    def is_held(self) -> bool:
        """Return whether the lock is still ours: another host may have broken it."""
        return self._descriptor is not None and self._is_named(self._descriptor)

    def release(self) -> None:
        """Let another writer in, leaving no name behind."""
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
        """Return whether the opened file is the one that the path names."""
        try:
            return os.path.samestat(os.fstat(descriptor), self._path.lstat())
        except FileNotFoundError:
            return False

    def _beat(self) -> None:
        """Touch the file until release."""
        while not self._released.wait(HEARTBEAT):
            descriptor = self._descriptor
            with contextlib.suppress(OSError, TypeError):  # released in this very moment
                os.utime(descriptor)  # pyright: ignore[reportArgumentType]


@contextlib.contextmanager
def _closed_on_error(descriptor: int) -> Iterator[None]:
    """Close the descriptor, and so give back its flock, if the block does not end well."""
    try:
        yield
    except BaseException:
        os.close(descriptor)
        raise


def _read_holder(descriptor: int) -> dict[str, str] | None:
    """Return who wrote the lock file, None for an empty or a foreign text."""
    try:
        holder = json.loads(read_at(descriptor, MAX_HOLDER_BYTES, 0))
        return {key: printable(str(holder[key])[:100]) for key in ("host", "pid", "since")}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _name(holder: dict[str, str] | None) -> str:
    return "another process" if holder is None else f"process {holder['pid']} on {holder['host']}"


def _refusal(
    what: str, holder: dict[str, str] | None, silent: float, *, elsewhere: bool
) -> StoreError:
    since = f", since {holder['since']}" if holder else ""
    remedy = "if that process is gone, add --break-lock" if elsewhere else "choose another --out"
    return StoreError(
        f"{what} is being written by {_name(holder)}{since}, last sign of life "
        f"{silent:.0f} s ago; wait for it, or {remedy}"
    )
