"""Time writers and readers; readers take turns on the same rows."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from .process import ReaderProcess
from .reader import PASS_BATCH, Format, Reader
from .records import Records

SINGLES = 128  # random single reads of a round
BATCHES = (64, 512)
COLD_BATCH = 64

Read = Callable[[Reader, Sequence[int]], int]  # returns how many records were read


class NotColdError(Exception):
    """The page cache cannot be dropped here: a file system in memory, for one."""


@dataclass(frozen=True)
class Written:
    """What writing a format took."""

    seconds: float  # until every byte is on the disk
    bytes: int  # of all its files


@dataclass(frozen=True)
class Rates:
    """Records/s of one reader at one task, a number for each round that counts."""

    rounds: Sequence[float]

    @property
    def median(self) -> float:
        """Records/s."""
        return statistics.median(self.rounds)


def write(form: Format, records: Records, folder: Path) -> Written:
    """Write the records into a new folder, to the disk."""
    folder.mkdir()
    if form.package:
        form.package.load()  # not part of the writing
    start = time.perf_counter()
    form.write(records, folder)
    _each_file(folder, os.fsync)
    seconds = time.perf_counter() - start
    return Written(seconds, sum(file.stat().st_size for file in _files(folder)))


def singles(reader: Reader, rows: Sequence[int]) -> int:
    """Read the rows one by one."""
    for row in rows:
        reader.one(row)
    return len(rows)


def batch(reader: Reader, rows: Sequence[int]) -> int:
    """Read the rows as one array."""
    return len(reader.batch(rows))


def whole_pass(reader: Reader, rows: Sequence[int]) -> int:
    """Read everything in stored order; the rows say nothing."""
    return sum(map(len, reader.batches()))


def check(reader: Reader, rows: Sequence[int]) -> None:
    """Raise AssertionError unless a reader returns the records that were written."""
    truth = reader.records.grids
    for number, grids in enumerate(reader.batches()):
        start = number * PASS_BATCH
        _check_equal(reader, grids, truth[start : start + len(grids)])
    if reader.random_access:
        _check_equal(reader, reader.one(rows[0]), truth[rows[0]])
        _check_equal(reader, reader.batch(rows), truth[np.asarray(rows)])


def _check_equal(reader: Reader, grids: np.ndarray, truth: np.ndarray) -> None:
    """Raise unless the grids, rounded as float16 rounds, are the true ones and contiguous."""
    equal = np.array_equal(grids.astype(np.float16, copy=False), truth)
    assert equal, f"{reader.name} returns other values than were written"
    first = np.moveaxis(grids, -1, -3)  # with the channels first
    is_contiguous = grids.flags.c_contiguous or first.flags.c_contiguous
    assert is_contiguous, f"{reader.name} returns no contiguous array"


def take_turns(
    readers: Mapping[str, ReaderProcess],
    read: Read,
    records: int,
    count: int,
    rounds: int,
    *,
    cold: bool = False,
) -> dict[str, Rates]:
    """Return {reader: rates} of `read` on `count` random rows of `records`, new ones each round.

    Each round begins with another reader. Cold: raises NotColdError as `turn` does.
    """
    rng = np.random.default_rng(0)
    rates: dict[str, list[float]] = {name: [] for name in readers}
    names = list(readers)
    for number in range(rounds):
        rows = random_rows(rng, records, count)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            rates[name].append(readers[name].call(turn, read, rows, cold))
    return {name: Rates(values) for name, values in rates.items()}


def turn(reader: Reader, read: Read, rows: Sequence[int], cold: bool) -> float:  # noqa: FBT001
    """Return records/s of one turn.

    Before it the same rows are read once without being timed: a kernel may have dropped a
    reader's files while the others had their turns. Cold: they leave the page cache before it;
    raises NotColdError where they stay.
    """
    if cold:
        _make_cold(reader)
    else:
        read(reader, rows)
    before = psutil.Process().io_counters().read_bytes
    start = time.perf_counter()
    done = read(reader, rows)
    rate = done / (time.perf_counter() - start)
    if cold and psutil.Process().io_counters().read_bytes == before:
        raise NotColdError(f"{reader.name} read nothing from the disk")
    return rate


def random_rows(rng: np.random.Generator, available: int, count: int) -> list[int]:
    """Return `count` row numbers, or as many as there are, in random order, none twice."""
    return rng.permutation(available)[:count].tolist()


def _make_cold(reader: Reader) -> None:
    """Drop a reader's files from the page cache; needs no privilege, only clean pages."""
    reader.close()  # pages that a process has mapped would stay

    def drop(descriptor: int) -> None:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    _each_file(reader.folder, drop)
    reader.open()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _each_file(folder: Path, act: Callable[[int], None]) -> None:
    """Call `act` with a descriptor of every file under a folder."""
    for path in _files(folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            act(descriptor)
        finally:
            os.close(descriptor)
