"""The optimizer that the settings name."""

from torch import nn
from torch.optim import Adamax, AdamW, Optimizer

from ..settings import LoopSettings

OPTIMIZERS = {"adamw": AdamW, "adamax": Adamax}


def make_optimizer(model: nn.Module, settings: LoopSettings) -> Optimizer:
    """Return an optimizer of all of a model's parameters; the loop sets its rate."""
    first, second = settings.betas
    return OPTIMIZERS[settings.optimizer](
        model.parameters(),
        lr=settings.lr,
        betas=(first, second),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )
