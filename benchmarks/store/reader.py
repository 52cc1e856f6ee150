"""What a reader of the benchmark can do, and a format that several readers read."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from clipfeat.base import package_version

from .records import Records

PASS_BATCH = 64  # records that a sequential pass hands over at a time


@dataclass(frozen=True)
class Package:
    """A peer's package, which may be absent."""

    distribution: str  # as it is installed
    module: str  # as it is imported

    @cached_property
    def version(self) -> str | None:
        """The version that is installed, if one is."""
        return package_version(self.distribution)

    def load(self) -> Any:
        """Return the module, imported only now: some peers take seconds."""
        return import_module(self.module)


class Reader(ABC):
    """One way to read the records of a folder. A batch is one contiguous array in memory of its
    own, unless the name says otherwise."""

    name: ClassVar[str]
    package: ClassVar[Package | None] = None  # what must be installed, if anything
    random_access: ClassVar[bool] = True
    cold: ClassVar[bool] = False  # whether it is also measured with an empty page cache
    dtype: ClassVar[type[np.generic]] = np.float16

    def __init__(self, records: Records, folder: Path):
        """Prepare to read `records`, which were written into `folder`."""
        self.records = records
        self.folder = folder
        self.open()

    @abstractmethod
    def open(self) -> None:
        """Open the files; called again after `close`."""

    def close(self) -> None:  # noqa: B027  most readers hold nothing open between reads
        """Let go of files and mappings: mapped pages cannot be dropped from the page cache."""

    @abstractmethod
    def one(self, row: int) -> np.ndarray:
        """Return one record: (row, col, dim)."""

    def batch(self, rows: Sequence[int]) -> np.ndarray:
        """Return the records of `rows` in that order: (record, row, col, dim)."""
        out = np.empty((len(rows), *self.records.record_shape), self.dtype)
        for place, row in zip(out, rows, strict=True):
            place[...] = self.one(row)
        return out

    def batches(self) -> Iterator[np.ndarray]:
        """Yield all records in their stored order, PASS_BATCH at a time."""
        for start in range(0, len(self.records), PASS_BATCH):
            yield self.batch(range(start, min(start + PASS_BATCH, len(self.records))))


class SequentialReader(Reader):
    """A reader whose fastest pass is its own iterator."""

    @abstractmethod
    def items(self) -> Iterator[np.ndarray]:
        """Yield every record in its stored order: (row, col, dim)."""

    def batches(self) -> Iterator[np.ndarray]:
        out = np.empty((0,))
        for row, item in enumerate(self.items()):
            place = row % PASS_BATCH
            if not place:
                count = min(PASS_BATCH, len(self.records) - row)
                out = np.empty((count, *self.records.record_shape), self.dtype)
            out[place] = item
            if place == len(out) - 1:
                yield out


@dataclass(frozen=True)
class Format:
    """A way to lay the records on disk, with the readers that read it."""

    name: str
    write: Callable[[Records, Path], None]  # the folder exists and is empty
    readers: Sequence[type[Reader]]
    package: Package | None = None
