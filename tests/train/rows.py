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


class PointTask(RowTask):
    """Ten examples whose batches differ, and a model that is to return twos.

    It is interrupted after `stop_after` updates of this process. `evaluated` and `scores` have the
    weights and the score of each evaluation.
    """

    def __init__(self, settings: LoopSettings, *, stop_after: int | None = None) -> None:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.2))
        super().__init__(settings, model, Row(torch.zeros(1)), torch.Tensor.mean)
        self.order, self.stop_after, self.losses = Order(np.arange(10)), stop_after, 0
        self.evaluated: list[dict[str, torch.Tensor]] = []
        self.scores: list[float] = []

    def batch(self, numbers: np.ndarray, epoch: int) -> Row:
        return Row(torch.from_numpy(numbers).float()[:, None] + torch.arange(3) + 0.1 * epoch)

    def loss(self, model: torch.nn.Module, batch: Row) -> torch.Tensor:
        if self.losses == self.stop_after:
            raise KeyboardInterrupt
        self.losses += 1
        return (model(batch.row) - 2).square().mean()

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        model.eval()
        self.evaluated.append({n: t.clone() for n, t in model.state_dict().items()})
        with torch.inference_mode():
            error = float((model(torch.ones(1, 3)) - 2).abs().mean())
        self.scores.append(1 / (1e-3 + error))
        return {"score": self.scores[-1]}
