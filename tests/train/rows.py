"""A task without a store, whose batches are all the same: what the loop does is all there is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from clipfeat.train import Task
from clipfeat.train.batches import Order
from clipfeat.train.devices import accelerator_on
from clipfeat.train.settings import LoopSettings


class Row(NamedTuple):
    """A batch of one tensor."""

    row: torch.Tensor


class RowTask(Task[LoopSettings, torch.nn.Module]):
    """Three examples, all of them the same batch, and a loss of what the model makes of it."""

    name = "rows"
    store: Any = None  # `train` reads batches of the task alone

    def __init__(
        self,
        settings: LoopSettings,
        model: torch.nn.Module,
        row: Row,
        loss: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self.settings, self.model, self.row, self.loss_of_output = settings, model, row, loss
        self.accelerator = accelerator_on("cpu", settings)
        self.order = Order(np.arange(3))

    def batch(self, numbers: np.ndarray, epoch: int) -> Row:
        return self.row

    def loss(self, model: torch.nn.Module, batch: Row) -> torch.Tensor:
        return self.loss_of_output(model(batch.row))

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        return {"score": 1.0}
