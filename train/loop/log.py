"""What a run writes down while it trains: lines of metrics, and TensorBoard's events."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ...base.files import naming
from ..runs.folder import EVENTS, METRICS, append_metrics, open_metrics, require_no_link
from .tensorboard import EventWriter


class Log(Protocol):
    """Writes down numbers of an update."""

    def __call__(self, numbers: Mapping[str, Any], *, step: int, epoch: int) -> None: ...


@contextlib.contextmanager
def open_log(run: Path, *, step: int) -> Iterator[Log]:
    """Open the log of a run that goes on after update `step`; what lies beyond it is forgotten."""
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
    """Keep nothing, in the processes that do not speak for their group."""
