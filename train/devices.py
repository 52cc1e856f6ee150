"""Where a model computes: one device, or one for each process of a group."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from ..base.errors import ClipfeatError, UsageError
from ..base.machine import CLEARLY, slower_than_float32
from .launch import is_first
from .settings import AUTO, LoopSettings

logger = logging.getLogger(__name__)

MIXED_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def accelerator_on(device: str | None, settings: LoopSettings) -> Accelerator:
    """Return what places a model that is trained on `device`.

    `device` is "cpu", "cuda", or None for a GPU if there is one. In a process that torchrun or
    `clipfeat train --gpus` has started, it joins the others. Precision "auto" is bfloat16 on a GPU that
    has it, and float32 elsewhere. A precision that is slow on the device is logged. Raises UsageError
    for a device that does not exist or lacks the precision.
    """
    cpu = _is_cpu(device)
    precision = _choose(settings.precision, cpu=cpu)
    if precision == "float16" and cpu:
        instead = "bfloat16" if _is_fast("bfloat16", cpu=True) else "float32"
        raise UsageError(
            f"precision float16 needs a GPU; type --set precision={instead}",
            code="E-PRECISION-DEVICE",
        )
    if not _is_fast(precision, cpu=cpu) and is_first():
        hardware, instead = ("processor", "float32") if cpu else ("GPU", "float16")
        logger.info(
            f"this {hardware} only emulates bfloat16, many times slower than {instead}; for a new "
            f"run, type --set precision={instead}",
        )
    return _accelerator(precision, cpu=cpu)


def accelerator_of_trained(device: str | None, settings: LoopSettings) -> Accelerator:
    """Return what places a trained model on `device`, which is given as for `accelerator_on`.

    It computes in the precision of its training. If the device lacks that or is slow in it, it
    computes in float32, in which all weights are stored. Raises UsageError for a device that does
    not exist.
    """
    cpu = _is_cpu(device)
    precision = _choose(settings.precision, cpu=cpu)
    if not _is_fast(precision, cpu=cpu):
        hardware = "processor" if cpu else "GPU"
        logger.info(
            f"trained in {precision}, which this {hardware} does not compute fast; float32 is used"
        )
        precision = "float32"
    return _accelerator(precision, cpu=cpu)


def precision_of(accelerator: Accelerator) -> str:
    """Return the precision of the forward passes on an accelerator, as settings name it."""
    (name,) = (
        name for name, mixed in MIXED_PRECISION.items() if mixed == accelerator.mixed_precision
    )
    return name


def require_precision(accelerator: Accelerator, precision: str, run: Path) -> None:
    """Raise UsageError (E-RUN-PRECISION) where a run's precision is not that of the accelerator."""
    given = precision_of(accelerator)
    if given != precision:
        raise UsageError(
            f"{run} is trained in {precision}, and this task's accelerator computes in {given}; make "
            f'the accelerator and the task with precision "{precision}" in the settings',
            code="E-RUN-PRECISION",
        )


def _choose(precision: str, *, cpu: bool) -> str:
    """Return a precision, or what "auto" stands for on a device."""
    if precision != AUTO:
        return precision
    return "bfloat16" if not cpu and _is_fast("bfloat16", cpu=cpu) else "float32"


def _accelerator(precision: str, *, cpu: bool) -> Accelerator:
    # Accelerate keeps one state for each process, and rejects a second run of another precision.
    AcceleratorState._reset_state(reset_partial_state="LOCAL_RANK" not in os.environ)
    return Accelerator(cpu=cpu, mixed_precision=MIXED_PRECISION[precision])


def _is_cpu(device: str | None) -> bool:
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "--device cuda: torch finds no GPU on this machine; pass --device cpu",
            code="E-GPUS-ABSENT",
        )
    return device == "cpu" or not torch.cuda.is_available()


def _is_fast(precision: str, *, cpu: bool) -> bool:
    """Return whether a device computes in a precision itself, and no slower than in float32."""
    if precision == "float16":
        return not cpu
    if precision == "bfloat16" and cpu:
        return slower_than_float32(precision) <= CLEARLY
    # torch counts a GPU that emulates it as one that has it.
    return precision == "float32" or torch.cuda.is_bf16_supported(including_emulation=False)


def leave_group() -> None:
    """Leave the group of processes, if there is one, when all of them have called this.

    At the end of the interpreter, the threads of gloo and NCCL would stop in any order.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def restored_random_state(device: torch.device) -> Iterator[None]:
    """Restore the state of torch's random numbers, of the CPU and of `device`, after the block.

    Training seeds them for every update; the caller may depend on their state.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's random numbers of the CPU in this block, in which a model is initialised."""
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        yield


MODEL_SIZE_REMEDY = "the model does not fit; lower its sizes, such as model.hidden"


@contextlib.contextmanager
def memory_errors(remedy: str) -> Iterator[None]:
    """Turn torch's errors of too little memory, of a device or the host, into a ClipfeatError."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        texts = ("out of memory", "not enough memory", "can't allocate memory")
        if not any(text in str(error).lower() for text in texts):
            raise
        raise ClipfeatError(f"out of memory: {remedy}", code="E-RUN-MEMORY") from None


@contextlib.contextmanager
def precision_errors(
    precision: str, remedy: str = "type --set precision=float32"
) -> Iterator[None]:
    """Turn torch's errors of a missing kernel for a precision into a ClipfeatError."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).split("\n")[0]
        missing = isinstance(error, NotImplementedError) or any(
            text in reason for text in ("could not create a primitive", "NOT_SUPPORTED")
        )
        if precision == "float32" or not missing:
            raise
        raise ClipfeatError(
            f"torch cannot compute this model in {precision} on this device ({reason:.150}); "
            f"{remedy}",
            code="E-PRECISION-KERNEL",
        ) from None


@contextlib.contextmanager
def inference_errors(precision: str) -> Iterator[None]:
    """Do both for a trained model, whose settings cannot be changed."""
    remedy = "pass another --device"
    with memory_errors(f"free some, or {remedy}"), precision_errors(precision, remedy):
        yield
