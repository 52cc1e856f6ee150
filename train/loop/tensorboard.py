"""A run's metrics as TensorBoard's event files."""

import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2  # its classes are made at import; pyright sees none
from tensorboardX.summary import scalar

Event: Any = event_pb2.Event  # pyright: ignore[reportAttributeAccessIssue]
SessionLog: Any = event_pb2.SessionLog  # pyright: ignore[reportAttributeAccessIssue]
PLACES = ("step", "epoch")  # where a number belongs, no numbers to plot


class EventWriter:
    """Writes lines of metrics into an event file of its own; TensorBoard reads a folder of them."""

    def __init__(self, folder: Path, *, purge_step: int):
        """Begin a file in `folder`, and hide the steps from `purge_step` on of those before it.

        A run that goes on from the checkpoint of step 40 passes 41: a killed process may have
        written more.
        """
        folder.mkdir(parents=True, exist_ok=True)
        # Names carry the second at which a file was begun. The suffix keeps them in order where a
        # run is killed and goes on within one, and nobody can put a link in a file's place before.
        suffix = f".{purge_step:09}.{secrets.token_hex(8)}"
        self._file = EventsWriter(str(folder / "events"), suffix)
        started = SessionLog(status=SessionLog.START)
        self._write(Event(step=purge_step, session_log=started))

    def write(self, record: Mapping[str, Any]) -> None:
        """Write the numbers of a line of metrics, at its "step"; nested ones are named "a/b".

        They are on disk when this returns: tensorboardX's own SummaryWriter keeps them in a
        queue, and a kill after a checkpoint would leave a hole before it.
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
