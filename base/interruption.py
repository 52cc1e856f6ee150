"""Ctrl-C for threads: Python tells only the main thread, which then has to wait for the others.

A number is enough, and no lock: a signal handler may come while a lock is held, and so may a fork.
"""

from dataclasses import dataclass, field
from time import monotonic, sleep

STEP_SECONDS = 0.25  # a thread that waits notices an interruption after so long at most

_interruptions = 0


class Stopped(Exception):
    """The work of a thread was ended by another one."""


def interrupt() -> None:
    """End what threads of this process wait for now: each raises Stopped."""
    global _interruptions
    _interruptions += 1


@dataclass(frozen=True)
class Interruption:
    """The next interruption after this was made."""

    _before: int = field(default_factory=lambda: _interruptions)

    def check(self) -> None:
        """Raise Stopped if it has happened."""
        if _interruptions != self._before:
            raise Stopped

    def pause(self, seconds: float) -> None:
        """Wait, and raise Stopped as soon as it happens."""
        end = monotonic() + seconds
        while True:
            self.check()
            left = end - monotonic()
            if left <= 0:
                return
            sleep(min(STEP_SECONDS, left))
