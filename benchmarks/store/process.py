"""Readers in processes of their own, so that what each keeps in memory can be told apart.

Processes are forked: they share the records with their parent, which loads no peer's package.
"""

import contextlib
import multiprocessing as mp
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from .reader import Reader
from .records import Records

FORK = mp.get_context("fork")
T = TypeVar("T")


class ReaderProcess:
    """A process that holds one reader and calls functions with it."""

    def __init__(self, name: str, kind: type[Reader], records: Records, folder: Path):
        """Start the process and open the reader in it."""
        self._name = name
        self._ours, theirs = FORK.Pipe()
        self._process = FORK.Process(target=_serve, args=(theirs, kind, records, folder))
        self._process.start()
        theirs.close()
        self._before: int = self._answer()

    def call(self, act: Callable[..., T], *arguments: Any) -> T:
        """Return `act(reader, *arguments)` of the process, or raise what it raises.

        Function and arguments are pickled.
        """
        self._ours.send((act, arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            error, found = self._ours.recv()
        except EOFError:
            self._process.join()
            raise RuntimeError(
                f"{self._name}: its process ended (exit code {self._process.exitcode})"
            ) from None
        if error is not None:
            raise error
        return found

    def forget_peak(self) -> None:
        """Measure the peak from now on."""
        self.call(_forget_peak)

    def peak(self) -> int:
        """Return the most resident bytes of the process, above those before the reader opened.

        The package of the reader was loaded then. Pages of files that it maps count.
        """
        return self.call(_resident_peak) - self._before

    def close(self) -> None:
        """Close the reader and end the process."""
        self._ours.send(None)
        self._process.join()


def in_process(act: Callable[[], T]) -> T:
    """Return what `act` returns in a forked process, which then ends."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=lambda: theirs.send(act()))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise RuntimeError("a process that writes has ended without a result") from None
    finally:
        process.join()


def _serve(pipe: Connection, kind: type[Reader], records: Records, folder: Path) -> None:
    if kind.package:
        kind.package.load()
    before = _status("VmRSS")
    reader = kind(records, folder)
    pipe.send((None, before))
    while request := pipe.recv():
        act, arguments = request
        try:
            answer = None, act(reader, *arguments)
        except Exception as error:  # the parent raises it
            answer = error, None
        pipe.send(answer)
    reader.close()


def _resident_peak(_: Reader) -> int:
    return _status("VmHWM")


def _forget_peak(_: Reader) -> None:
    with contextlib.suppress(OSError):  # a kernel without it: the peak counts the checks too
        Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> int:
    """Return a number of bytes from this process's /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
