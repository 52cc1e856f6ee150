"""The state dict in a checkpoint, whatever a training script called it and its tensors.

The keys are those of open_clip, timm, DeepSpeed, Lightning and of many scripts. The prefixes are
those of torch's DistributedDataParallel (`module.`) and torch.compile (`_orig_mod.`), and of modules
that hold a CLIP model as `model` or `clip`.
"""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ...base.errors import ExtractUsageError
from ...base.pickles import Inert
from ...base.text import printable
from .weights_archive import module_state
from .weights_file import UnreadableWeights, quiet, read_file

STATES = ("state_dict", "model_state_dict", "model_state", "model", "module", "net", "weights")
AVERAGES = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "model_ema_state_dict"),
    *("model_state_dict_ema", "ema_model", "ema"),
)
PREFIXES = ("module.", "_orig_mod.", "model.", "clip.")
MAX_DEPTH = 4  # of a state dict in a checkpoint


class Weights(NamedTuple):
    """What a file of weights holds."""

    tensors: dict[str, Tensor]
    warning: str | None  # what a user should know of them


def read_weights(path: Path, *, averaged: bool = False) -> Weights:
    """Return the named tensors in a file: of a state dict, or of the one in a checkpoint.

    With `averaged` they are the averaged ones of a checkpoint that has both. Raises as `read_file`,
    and ExtractUsageError (E-WEIGHTS-AVERAGE) where there are none.
    """
    with quiet():
        content = read_file(path)
    averages = [key for key in AVERAGES if isinstance(content, dict) and _has_state(content, key)]
    warning = None
    if averaged:
        if not averages:
            raise ExtractUsageError(
                f"--ema: {path} has no averaged weights ({_describe(content)}; expected one of "
                f"{', '.join(AVERAGES)}); drop --ema",
                code="E-WEIGHTS-AVERAGE",
            )
        content = content[averages[0]]
    elif averages:
        plain = next((key for key in STATES if _has_state(content, key)), None)
        if plain is None:
            raise ExtractUsageError(
                f"--pretrained {path}: it has averaged weights alone ({averages[0]}); add --ema to "
                f"use them",
                code="E-WEIGHTS-AVERAGE",
            )
        warning = (
            f"{path} holds {plain} and {averages[0]} (averaged weights): {plain} is used, as "
            f"open_clip does; for the other, add --ema"
        )
    return Weights(_without_prefixes(_named_tensors(content)), warning)


def _has_state(content: Any, key: str) -> bool:
    return isinstance(content, dict) and isinstance(content.get(key), dict | Inert)


def _named_tensors(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a state dict, of a checkpoint that holds one, or of a whole module."""
    for _ in range(MAX_DEPTH):
        key = next((key for key in STATES if _has_state(content, key)), None)
        if key is None:
            break
        content = content[key]
    held = content
    if isinstance(content, Inert):
        try:
            held = module_state(content)
        except ValueError as error:
            raise UnreadableWeights(str(error)) from None
    tensors = {
        key: value
        for key, value in (held.items() if isinstance(held, dict) else ())
        if isinstance(key, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise UnreadableWeights(
            f"it does not hold named tensors; it is {_describe(content)}; "
            "save the model's state_dict() instead"
        )
    return tensors


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by the names that they have in the model itself."""
    result: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key
        while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
            name = name.removeprefix(prefix)
        if name in result:
            raise UnreadableWeights(
                f"it holds {printable(name):.80} twice, with different prefixes; save the one model "
                f"that you mean"
            )
        result[name] = tensor
    return result


def _describe(value: object) -> str:
    if isinstance(value, dict):
        # Python refuses to print a number of thousands of digits.
        names = (key if isinstance(key, str) else type(key).__name__ for key in list(value)[:5])
        keys = ", ".join(printable(name)[:40] for name in names)
        return f"a dict of {keys}" if value else "an empty dict"
    if value is None:
        return "nothing"
    name = ".".join(value.name) if isinstance(value, Inert) else type(value).__name__
    return f"of type {printable(name):.80}"
