"""Pixels through the backbone and back to the host, as they will be stored."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ..backbones.backbone import Backbone
from ..planning.recipe import Recipe


@dataclass(frozen=True)
class Features:
    """One array of a batch as it will be stored, with what tells whether it can be right."""

    array: np.ndarray  # (image, row, col, dim) or (image, dim), in the store's dtype
    peaks: np.ndarray  # (image,) largest absolute value before rounding; NaN if there is one
    means: np.ndarray  # (image, dim) float32, over cells


@dataclass(frozen=True)
class Computing:
    """The features of a batch, on their way from the device."""

    arrays: Mapping[str, tuple[torch.Tensor, ...]]  # of each what `Features` is made of
    seconds: float  # that the device took, where it computes before it answers
    events: tuple[Any, Any, Any] | None  # of a GPU: begun, computed, copied to the host

    def result(self) -> tuple[dict[str, Features], float]:
        """Wait for {"grid": ..., "pooled": ...}; return them, and the device's seconds."""
        seconds = self.seconds
        if self.events is not None:
            begun, computed, copied = self.events
            copied.synchronize()
            seconds = begun.elapsed_time(computed) / 1000
        features = {
            name: Features(*(tensor.numpy() for tensor in tensors))
            for name, tensors in self.arrays.items()
        }
        return features, seconds


class FeatureStream:
    """Batch after batch through one device; a GPU computes on while features are copied."""

    def __init__(self, backbone: Backbone, recipe: Recipe, dtype: str):
        self._backbone = backbone
        self._recipe = recipe
        self._dtype: torch.dtype = getattr(torch, dtype)  # of the numbers on disk
        self._copies: Any = None
        if backbone.device.type == "cuda":
            self._copies = torch.cuda.Stream(backbone.device)

    @contextlib.contextmanager
    def reading(self, memory: np.ndarray) -> Iterator[str]:
        """Let a GPU read `memory` by itself, so that the host need not wait for the copies.

        Where the system refuses (gVisor, WSL, some containers), pixels are copied through a
        buffer of torch's own: the block is given a line that says so, "" otherwise.
        """
        if self._copies is None:
            yield ""
            return
        runtime: Any = torch.cuda.cudart()
        with torch.cuda.device(self._backbone.device):
            refused = int(runtime.cudaHostRegister(memory.ctypes.data, memory.nbytes, 0))
            if refused:
                self._clear_error()
                yield (
                    f"{self._backbone.device}: the system does not let the GPU read the decoded "
                    f"pixels by itself (cudaHostRegister: error {refused}); they are copied "
                    f"once more, which is slower"
                )
                return
            try:
                yield ""
            finally:
                torch.cuda.synchronize()
                runtime.cudaHostUnregister(memory.ctypes.data)

    def _clear_error(self) -> None:
        """Take the error that a refused call has left: the next kernel raises it, so this one does.

        torch does not pass on cudaGetLastError, which it calls after every kernel.
        """
        device = self._backbone.device
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device=device)
        torch.zeros(1, device=device)  # raises an error that stays, before anything is computed
        torch.cuda.synchronize(device)

    def compute(self, pixels: np.ndarray | torch.Tensor) -> Computing:
        """Begin with a batch of (image, height, width, 3) or (record, view, height, width, 3).

        A tensor is one that is on the device already.
        """
        if self._copies is None:
            started = time.perf_counter()
            arrays = self._arrays(pixels)
            return Computing(arrays, time.perf_counter() - started, None)
        begun, computed, copied = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        stream = torch.cuda.current_stream(self._backbone.device)
        begun.record(stream)
        arrays = self._arrays(pixels)
        computed.record(stream)
        self._copies.wait_event(computed)
        with torch.cuda.stream(self._copies):
            arrays = {
                name: tuple(_to_pinned(tensor, self._copies) for tensor in tensors)
                for name, tensors in arrays.items()
            }
        copied.record(self._copies)
        return Computing(arrays, 0.0, (begun, computed, copied))

    def _arrays(self, pixels: np.ndarray | torch.Tensor) -> dict[str, Any]:
        recipe, views = self._recipe, self._recipe.views
        images = torch.as_tensor(pixels).flatten(0, -4)
        grids, vectors = self._backbone.grids(images, recipe)
        if views:
            assert vectors is not None
            return {"grid": self._array(vectors.unflatten(0, (-1, views)).unsqueeze(2))}
        if vectors is None:
            return {"grid": self._array(grids)}
        return {"grid": self._array(grids), "pooled": self._array(vectors)}

    def _array(self, tensor: Float[torch.Tensor, "image *cells dim"]) -> tuple[torch.Tensor, ...]:
        """Return what becomes the array, peaks and means of `Features`."""
        peaks = tensor.flatten(1).abs().amax(dim=1).float()
        means = tensor.flatten(1, -2).mean(1, dtype=torch.float32) if tensor.ndim > 2 else tensor
        return (
            tensor.to(self._dtype).contiguous(),
            peaks,
            means.float(),
        )


def _to_pinned(tensor: torch.Tensor, stream: Any) -> torch.Tensor:
    """Begin to copy a GPU's tensor, on `stream`, into memory of the host that it can write."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    tensor.record_stream(stream)  # whose memory must not be used again before it is copied
    return host
