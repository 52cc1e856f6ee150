"""A training that ends in the middle of an update, as if its process had been killed there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Stopped(BaseException):
    """What ends it."""


@contextmanager
def stop_in_update(monkeypatch: pytest.MonkeyPatch, task: type, update: int) -> Iterator[None]:
    """Stop the training of a task in its update `update`, from 1, of this block."""
    loss, begun = task.loss, []  # type: ignore[attr-defined]

    def limited(self: Any, model: Any, batch: Any) -> Any:
        begun.append(batch)
        if len(begun) == update:
            raise Stopped
        return loss(self, model, batch)

    with monkeypatch.context() as patched:
        patched.setattr(task, "loss", limited)
        yield
