"""Number formats of the forward pass: computed as they are named, and those a processor is fast in."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from ...base.machine import CLEARLY, slower_than_float32

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Compute in this block without shortcuts: float32 not as TF32, sums of 16-bit products in 32.

    cudnn takes TF32 for convolutions by default, which keeps 10 of the 23 bits. The switches are
    the whole process's, and are put back at the end.
    """
    old = [(owner, name, _value(owner, name)) for owner, name in _switches()]
    matrices = _value(torch, "get_float32_matmul_precision")
    try:
        torch.set_float32_matmul_precision("highest")
        for owner, name in _switches():
            setattr(owner, name, "ieee" if name == "fp32_precision" else False)
        yield
    finally:
        if matrices is not None:
            torch.set_float32_matmul_precision(matrices)
        for owner, name, value in old:
            if value is not None:
                setattr(owner, name, value)


def _switches() -> list[tuple[Any, str]]:
    """Return the switches by owner and name, those first that set others as well.

    torch 2.9 has brought new ones for the same things. Kernels ask for either, and torch raises
    where the two contradict each other, so both are set.
    """
    backends: Any = torch.backends
    matmul, cudnn = backends.cuda.matmul, backends.cudnn
    kinds: tuple[Any, ...] = ()
    if hasattr(cudnn, "conv"):
        kinds = (matmul, cudnn.conv, cudnn.rnn, backends.mkldnn.matmul, backends.mkldnn.conv)
    return [
        (cudnn, "allow_tf32"),
        *((kind, "fp32_precision") for kind in kinds),
        (matmul, "allow_fp16_reduced_precision_reduction"),
        (matmul, "allow_bf16_reduced_precision_reduction"),
    ]


def _value(owner: Any, name: str) -> Any:
    """Return a switch's value, None where torch does not tell: old and new ones contradict."""
    try:
        value = getattr(owner, name)
        return value() if callable(value) else value
    except RuntimeError:
        return None


def slow_precision(precision: str, device: str) -> str | None:
    """Return a warning if a processor only emulates a 16-bit precision: float32 is faster there."""
    if device != "cpu" or precision == "float32":
        return None
    times = slower_than_float32(precision)
    if times <= CLEARLY:
        return None
    return (
        f"--precision {precision}: this processor has no fast instructions for it, and is "
        f"{times:.1f} times as fast in float32; use --precision float32 here, unless the store "
        f"must be of this precision"
    )
