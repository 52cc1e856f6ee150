"""The optimizer: the parameters that decay, and the rate of each layer."""

import re
from typing import Any

from torch import nn
from torch.optim import Adamax, AdamW, Optimizer

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
    """Return an optimizer of all of a model's parameters; the loop sets its rate."""
    first, second = settings.betas
    return OPTIMIZERS[settings.optimizer](
        parameter_groups(model, settings),
        lr=settings.lr,
        betas=(first, second),
        eps=settings.eps,
    )


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of each group: the schedule's rate times the group's `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
