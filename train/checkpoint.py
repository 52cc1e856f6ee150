"""Checkpoints: one safetensors file each, with JSON in its header; nothing in it is executed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from ..base.errors import ClipfeatError
from ..base.files import write_atomically
from .jsonfile import field

Tensors = Mapping[str, Tensor]


def write_checkpoint(path: Path, tensors: Tensors, state: Mapping[str, Any]) -> None:
    """Write tensors and a JSON state as one file, whole or not at all."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(on_cpu, {"state": json.dumps(state)}))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors, state) of a checkpoint; ClipfeatError if the file is not one."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = json.loads((file.metadata() or {})["state"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ClipfeatError(f"{path}: not a readable checkpoint ({error})") from None
    return tensors, state


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's weights and buffers, as `model.cell.weight`."""
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


def load_model(model: nn.Module, tensors: Tensors, path: Path) -> None:
    """Fill a model from the tensors of checkpoint `path`; ClipfeatError where they do not fit."""
    try:
        model.load_state_dict(_under("model.", tensors))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ClipfeatError(f"{path}: the checkpoint is of another model ({reason})") from None


def training_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return all that going on takes: the model, the optimizer's memory, random numbers.

    `optimizer.3.exp_avg` belongs to the fourth parameter.
    """
    slots = {
        f"optimizer.{parameter}.{name}": tensor
        for parameter, memory in optimizer.state_dict()["state"].items()
        for name, tensor in memory.items()
    }
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    random = {f"random.cuda{number}": state for number, state in enumerate(gpus)}
    return {**model_tensors(model), **slots, **random, "random.cpu": torch.get_rng_state()}


def load_training(path: Path, model: nn.Module, optimizer: Optimizer) -> tuple[int, float]:
    """Bring model, optimizer and random numbers to where a checkpoint was written.

    Returns (step, best score). The optimizer keeps the settings it was made with. Raises
    ClipfeatError where the checkpoint does not fit.
    """
    tensors, state = read_checkpoint(path)
    load_model(model, tensors, path)
    memory: dict[int, dict[str, Tensor]] = {}
    try:
        for key, tensor in _under("optimizer.", tensors).items():
            parameter, _, name = key.partition(".")
            memory.setdefault(int(parameter), {})[name] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": memory, "param_groups": groups})
        torch.set_rng_state(tensors["random.cpu"])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ClipfeatError(
            f"{path}: no training can go on from this ({error}); delete it to start again"
        ) from None
    for number in range(torch.cuda.device_count()):
        if f"random.cuda{number}" in tensors:
            torch.cuda.set_rng_state(tensors[f"random.cuda{number}"], number)
    return field(state, "step", int, path), field(state, "best", float, path)


def _under(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix`, without it."""
    return {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}
