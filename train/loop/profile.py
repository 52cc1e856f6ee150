"""Where the time of training goes: waiting for data, computing, evaluating."""

import contextlib
import time
from collections.abc import Iterator
from typing import TypeVar

Item = TypeVar("Item")


class LoopTimes:
    """Seconds of this process's training, and the share of them in which it had no data."""

    def __init__(self) -> None:
        self.updates = 0
        self._training = 0.0  # seconds, the current epoch not counted
        self._waited = 0.0
        self._evaluated = 0.0
        self._started: float | None = None  # of the current epoch

    def start_epoch(self) -> float:
        """Begin to count, and return the time by `time.perf_counter`."""
        self._started = time.perf_counter()
        return self._started

    def watched(self, stream: Iterator[Item]) -> Iterator[Item]:
        """Yield the items of a stream, and count how long each was waited for."""
        while True:
            asked = time.perf_counter()
            item = next(stream, None)
            self._waited += time.perf_counter() - asked
            if item is None:
                return
            self.updates += 1
            yield item

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Count a block as evaluation; it ends the epoch."""
        self._training, self._started = self._seconds(), None
        started = time.perf_counter()
        yield
        self._evaluated += time.perf_counter() - started

    @property
    def waited_percent(self) -> float:
        """Percent of the time of updates in which the next batch was not there yet."""
        return round(100 * self._waited / max(self._seconds(), 1e-9), 2)

    def table(self) -> str:
        """Return the figures as lines for people."""
        each = 1e3 * self._seconds() / max(self.updates, 1)
        return "\n".join(
            (
                f"{self.updates:>10,} updates",
                f"{each:>10.1f} ms an update",
                f"{self.waited_percent:>10.2f} % of it waiting for data",
                f"{self._evaluated:>10.1f} s of evaluation",
            )
        )

    def _seconds(self) -> float:
        now = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._training + now
