"""What a run records while it trains: metrics, TensorBoard's events, timings, lines for people."""

import contextlib
import logging
import math
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import scalar

from ..base.files import naming
from .run import EVENTS, METRICS, append_metrics, open_metrics, require_no_link

logger = logging.getLogger(__name__)

LOG_SECONDS = 30.0  # between the lines of a log

Event: Any = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]
SessionLog: Any = event_pb2.SessionLog  # pyright: ignore[reportAttributeAccessIssue]
PLACES = ("step", "epoch")  # say where a number belongs, and are not plotted


class EventWriter:
    """Writes lines of metrics into an event file of its own; TensorBoard reads a folder of them."""

    def __init__(self, folder: Path, *, purge_step: int):
        """Begin a file in `folder`, and hide the steps from `purge_step` on of earlier files.

        A run that resumes from the checkpoint of step 40 passes 41, because a killed process may
        have written later steps.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # Names contain the second at which a file was begun. The suffix keeps them in order if a
        # run resumes within one second, and makes names that nobody can predict.
        suffix = f".{purge_step:09}.{secrets.token_hex(8)}"
        self._file = EventsWriter(str(folder / "events"), suffix)
        started = SessionLog(status=SessionLog.START)
        self._write(Event(step=purge_step, session_log=started))

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of a line of metrics, at its "step"; nested ones are named "a/b".

        They are flushed when this returns: tensorboardX's own SummaryWriter keeps them in a queue,
        and after a kill the steps before a checkpoint would be missing.
        """
        for name, number in _numbers(record):
            if name not in PLACES:
                self._write(Event(step=record["step"], summary=scalar(name, number)))
        self._file.flush()

    def close(self) -> None:
        """End the file."""
        self._file.close()

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._file.write_event(event)


def _numbers(record: Mapping[str, Any], outer: str = "") -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{outer}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield outer + name, value


class Log(Protocol):
    """Records numbers of an update."""

    def __call__(self, numbers: Mapping[str, Any], *, step: int, epoch: int) -> None: ...


@contextlib.contextmanager
def open_log(run: Path, *, step: int) -> Iterator[Log]:
    """Open the log of a run that resumes after update `step`; later entries are dropped."""
    require_no_link(run / EVENTS)
    with (
        open_metrics(run, step=step) as metrics,
        contextlib.closing(EventWriter(run / EVENTS, purge_step=step + 1)) as events,
    ):

        def log(numbers: Mapping[str, Any], *, step: int, epoch: int) -> None:
            record = {"step": step, "epoch": epoch + 1, **numbers}
            with naming(run / METRICS):
                append_metrics(metrics, record)
            with naming(run / EVENTS):
                events.write(record)

        yield log


def log_nothing(numbers: Mapping[str, Any], *, step: int, epoch: int) -> None:
    """Record nothing: of a group of processes, only the first one has a log."""


class ProgressLines:
    """Logs how far a run is, at most every LOG_SECONDS, where no terminal shows a progress bar."""

    def __init__(self, steps: int, epoch_steps: int, *, wanted: bool):
        self._steps = steps
        self._epochs = math.ceil(steps / epoch_steps)
        self._wanted = wanted
        self._last = time.monotonic()

    def add(self, step: int, epoch: int, best: float, text: str) -> None:
        """Log the state after update `step`: the best score so far, and `text`."""
        now = time.monotonic()
        if self._wanted and now - self._last > LOG_SECONDS:
            self._last = now
            score = f", best score {best:.2f}" if math.isfinite(best) else ""
            logger.info(
                f"epoch {epoch + 1} of {self._epochs:,}, update {step:,} of {self._steps:,}"
                f"{score}, {text}"
            )


Item = TypeVar("Item")


class LoopTimes:
    """Seconds of this process's training, and the share of them in which it had no data."""

    def __init__(self) -> None:
        self.updates = 0
        self._training = 0.0  # seconds, without those since `_started`
        self._waited = 0.0
        self._evaluated = 0.0
        self._started: float | None = None  # None during an evaluation

    def start(self) -> float:
        """Count from now on as training, and return the time by `time.perf_counter`."""
        self._training, self._started = self._seconds(), time.perf_counter()
        return self._started

    def watched(self, stream: Iterator[Item]) -> Iterator[Item]:
        """Yield the items of a stream, and count how long each was waited for."""
        while True:
            started = time.perf_counter()
            item = next(stream, None)
            self._waited += time.perf_counter() - started
            if item is None:
                return
            self.updates += 1
            yield item

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Count a block as evaluation; training counts again from the next `start`."""
        self._training, self._started = self._seconds(), None
        started = time.perf_counter()
        yield
        self._evaluated += time.perf_counter() - started

    @property
    def waited_percent(self) -> float:
        """Percent of the time of updates that was spent waiting for the next batch."""
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
