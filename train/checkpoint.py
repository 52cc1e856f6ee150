"""Checkpoints, one safetensors file each with JSON in its header, and the best model of a run."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from ..base.errors import ClipfeatError, UsageError
from ..base.files import check_tensorfile, write_atomically
from ..base.jsonio import field, parse_json
from ..base.text import printable
from ..featstore import FeatureStore
from .normalize import FeatureNorm, statistics_of
from .optimizer import Learner
from .run import BEFORE_LAST, LAST, VOCABULARY, RunManifest, find_best, read_manifest
from .settings import SplitSettings, settings_of

logger = logging.getLogger(__name__)

Tensors = Mapping[str, Tensor]
State = dict[str, Any]
M = TypeVar("M", bound=nn.Module)
S = TypeVar("S", bound=SplitSettings)
V = TypeVar("V")

FILE_BYTES = 32 << 30  # a model of 2e9 parameters, with two numbers that Adam keeps of each


class DamagedCheckpointError(ClipfeatError):
    """A checkpoint that does not hold what was written."""


def write_checkpoint(path: Path, tensors: Tensors, state: Mapping[str, Any]) -> None:
    """Write tensors and a JSON state as one file, whole or not at all."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One key: safetensors writes several in any order, and equal runs have equal files.
    header = {"checkpoint": json.dumps({"state": state, "sha256": _digest(on_cpu, state)})}
    write_atomically(path, safetensors.torch.save(on_cpu, header))


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], State]:
    """Return (tensors, state) of a checkpoint.

    Raises DamagedCheckpointError for a file that is not a checkpoint, or has a changed bit.
    """
    try:
        check_tensorfile(path, FILE_BYTES)
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = parse_json((file.metadata() or {})["checkpoint"])
        state, written = header["state"], header["sha256"]
        if not isinstance(state, dict):
            raise TypeError("its state is not an object")
        digest = _digest(tensors, state)
    except OSError as error:
        reason = error.strerror or str(error)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError, MemoryError,
            RuntimeError) as error:  # fmt: skip
        reason = str(error)
    else:
        if digest != written:
            raise DamagedCheckpointError(
                f"{path}: damaged, its sha256 is not the one written in it",
                code="E-CHECKPOINT-DAMAGED",
            )
        return tensors, state
    raise DamagedCheckpointError(
        f"{path}: not a readable checkpoint ({printable(reason[:300])})",
        code="E-CHECKPOINT-UNREADABLE",
    )


def _digest(tensors: Tensors, state: Mapping[str, Any]) -> str:
    """Return the sha256 of a state and of all tensors with their names, dtypes and shapes."""
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        if tensor.numel():  # torch cannot view an empty one as bytes
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's weights and buffers, as `model.cell.weight`."""
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


def load_model(model: nn.Module, tensors: Tensors, path: Path, *, assign: bool = False) -> None:
    """Fill a model from the tensors of checkpoint `path`; ClipfeatError if they do not fit.

    With `assign` the tensors themselves become the model's.
    """
    try:
        model.load_state_dict(_under("model.", tensors), assign=assign)
    except RuntimeError as error:
        reason = printable(" ".join(str(error).split())[:1000])
        raise ClipfeatError(
            f"{path}: the checkpoint belongs to another model ({reason})", code="E-RUN-MODEL"
        ) from None


def rebuild(build: Callable[[], M], tensors: Tensors, path: Path) -> M:
    """Return the model that `build` makes, filled from the tensors of checkpoint `path`.

    Its sizes come from another file, which may have been changed. So it is first built without
    memory. Raises ClipfeatError if the checkpoint does not fit.
    """
    with torch.device("meta"):
        load_model(build(), tensors, path, assign=True)  # meta tensors take no copy
    model = build()
    load_model(model, tensors, path)
    return model


def write_training(run: Path, learner: Learner, state: Mapping[str, Any]) -> None:
    """Write all that resuming needs; the previous checkpoint is kept, in case this one is damaged.

    Of a parameter `head.weight`, `model.head.weight` has the weights, `average.head.weight` their
    average and `optimizer.head.weight.exp_avg` the optimizer's state. The header has the optimizer's
    groups. The state of random numbers is not needed: those of an update follow from the seed and
    its number.
    """
    names = _optimized(learner)
    slots = {
        f"optimizer.{names[number]}.{slot}": tensor
        for number, memory in learner.optimizer.state_dict()["state"].items()
        for slot, tensor in memory.items()
    }
    averages = learner.average.tensors if learner.average else {}
    tensors = {
        **model_tensors(learner.model),
        **{f"average.{name}": tensor for name, tensor in averages.items()},
        **slots,
    }
    if (run / LAST).is_file():
        (run / LAST).replace(run / BEFORE_LAST)
    write_checkpoint(run / LAST, tensors, {**state, "groups": _groups(learner.optimizer)})


def load_training(run: Path, learner: Learner) -> State | None:
    """Fill `learner` from the run's last good checkpoint, and return its state.

    Returns None if no checkpoint exists yet. A damaged newest checkpoint is logged. The optimizer
    keeps the settings and the groups it was made with. Raises ClipfeatError if the checkpoint belongs
    to another run or has other groups, or all of them are damaged.
    """
    paths = [run / name for name in (LAST, BEFORE_LAST) if (run / name).is_file()]
    for number, path in enumerate(paths, start=1):
        try:
            tensors, state = read_checkpoint(path)
        except DamagedCheckpointError as error:
            if number == len(paths):
                raise ClipfeatError(
                    f"{error}; delete {run} to start again", code="E-RUN-RESUME"
                ) from None
            logger.info(f"{error}; resuming from {paths[number]}")
            continue
        load_model(learner.model, tensors, path)
        groups = field(state, "groups", list, path)
        try:
            _load_average(learner, tensors)
            _load_optimizer(learner, tensors, groups)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise ClipfeatError(
                f"{path}: training cannot resume from it ({printable(str(error)[:300])}); "
                "delete it to start again",
                code="E-RUN-RESUME",
            ) from None
        return state
    return None


def _optimized(learner: Learner) -> list[str]:
    """Return the names of the parameters, in the order of the optimizer."""
    name_of = {parameter: name for name, parameter in learner.model.named_parameters()}
    return [name_of[p] for group in learner.optimizer.param_groups for p in group["params"]]


def _groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Return how many parameters each group of an optimizer has, and what it does with them."""
    return [
        {
            "parameters": len(group["params"]),
            "weight_decay": group["weight_decay"],
            "lr_scale": group["lr_scale"],
        }
        for group in optimizer.param_groups
    ]


def _load_average(learner: Learner, tensors: Tensors) -> None:
    """Fill the average of the weights; KeyError or ValueError where the tensors do not fit."""
    averages = learner.average.tensors if learner.average else {}
    for name, average in averages.items():
        written = tensors[f"average.{name}"]
        if written.shape != average.shape:
            raise ValueError(f"the average of {name} has another shape")
        average.copy_(written)


def _load_optimizer(learner: Learner, tensors: Tensors, groups: list[Any]) -> None:
    """Fill the optimizer; raises KeyError, ValueError or TypeError where the tensors do not fit."""
    own = _groups(learner.optimizer)
    if groups != own:
        raise ValueError(f"its groups of parameters are {groups}, not {own}")
    memory: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _under("optimizer.", tensors).items():
        name, _, slot = key.rpartition(".")
        memory.setdefault(name, {})[slot] = tensor
    _check_memory(memory, dict(learner.model.named_parameters()))
    state = {number: memory[name] for number, name in enumerate(_optimized(learner))}
    param_groups = learner.optimizer.state_dict()["param_groups"]
    learner.optimizer.load_state_dict({"state": state, "param_groups": param_groups})


def _check_memory(memory: Mapping[str, Tensors], parameters: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the optimizer's state has the same tensors for each parameter."""
    if memory.keys() != parameters.keys():
        raise ValueError(f"it has the state of {len(memory)} of {len(parameters)} parameters")
    slots = {slot for tensors in memory.values() for slot in tensors}
    for name, parameter in parameters.items():
        for slot in slots:
            if memory[name][slot].shape not in ((), parameter.shape):
                raise ValueError(f"{slot} of parameter {name} has another shape")


def _under(prefix: str, tensors: Tensors) -> dict[str, Tensor]:
    """Return the tensors whose names start with `prefix`, without it."""
    return {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}


@dataclass(frozen=True)
class TrainedRun(Generic[S, V, M]):
    """The best model of a run, on the CPU, with all that using it needs."""

    folder: Path
    manifest: RunManifest
    settings: S
    vocabulary: V
    model: M
    epoch: int  # of the checkpoint


@dataclass(frozen=True, kw_only=True)
class EvalRequest:
    """What a run's best model is scored on; None stands for what the run was trained with."""

    split: str
    store: str | Path | None = None
    data: Path | None = None
    device: str | None = None  # "cpu" or "cuda"; None: a GPU if there is one
    skip_missing: int | None = None

    def open(self, run: TrainedRun[S, V, M]) -> tuple[TrainedRun[S, V, M], FeatureStore, Path]:
        """Return the run with these settings, the store and the folder of the data.

        Raises StoreError for a store that cannot be opened.
        """
        if self.skip_missing is not None:
            settings = dataclasses.replace(run.settings, skip_missing=self.skip_missing)
            run = dataclasses.replace(run, settings=settings)
        store = FeatureStore.open(self.store or run.manifest.store)
        return run, store, self.data or Path(run.manifest.data)


def require_blind(trained: TrainedRun[Any, Any, Any]) -> None:
    """Raise UsageError (E-RUN-BLIND) unless a run saw no features, as a blind twin must."""
    if not trained.settings.blind:
        raise UsageError(
            f"--blind {trained.folder} was trained with blind=false; pass a run with blind=true",
            code="E-RUN-BLIND",
        )


def load_trained(
    folder: Path,
    task: str,
    settings_type: type[S],
    *,
    read_vocabulary: Callable[[Path], V],
    norm: str,
    build: Callable[[S, FeatureNorm, V], M],
) -> TrainedRun[S, V, M]:
    """Return the best model of a run folder.

    `norm` is where the model has its `FeatureNorm`; `build` makes a model of random weights. Raises
    UsageError where the folder is no run of `task` or has no checkpoint yet.
    """
    manifest = read_manifest(folder)
    if manifest.task != task:
        raise UsageError(
            f"{folder} is a run of task {manifest.task!r}, not {task}", code="E-RUN-TASK"
        )
    path = find_best(folder)
    settings = settings_of(settings_type, manifest.settings)
    vocabulary = read_vocabulary(folder / VOCABULARY)
    tensors, state = read_checkpoint(path)
    statistics = statistics_of(
        tensors, f"model.{norm}", path, norm=settings.norm, components=settings.components
    )

    def new_model() -> M:
        normal = FeatureNorm(statistics, blind=settings.blind, regions=manifest.regions)
        return build(settings, normal, vocabulary)

    model = rebuild(new_model, tensors, path)
    epoch = field(state, "epoch", int, path)
    return TrainedRun(folder, manifest, settings, vocabulary, model, epoch)
