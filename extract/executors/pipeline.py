"""One device at work: decode ahead, forward, compress and write behind, shard after shard.

    files --processes--> pixels --device--> features --threads--> compressed --writer--> shards

Each stage runs a bounded number of batches ahead of the next, across the borders of shards, so
that the device never waits for a shard to end.
"""

import contextlib
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ...base.errors import ExtractError
from ...featstore import GridShape, Identity
from ..backbones.backbone import Backbone, choose_batch_size
from ..pixels.decoding import Decoders, Limits, PendingBatch
from ..pixels.device_decoding import decode_on_device
from ..pixels.images import Picture, load_picture
from ..planning.plan import Batch, Job, ShardTask, batches
from ..planning.recipe import Recipe
from .results import BatchResult, StageTimings
from .shards import BatchWriter, Features

AHEAD = 2  # batches decoded ahead of the device, and as many waiting to be written


class LocalExecutor:
    """Computes in this process, on the backbone's own device."""

    def __init__(self, backbone: Backbone):
        self._backbone = backbone

    def batch_size(self, recipe: Recipe, size: tuple[int, int]) -> int:
        """Return how many images of (height, width) pixels to compute at once."""
        return choose_batch_size(self._backbone, recipe, size)

    def run(self, tasks: tuple[ShardTask, ...], job: Job) -> Generator[BatchResult, None, None]:
        """Write the shard of every task; yields each batch once it is written, in order."""
        return run_tasks(tasks, job, self._backbone)


def run_tasks(
    tasks: Iterable[ShardTask], job: Job, backbone: Backbone
) -> Generator[BatchResult, None, None]:
    """Write the shard of every task; yields each batch once it is written, in order.

    At any time AHEAD batches are being decoded, one is on the device and AHEAD are on their way
    to the shard's file, which grows on disk and not in memory. Raises ExtractError where the
    device lacks memory for a batch, and where the features of a shard cannot be right.
    """
    views = job.recipe.views or 1
    load = partial(
        load_picture,
        root=job.image_root,
        recipe=job.recipe,
        max_pixels=job.config.max_pixels,
        accept_truncated=job.config.accept_truncated,
    )
    limits = Limits.of(job.config.max_pixels, views)
    slots, slot_bytes = 2 * AHEAD + 3, job.batching.max_rows * job.picture_bytes
    stream = FeatureStream(backbone, job.recipe, job.identity)
    with (
        Decoders(load, job.decoders, slots, slot_bytes, limits=limits) as decoders,
        stream.reading(decoders.memory) as warning,
        ThreadPoolExecutor(job.threads) as threads,
        ThreadPoolExecutor(1) as writer_thread,
    ):
        if warning:
            yield BatchResult(warning=warning)
        writer = BatchWriter(job, threads)
        writing: deque[Future[BatchResult]] = deque()
        since = time.perf_counter()
        try:
            for batch, decoding in _decode_ahead(batches(tasks, job.batching), decoders):
                pictures, decode_seconds = decoding.result()
                pixels = decoding.pixels
                try:
                    if job.recipe.decoder == "torchvision":
                        pictures, pixels = decode_on_device(
                            pictures, pixels, job.recipe, backbone.device
                        )
                    pending = stream.compute(pixels)
                except torch.OutOfMemoryError:
                    images = batch.rows * views
                    raise ExtractError(
                        f"{backbone.device} has not enough memory for {images} images at once; "
                        f"add --batch-size {max(1, images // 2)}",
                        code="E-GPUS-MEMORY",
                    ) from None
                now = time.perf_counter()
                timings, since = StageTimings(wall=now - since, decode=decode_seconds), now
                writing.append(
                    writer_thread.submit(
                        _write, writer, batch, decoding, pictures, pending, timings
                    )
                )
                while len(writing) > AHEAD or (writing and writing[0].done()):
                    yield writing.popleft().result()
            while writing:
                yield writing.popleft().result()
        finally:
            for future in writing:
                future.cancel()
            writer_thread.submit(writer.close).result()


def _decode_ahead(
    todo: Iterable[Batch], decoders: Decoders
) -> Iterator[tuple[Batch, PendingBatch]]:
    """Yield batches that are being decoded, when AHEAD more of them have been begun.

    A batch of fewer images than its pass has rows is padded with black ones.
    """
    ahead: deque[tuple[Batch, PendingBatch]] = deque()
    for batch in todo:
        paths = [image.path for image in batch.images]
        ahead.append((batch, decoders.submit(paths, batch.rows, batch.task.picture_shape)))
        if len(ahead) > AHEAD:
            yield ahead.popleft()
    yield from ahead


def _write(
    writer: BatchWriter,
    batch: Batch,
    decoding: PendingBatch,
    pictures: list[Picture],
    pending: "PendingFeatures",
    timings: StageTimings,
) -> BatchResult:
    """Write a batch as soon as its features are on the host; runs in the writer's thread."""
    features, device_seconds = pending.result()
    decoding.release()  # a GPU reads the pixels until then
    return writer.write(batch, pictures, features, replace(timings, device=device_seconds))


@dataclass(frozen=True)
class PendingFeatures:
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

    def __init__(self, backbone: Backbone, recipe: Recipe, identity: Identity):
        self._backbone = backbone
        self._recipe = recipe
        self._dtype: torch.dtype = getattr(torch, identity.dtype)  # of the numbers on disk
        # The dimensions of a batch as those of its records follow one another on disk.
        self._orders = {
            name: (0, *(1 + d for d in identity.array(name, GridShape(1, 1)).order))
            for name in identity.arrays
        }
        self._copies: Any = None  # the stream of a GPU that copies features to the host
        if backbone.device.type == "cuda":
            self._copies = torch.cuda.Stream(backbone.device)

    @contextlib.contextmanager
    def reading(self, memory: np.ndarray) -> Iterator[str]:
        """Let a GPU read `memory` by itself, so that the host need not wait for the copies.

        Where the system refuses (gVisor, WSL, some containers), pixels are copied through a
        buffer of torch's own: the block gets a warning that says so, "" otherwise.
        """
        if self._copies is None:
            yield ""
            return
        runtime: Any = torch.cuda.cudart()
        with torch.cuda.device(self._backbone.device):
            error = int(runtime.cudaHostRegister(memory.ctypes.data, memory.nbytes, 0))
            if error:
                self._clear_error()
                yield (
                    f"{self._backbone.device}: the system does not let the GPU read the decoded "
                    f"pixels by itself (cudaHostRegister: error {error}); they are copied "
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

    def compute(self, pixels: np.ndarray | torch.Tensor) -> PendingFeatures:
        """Begin with a batch of (image, height, width, 3) or (record, view, height, width, 3).

        A tensor is on the device already.
        """
        if self._copies is None:
            started = time.perf_counter()
            arrays = self._arrays(pixels)
            return PendingFeatures(arrays, time.perf_counter() - started, None)
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
        return PendingFeatures(arrays, 0.0, (begun, computed, copied))

    def _arrays(self, pixels: np.ndarray | torch.Tensor) -> dict[str, tuple[torch.Tensor, ...]]:
        views = self._recipe.views
        images = torch.as_tensor(pixels).flatten(0, -4)
        grids, vectors = self._backbone.grids(images, self._recipe)
        if views:
            assert vectors is not None
            return {"grid": self._array("grid", vectors.unflatten(0, (-1, views)).unsqueeze(2))}
        if vectors is None:
            return {"grid": self._array("grid", grids)}
        return {"grid": self._array("grid", grids), "pooled": self._array("pooled", vectors)}

    def _array(
        self, name: str, tensor: Float[torch.Tensor, "image *cells dim"]
    ) -> tuple[torch.Tensor, ...]:
        """Return what becomes the array, peaks and means of `Features`."""
        peaks = tensor.flatten(1).abs().amax(dim=1).float()
        means = tensor.flatten(1, -2).mean(1, dtype=torch.float32) if tensor.ndim > 2 else tensor
        stored = tensor.to(self._dtype).permute(self._orders[name]).contiguous()
        return stored, peaks, means.float()


def _to_pinned(tensor: torch.Tensor, stream: Any) -> torch.Tensor:
    """Begin to copy a GPU's tensor, on `stream`, into memory of the host that it can write."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    tensor.record_stream(stream)  # whose memory must not be used again before it is copied
    return host
