"""What a person sees of a run: one line that changes on a terminal, a line a while in a log."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..base.files import write_atomically
from ..featstore import FeatureStore, IndexRow
from ..featstore.layout import Part
from ..featstore.tables import frequent_reasons, reasons_text, remarks_text
from .executors.batches import Spent, Step

LOG_SECONDS = 30.0  # between the lines of a log


class Progress:
    """Follows the steps of a run of `total` images, `down` of which an earlier run has done."""

    def __init__(self, total: int, down: int, say: Callable[[str], None]):
        self.images = self.refused = self.bytes = 0
        self.spent = Spent()
        self._total, self._down = total, down
        self._say = say
        self._started = self._said = time.monotonic()
        shape = "{percentage:3.0f}%|{bar:16}| {desc}"
        self._bar = tqdm(
            total=total, initial=down, bar_format=shape, disable=not sys.stderr.isatty()
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, step: Step) -> None:
        """Count a step and, now and then, say so."""
        self.images += step.images
        self.refused += step.refused
        self.bytes += step.bytes
        self.spent += step.spent
        if step.remark:
            with tqdm.external_write_mode(file=sys.stderr):  # the line makes room, and comes back
                self._say(step.remark)
        now = time.monotonic()
        if not self._bar.disable:
            self._bar.set_description_str(self.line(now - self._started), refresh=False)
            self._bar.update(step.images)
        elif now - self._said > LOG_SECONDS:
            self._said = now
            self._say(self.line(now - self._started))

    def line(self, seconds: float) -> str:
        """Return the state of the run after `seconds`.

        >>> progress = Progress(1000, 0, print)
        >>> progress.add(Step(200, 3, 80_000_000, Spent(wall=10.0, device=9.9), None))
        >>> progress.line(10.0)
        '200/1,000 images, 3 refused, 20.0 images/s, 8.0 MB/s, device waited 1 %, 40 s left'
        """
        done = self._down + self.images
        rate = self.images / seconds if seconds else 0.0
        left = f"{duration((self._total - done) / rate)} left" if rate else "no rate yet"
        return (
            f"{done:,}/{self._total:,} images, {self.refused:,} refused, {rate:.1f} images/s, "
            f"{self.bytes / 1e6 / max(seconds, 1e-9):.1f} MB/s, "
            f"device waited {100 * self.spent.waited:.0f} %, {left}"
        )


def duration(seconds: float) -> str:
    """Return seconds for a person.

    >>> duration(40), duration(3700), duration(200_000)
    ('40 s', '1 h 2 min', '2 d 8 h')
    """
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes:.0f} min"
    if hours < 48:
        return f"{int(hours)} h {int(minutes) % 60} min"
    return f"{int(days)} d {int(hours) % 24} h"


@dataclass(frozen=True)
class Report:
    """What an extraction, or one part of it, came to."""

    path: Path  # of the store
    part: Part | None
    finished: FeatureStore | None  # None: a part is down, and other parts may be missing
    refused: tuple[IndexRow, ...]
    images: int  # extracted by this run
    bytes: int  # of features, written by this run
    seconds: float  # from the first image's file to the finished store
    spent: Spent
    remarks: Sequence[dict[str, Any]] = ()  # on images that have a record, counted

    @property
    def store(self) -> FeatureStore:
        """Return the store; a part has none."""
        assert self.finished is not None, "a part of a store is not a store"
        return self.finished

    def to_json(self) -> dict[str, Any]:
        """Return the same for scripts; rates are None if nothing was left to do."""
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
            "device_waited": self.spent.waited if self.images else None,
            "stage_seconds": asdict(self.spent),
        }

    def text(self) -> str:
        """Return lines for a person."""
        speed = ""
        if self.images:
            rate, waited = self.images / self.seconds, 100 * self.spent.waited
            speed = f", {rate:.1f} images/s, device waited {waited:.0f} %"
        if self.finished is None:
            line = f"{self.path}: part {self.part} is written{speed}; when all parts are, type: "
            line += f"clipfeat store finish {self.path}"
        else:
            digest = self.store.digest[:16]
            line = f"{self.path}: {len(self.store)} records{speed}, digest {digest}..."
        lines = [line]
        if n := len(self.refused):
            lines.append(f"{n} image{'s' * (n != 1)} gave no record: {reasons_text(self.refused)}")
        if self.remarks:
            lines.append(f"extracted, with a remark: {remarks_text(self.remarks)}")
        return "\n".join(lines)

    def write(self) -> None:
        """Write the figures beside the store: they are no part of it."""
        write_atomically(
            run_file(self.path, self.part), json.dumps(self.to_json(), indent=2).encode()
        )


def run_file(store: Path, part: Part | None) -> Path:
    """Return where the figures of a store's last run lie."""
    return beside(store, "run", part, "json")


def beside(store: Path, kind: str, part: Part | None, ending: str) -> Path:
    """Return where a file lies that belongs to a store, or one part of it, and is not in it.

    >>> beside(Path("a.clipfeat"), "run", None, "json").name
    'a.run.json'
    >>> beside(Path("a.clipfeat"), "run", Part(3, 16), "json").name
    'a.run-3-of-16.json'
    """
    which = f"-{part.number}-of-{part.of}" if part else ""
    return store.with_name(f"{store.name.removesuffix('.clipfeat')}.{kind}{which}.{ending}")
