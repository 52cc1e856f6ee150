"""What a person sees of a run: one line that changes on a terminal, a line a while in a log."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from .running.batches import Step
from .running.profile import Spent

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
