"""Where a model computes: one device, or one for each process of a group."""

import contextlib
import os
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from ...base.errors import ClipfeatError, UsageError
from ..settings import LoopSettings

MIXED_PRECISION = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def accelerator_on(device: str | None, settings: LoopSettings) -> Accelerator:
    """Return what places models on `device`: "cpu", "cuda", or None for a GPU if there is one.

    In a process that torchrun or `clipfeat train --gpus` has started, it joins the others.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch finds no GPU here; type --device cpu")
    cpu = device == "cpu" or not torch.cuda.is_available()
    if cpu and settings.precision == "float16":
        raise UsageError("precision float16 needs a GPU; type --set precision=bfloat16")
    # Accelerate keeps one state a process and refuses a second run of another precision.
    AcceleratorState._reset_state(reset_partial_state="LOCAL_RANK" not in os.environ)
    return Accelerator(cpu=cpu, mixed_precision=MIXED_PRECISION[settings.precision])


def leave_group() -> None:
    """Part from the other processes of a group, where there is one, once all have come this far.

    Left to the end of the interpreter, the threads of gloo and NCCL stop in no certain order.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


@contextlib.contextmanager
def memory_errors(remedy: str) -> Iterator[None]:
    """Turn what torch raises where a device, or the host, has not enough memory into one line."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        texts = ("out of memory", "not enough memory", "can't allocate memory")
        if not any(text in str(error).lower() for text in texts):
            raise
        raise ClipfeatError(f"out of memory: {remedy}") from None
