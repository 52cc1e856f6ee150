"""How far an import or an export is."""

# pyright: reportMissingTypeStubs=false
# tqdm has no types.

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from threading import Lock
from typing import Self, TypeVar

from tqdm import tqdm

from ...base.text import size_text

logger = logging.getLogger(__name__)

LOG_SECONDS = 30.0  # between the lines of a log
Thing = TypeVar("Thing")


class Progress:
    """Shows how much is done of `total` images or bytes, None where it is not known.

    A terminal has one line that changes, a log gets a line now and then. Threads may share it.
    """

    def __init__(self, what: str, total: int | None, *, unit: str = "image", done: int = 0):
        self._what, self._total, self._unit = what, total, unit
        self._begun = self._done = done
        self._started = self._logged = time.monotonic()
        self._lock = Lock()
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=what,
            unit=unit,
            unit_scale=unit == "B",
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, count: int = 1) -> None:
        """Count what was done."""
        with self._lock:
            self._done += count
            self._bar.update(count)
            now = time.monotonic()
            if self._bar.disable and now - self._logged > LOG_SECONDS:
                self._logged = now
                logger.info(self.line(now - self._started))

    def line(self, seconds: float) -> str:
        """Return how far it is after `seconds`.

        >>> progress = Progress("import", 1000, done=100)
        >>> progress.add(200)
        >>> progress.line(10.0)
        'import: 300/1,000 images, 20.0 images/s'
        """
        rate = (self._done - self._begun) / max(seconds, 1e-9)
        if self._unit == "B":
            return f"{self._what}: {size_text(self._done)}, {size_text(int(rate))}/s"
        of = "" if self._total is None else f"/{self._total:,}"
        return f"{self._what}: {self._done:,}{of} {self._unit}s, {rate:.1f} {self._unit}s/s"

    def each(self, things: Iterable[Thing]) -> Iterator[Thing]:
        """Yield things, and count each once it has been worked on."""
        for thing in things:
            yield thing
            self.add()
