"""One device at work: decode ahead, forward, compress and write behind, shard after shard.

    files --threads--> pixels --device--> grids --threads--> compressed --writer--> shard files

Each stage runs a bounded number of batches ahead of the next, across the borders of shards, so
that the device never waits for a shard to end.
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..featstore import Identity, IndexRow, Status
from ..featstore.disk.codecs import checksum, encode
from ..featstore.disk.shard_file import as_bytes
from ..featstore.writing.journal import Receipt
from ..featstore.writing.transaction import ShardTransaction
from ..manifests import Image
from .backbone import CHUNK, Backbone
from .images import Picture, load_picture
from .job import Job
from .plan import ShardTask
from .plausibility import ShardGate, number_problem

AHEAD = 2  # batches decoded ahead of the device, and as many waiting to be written


class Step(NamedTuple):
    """A batch that is down; `receipt` comes with the last of a shard."""

    images: int
    refused: int
    receipt: Receipt | None


@dataclass(frozen=True)
class Batch:
    """Consecutive images of one shard."""

    task: ShardTask
    start: int  # position of the first image in the shard
    images: tuple[Image, ...]

    @property
    def is_last(self) -> bool:
        return self.start + len(self.images) == len(self.task.images)


def batches(tasks: Iterable[ShardTask], batch_size: int) -> Iterator[Batch]:
    """Cut tasks into batches; no batch spans two shards, and a shard without ids has one."""
    for task in tasks:
        for start in range(0, max(1, len(task.images)), batch_size):
            yield Batch(task, start, task.images[start : start + batch_size])


def run_tasks(
    tasks: Iterable[ShardTask], job: Job, backbone: Backbone
) -> Generator[Step, None, None]:
    """Write the shard of every task; yields as batches go down, in order.

    At any time it holds AHEAD decoded batches, one on the device and AHEAD of grids being
    compressed; a shard's file grows on disk, not in memory.
    """
    with ThreadPoolExecutor(job.threads) as threads, ThreadPoolExecutor(1) as writer_thread:
        writer = _Writer(job, threads)
        writing: deque[Future[Step]] = deque()
        try:
            for batch, pictures in _decoded(tasks, job, threads):
                features = _forward(pictures, job, backbone)
                writing.append(writer_thread.submit(writer.write, batch, pictures, features))
                while len(writing) > AHEAD or (writing and writing[0].done()):
                    yield writing.popleft().result()
            while writing:
                yield writing.popleft().result()
        finally:
            for future in writing:
                future.cancel()
            writer_thread.submit(writer.close).result()


def _decoded(
    tasks: Iterable[ShardTask], job: Job, threads: ThreadPoolExecutor
) -> Iterator[tuple[Batch, list[Picture]]]:
    """Yield batches with their pictures, AHEAD of them being decoded meanwhile."""
    ahead: deque[tuple[Batch, list[Future[Picture]]]] = deque()
    for batch in batches(tasks, job.batch_size):
        paths = [job.image_root / image.path for image in batch.images]
        ahead.append((batch, [threads.submit(load_picture, path, job.recipe) for path in paths]))
        if len(ahead) > AHEAD:
            done, futures = ahead.popleft()
            yield done, [future.result() for future in futures]
    while ahead:
        done, futures = ahead.popleft()
        yield done, [future.result() for future in futures]


@dataclass(frozen=True)
class Features:
    """One array of a batch as it will be stored, with what tells whether it can be right."""

    array: np.ndarray  # (image, row, col, dim) or (image, dim), in the store's dtype
    peaks: list[float]  # largest absolute value of each image before rounding; NaN if there is one
    means: np.ndarray  # (image, dim) float32, over cells


def _forward(pictures: list[Picture], job: Job, backbone: Backbone) -> dict[str, Features]:
    """Return {"grid": grids} and, where asked for, {"pooled": vectors} of a batch.

    The batch is always full: a short one is padded with black images, so that a record's bytes
    do not depend on how many others came with it.
    """
    full = -(-job.batch_size // CHUNK) * CHUNK
    pixels = np.zeros((full, job.recipe.height, job.recipe.width, 3), np.uint8)
    for position, picture in enumerate(pictures):
        if picture.pixels is not None:
            pixels[position] = picture.pixels
    wants_pooled = job.identity.pooled_dim is not None
    grids, pooled = backbone.grids(torch.from_numpy(pixels), job.recipe, pooled=wants_pooled)
    tensors = {"grid": grids} if pooled is None else {"grid": grids, "pooled": pooled}
    return {name: _features(tensor, job.identity.dtype) for name, tensor in tensors.items()}


def _features(tensor: torch.Tensor, dtype: str) -> Features:
    peaks = tensor.flatten(1).abs().amax(dim=1).float().cpu().tolist()
    means = tensor.flatten(1, -2).mean(dim=1, dtype=torch.float32) if tensor.ndim > 2 else tensor
    array = tensor.to(getattr(torch, dtype)).cpu().contiguous().numpy()
    return Features(array, peaks, means.float().cpu().numpy())


class _Writer:
    """Compresses batches and appends them to the shard in hand; runs in the writer thread."""

    def __init__(self, job: Job, threads: ThreadPoolExecutor):
        self._job = job
        self._threads = threads
        self._transaction: ShardTransaction | None = None
        self._gate = ShardGate()
        self._rows: list[IndexRow] = []

    def write(self, batch: Batch, pictures: list[Picture], features: dict[str, Features]) -> Step:
        """Write one batch; the last one of a shard commits it.

        Raises ExtractError if the features of the shard cannot be right.
        """
        job, shard = self._job, batch.task.shard
        if self._transaction is None:
            self._transaction = ShardTransaction(job.store, job.identity, job.shard_records, shard)
            self._gate = ShardGate()
            self._rows = []
        encoding = [
            self._threads.submit(_encode, picture, features, position, job.identity)
            for position, picture in enumerate(pictures)
        ]
        refused = 0
        for position, (image, picture) in enumerate(zip(batch.images, pictures, strict=True)):
            encoded, status, reason = encoding[position].result()
            row = shard.rows[batch.start + position]
            if encoded is not None:
                self._transaction.append(row - shard.first_row, encoded)
            refused += encoded is None
            if picture.status == Status.OK:
                means = {name: array.means[position] for name, array in features.items()}
                self._gate.add(picture.sha256, reason, means)
            size = (picture.width or image.width, picture.height or image.height)
            check = checksum(encoded.values()) if encoded else ""
            self._rows.append(
                IndexRow(
                    image.image_id,
                    status,
                    reason,
                    str(shard.shape),
                    row,
                    *size,
                    picture.sha256,
                    image.path,
                    check,
                )
            )
        receipt = None
        if batch.is_last:
            self._gate.check()
            receipt = self._transaction.commit(tuple(self._rows))
            self._transaction = None
        return Step(len(pictures), refused, receipt)

    def close(self) -> None:
        """Drop the shard in hand, if any."""
        if self._transaction is not None:
            self._transaction.close()


def _encode(
    picture: Picture, features: dict[str, Features], position: int, identity: Identity
) -> tuple[dict[str, bytes] | None, Status, str]:
    """Return the encoded arrays of one record, or None, with its status and reason."""
    if picture.status != Status.OK:
        return None, picture.status, picture.reason
    for name, array in features.items():
        problem = number_problem(array.peaks[position], identity.dtype)
        if problem:
            return None, Status.FAILED, f"{name} {problem}"
    encoded = {
        name: encode(identity.codec, as_bytes(array.array[position]))
        for name, array in features.items()
    }
    return encoded, Status.OK, ""
