"""What a person sees of a run: the progress, and the report at its end."""

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from ..base.files import write_atomically
from ..base.text import counted
from ..featstore import FeatureStore, IndexRow
from ..featstore.layout import Part
from ..featstore.tables import (
    Remarks,
    frequent_reasons,
    reasons_text,
    remarks_text,
    rows_without_record,
)
from .executors.results import BatchResult, StageTimings

logger = logging.getLogger(__name__)

LOG_SECONDS = 30.0  # between the lines of a log
MIN_SECONDS = 60.0  # of a device, below which starting takes too much of a run to conclude anything
BUSY = 0.9  # share of the time: a device that computes so much of it has nothing to gain
# A stage that works so much of the time is what the others wait for: they overlap, so those of a run
# that is held up elsewhere work less.
SLOWEST = 0.7


class Progress:
    """Follows a run of `total` images, `done` of which an earlier run has extracted.

    A terminal has one line that changes, a log gets a line now and then.
    """

    def __init__(self, total: int, done: int):
        self.images = self.refused = self.bytes = 0
        self.timings = StageTimings()
        self._total, self._done = total, done
        self._started = self._logged = time.monotonic()
        shape = "{percentage:3.0f}%|{bar:16}| {desc}"
        self._bar = tqdm(
            total=total, initial=done, bar_format=shape, disable=not sys.stderr.isatty()
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, result: BatchResult) -> None:
        """Count a result, and show the progress now and then."""
        self.images += result.images
        self.refused += result.refused
        self.bytes += result.bytes
        self.timings += result.timings
        if result.warning:
            with tqdm.external_write_mode(file=sys.stderr):  # the line makes room, and comes back
                logger.warning(result.warning)
        now = time.monotonic()
        if not self._bar.disable:
            self._bar.set_description_str(self.line(now - self._started), refresh=False)
            self._bar.update(result.images)
        elif now - self._logged > LOG_SECONDS:
            self._logged = now
            logger.info(self.line(now - self._started))

    def line(self, seconds: float) -> str:
        """Return the state of the run after `seconds`.

        >>> progress = Progress(1000, 0)
        >>> progress.add(BatchResult(200, 3, 80_000_000, StageTimings(wall=10.0, device=9.9)))
        >>> progress.line(10.0)
        '200/1,000 images, 3 without a record, 20.0 images/s, 8.0 MB/s, device waited 1 %, 40 s left'
        """
        done = self._done + self.images
        rate = self.images / seconds if seconds else 0.0
        left = f"{duration((self._total - done) / rate)} left" if rate else "no rate yet"
        return (
            f"{done:,}/{self._total:,} images, {self.refused:,} without a record, "
            f"{rate:.1f} images/s, "
            f"{self.bytes / 1e6 / max(seconds, 1e-9):.1f} MB/s, "
            f"device waited {100 * self.timings.waited:.0f} %, {left}"
        )


def duration(seconds: float) -> str:
    """Return seconds for a person.

    >>> duration(40), duration(3700), duration(200_000)
    ('40 s', '1 h 1 min', '2 d 7 h')
    """
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes:.0f} min"
    if hours < 48:
        return f"{int(hours)} h {int(minutes) % 60} min"
    return f"{int(days)} d {int(hours) % 24} h"


def bottleneck(timings: StageTimings, threads: int) -> str:
    """Return what the devices waited for and what helps, "" if they were busy or the run was short.

    `threads` is how many compress for each device. The first cause that applies is named: pixels,
    if the devices waited for them in at least half of their idle time; the disk, and compression,
    if that stage worked `SLOWEST` of the time; otherwise the process that gives the device work.

    >>> bottleneck(StageTimings(wall=100.0, device=60.0, starved=35.0), threads=16)
    'the device waited 40 % of the time, mostly for pixels; more cores help (--decoders), or images on a faster disk'
    """
    wall, idle = timings.wall, timings.wall - timings.device
    if wall < MIN_SECONDS or timings.device >= BUSY * wall:
        return ""
    if timings.starved >= idle / 2:
        cause = "mostly for pixels; more cores help (--decoders), or images on a faster disk"
    elif max(timings.write, timings.commit) >= SLOWEST * wall:
        cause = "mostly for the disk of the store; a faster one helps"
    elif timings.encode >= SLOWEST * wall * threads:
        cause = "mostly for compression; more cores help, or --codec none on a large, fast disk"
    else:
        cause = (
            "and neither for pixels nor for the disk: what gives it work is slow; a core that is "
            "free for it helps, or a larger --batch-size"
        )
    return f"the device waited {100 * timings.waited:.0f} % of the time, {cause}"


class Results:
    """What a report tells of the index: rows without a record, and remarks on the others."""

    def __init__(self) -> None:
        self.refused: list[IndexRow] = []
        self.remarks = Remarks()

    def noted(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Note what there is to tell of rows of the index, and yield them."""
        for rows in batches:
            self.refused += rows_without_record([rows])
            self.remarks.add(rows)
            yield rows


@dataclass(frozen=True)
class ExtractReport:
    """The result of an extraction, or of one part of it.

    Attributes:
        path: Of the store.
        part: Which part was written; `None`: all of the store.
        finished: The finished store; `None` after a part, since others may be missing.
        refused: Rows of the index of images without a record: status, reason, path.
        images: Number of images that this run extracted.
        bytes: Of features, written by this run.
        seconds: From the first image's file to the finished store.
        timings: Seconds of each stage.
        remarks: Remarks on images that have a record, each with a number and an example.
        advice: What the devices waited for, and what helps; empty if they were busy.
    """

    path: Path
    part: Part | None
    finished: FeatureStore | None
    refused: tuple[IndexRow, ...]
    images: int = 0
    bytes: int = 0
    seconds: float = 0.0
    timings: StageTimings = field(default_factory=StageTimings)
    remarks: Sequence[dict[str, Any]] = ()
    advice: str = ""

    @property
    def store(self) -> FeatureStore:
        """The finished store, opened for reading; a part has none."""
        assert self.finished is not None, "a part of a store is not a store"
        return self.finished

    def to_json(self) -> dict[str, Any]:
        """Return the report for scripts; rates are None if nothing was left to do."""
        return {
            "store": str(self.path),
            "part": str(self.part) if self.part else None,
            "digest": self.store.digest if self.finished else None,
            "counts": self.store.metadata.counts if self.finished else None,
            "refused": frequent_reasons(self.refused, most=100),
            "remarks": list(self.remarks),
            "images": self.images,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "images_per_second": self.images / self.seconds if self.images else None,
            "device_waited": self.timings.waited if self.images else None,
            "stage_seconds": asdict(self.timings),
            "advice": self.advice,
        }

    def text(self) -> str:
        """Return lines for a person."""
        speed = ""
        if self.images:
            rate, waited = self.images / self.seconds, 100 * self.timings.waited
            speed = f", {rate:.1f} images/s, device waited {waited:.0f} %"
        if self.finished is None:
            line = f"{self.path}: part {self.part} is written{speed}; when all parts are, type: "
            line += f"clipfeat store finish {self.path}"
        else:
            digest = self.store.digest[:16]
            line = f"{self.path}: {counted(len(self.store), 'record')}{speed}, digest {digest}..."
        lines = [line]
        if n := len(self.refused):
            lines.append(f"{counted(n, 'image')} gave no record: {reasons_text(self.refused)}")
        if self.remarks:
            lines.append(f"extracted, with a remark: {remarks_text(self.remarks)}")
        if self.advice:
            lines.append(self.advice)
        return "\n".join(lines)

    def write(self) -> None:
        """Write the figures beside the store: they are no part of it."""
        path = beside(self.path, "run", self.part, "json")
        write_atomically(path, json.dumps(self.to_json(), indent=2).encode())


def beside(store: Path, kind: str, part: Part | None, ending: str) -> Path:
    """Return the path of a file that belongs to a store, or one part of it, and lies beside it.

    >>> beside(Path("a.clipfeat"), "run", None, "json").name
    'a.run.json'
    >>> beside(Path("a.clipfeat"), "run", Part(3, 16), "json").name
    'a.run-3-of-16.json'
    """
    suffix = f"-{part.number}-of-{part.of}" if part else ""
    return store.with_name(f"{store.name.removesuffix('.clipfeat')}.{kind}{suffix}.{ending}")
