"""What an update changes: weights, by an optimizer in groups of parameters, and their average."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Adamax, AdamW, Optimizer, RMSprop
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..base.errors import UsageError
from .settings import LoopSettings

OPTIMIZERS = {"adamw": AdamW, "adamax": Adamax}
UNDECAYED = (nn.Embedding, nn.LayerNorm, nn.RMSNorm)
# As the library transformers names the parts of a BERT.
BERT_EMBEDDINGS = re.compile(r"(^|\.)bert\.embeddings\.")
BERT_LAYER = re.compile(r"(^|\.)bert\.encoder\.layer\.(\d+)\.")


def decays(module: nn.Module, name: str) -> bool:
    """Return whether weight decay applies to the parameter `name` of `module` itself.

    It applies to matrices and filters, but not to biases, embeddings, the weights of norms and other
    vectors and numbers, such as the one length of a weight-normed matrix.
    """
    matrix = module.get_parameter(name).ndim > 1
    return matrix and "bias" not in name and not isinstance(module, UNDECAYED)


def bert_layer(name: str) -> int | None:
    """Return the layer of a BERT that has the parameter `name`, counted from 1.

    The embeddings of pieces are layer 0. Returns None for a parameter outside of a BERT.

    >>> bert_layer("encoder.bert.encoder.layer.3.output.dense.weight")
    4
    """
    if BERT_EMBEDDINGS.search(name):
        return 0
    layer = BERT_LAYER.search(name)
    return None if layer is None else 1 + int(layer[2])


def require_layers(model: nn.Module, settings: LoopSettings) -> None:
    """Raise UsageError (E-SETTINGS-LAYERS) for a model whose layers cannot have different rates."""
    if settings.layer_decay < 1 and all(bert_layer(n) is None for n, _ in model.named_parameters()):
        raise UsageError(
            f"layer_decay is {settings.layer_decay}, and {type(model).__name__} has no layers of a "
            "BERT; pass --set layer_decay=1, or train model single_stream",
            code="E-SETTINGS-LAYERS",
        )


def parameter_groups(model: nn.Module, settings: LoopSettings) -> list[dict[str, Any]]:
    """Return the parameters of a model in groups with the same `weight_decay` and `lr_scale`.

    Layer k of the n layers of a BERT has the rate lr * layer_decay^(n - k); its embeddings, as layer
    0, have the lowest (Sun et al. 2019, "How to Fine-Tune BERT for Text Classification?"). All parts
    outside of the BERT, such as heads, have the rate lr. A parameter that two modules share belongs
    to the first of them.
    """
    parameters = dict(model.named_parameters())
    layer_of = {name: bert_layer(name) for name in parameters}
    layers = max((layer for layer in layer_of.values() if layer is not None), default=0)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        owner, _, own_name = name.rpartition(".")
        decayed = decays(model.get_submodule(owner), own_name)
        layer = layer_of[name]
        scale = 1.0 if layer is None else settings.layer_decay ** (layers - layer)
        group = (settings.weight_decay if decayed else 0.0, scale)
        groups.setdefault(group, []).append(parameter)
    return [
        {"params": group, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), group in groups.items()
    ]


def make_optimizer(model: nn.Module, settings: LoopSettings) -> Optimizer:
    """Return an optimizer of all of a model's parameters; the loop sets its rate.

    RMSprop has torch's smoothing constant of 0.99, and no betas.
    """
    groups = parameter_groups(model, settings)
    if settings.optimizer == "rmsprop":
        return RMSprop(groups, lr=settings.lr, eps=settings.eps)
    first, second = settings.betas
    return OPTIMIZERS[settings.optimizer](
        groups,
        lr=settings.lr,
        betas=(first, second),
        eps=settings.eps,
    )


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of each group: the schedule's rate times the group's `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


class WeightAverage:
    """An exponential moving average of a model's weights, which begins with their initial values.

    After update t (from 1) the average is d * average + (1 - d) * weights, where d is the smaller
    one of `decay` and (1 + t) / (10 + t), so that the initial weights are forgotten soon (as in
    TensorFlow's ExponentialMovingAverage with its `num_updates`). Buffers are not averaged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights: dict[str, Tensor] = dict(model.named_parameters())
        self.tensors = {name: weight.detach().clone() for name, weight in self._weights.items()}

    def update(self, step: int) -> None:
        """Take in the weights after update `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average = get_ema_multi_avg_fn(decay)
        average(list(self.tensors.values()), list(self._weights.values()), step)

    @contextlib.contextmanager
    def in_model(self) -> Iterator[None]:
        """Give the model the average of its weights during the block, bit for bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        # Values, not tensors: on a GPU the weights of an LSTM lie in one buffer.
        for name, weight in self._weights.items():
            held = weight.clone()
            weight.copy_(self.tensors[name])
            self.tensors[name].copy_(held)


class Learner(NamedTuple):
    """All that the updates of a run change, and that resuming restores."""

    model: nn.Module  # without the wrapper of several processes
    optimizer: Optimizer
    average: WeightAverage | None

    @classmethod
    def of(cls, model: nn.Module, optimizer: Optimizer, settings: LoopSettings) -> "Learner":
        """Return a model's learner, with an average of its weights if the settings have an `ema`."""
        average = WeightAverage(model, settings.ema) if settings.ema else None
        return cls(model, optimizer, average)

    def evaluated(self) -> contextlib.AbstractContextManager[None]:
        """Return a block in which the model has the weights that are evaluated."""
        return contextlib.nullcontext() if self.average is None else self.average.in_model()
