"""One device at work: decode ahead, forward, compress and write behind, shard after shard.

    files --threads--> pixels --device--> grids --threads--> compressed --writer--> shard files

Each stage runs a bounded number of batches ahead of the next, across the borders of shards, so
that the device never waits for a shard to end.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..featstore import IndexRow, Status
from ..featstore.codecs import encode
from ..featstore.journal import Receipt
from ..featstore.shard_file import as_bytes
from ..featstore.transaction import ShardTransaction
from ..manifests import Image
from .backbone import Backbone
from .images import Picture, load_picture
from .job import Job
from .plan import ShardTask

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
    """Cut tasks into batches; no batch spans two shards."""
    for task in tasks:
        for start in range(0, len(task.images), batch_size):
            yield Batch(task, start, task.images[start : start + batch_size])


def run_tasks(tasks: Iterable[ShardTask], job: Job, backbone: Backbone) -> Iterator[Step]:
    """Write the shard of every task; yields as batches go down, in order.

    At any time it holds AHEAD decoded batches, one on the device and AHEAD of grids being
    compressed; a shard's file grows on disk, not in memory.
    """
    with ThreadPoolExecutor(job.threads) as threads, ThreadPoolExecutor(1) as writer_thread:
        writer = _Writer(job, threads)
        writing: deque[Future[Step]] = deque()
        try:
            for batch, pictures in _decoded(tasks, job, threads):
                grids, pooled = _forward(pictures, job, backbone)
                writing.append(writer_thread.submit(writer.write, batch, pictures, grids, pooled))
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


def _forward(
    pictures: list[Picture], job: Job, backbone: Backbone
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return grids (batch, row, col, dim) and pooled vectors, in the store's dtype.

    The batch is always full: a short one is padded with black images, so that a record's bytes
    do not depend on how many others came with it.
    """
    pixels = np.zeros((job.batch_size, job.recipe.height, job.recipe.width, 3), np.uint8)
    for position, picture in enumerate(pictures):
        if picture.pixels is not None:
            pixels[position] = picture.pixels
    wants_pooled = job.identity.pooled_dim is not None
    grids, pooled = backbone.grids(torch.from_numpy(pixels), job.recipe, pooled=wants_pooled)
    dtype = getattr(torch, job.identity.dtype)
    as_stored = [
        None if tensor is None else tensor.to(dtype).cpu().contiguous().numpy()
        for tensor in (grids, pooled)
    ]
    assert as_stored[0] is not None
    return as_stored[0], as_stored[1]


class _Writer:
    """Compresses batches and appends them to the shard in hand; runs in the writer thread."""

    def __init__(self, job: Job, threads: ThreadPoolExecutor):
        self._job = job
        self._threads = threads
        self._transaction: ShardTransaction | None = None
        self._rows: list[IndexRow] = []

    def write(
        self, batch: Batch, pictures: list[Picture], grids: np.ndarray, pooled: np.ndarray | None
    ) -> Step:
        """Write one batch; the last one of a shard commits it."""
        job, shard = self._job, batch.task.shard
        if self._transaction is None:
            self._transaction = ShardTransaction(job.store, job.identity, job.shard_records, shard)
            self._rows = []
        arrays = {"grid": grids} if pooled is None else {"grid": grids, "pooled": pooled}
        encoding = [
            self._threads.submit(_encode, picture, arrays, position, job.identity.codec)
            for position, picture in enumerate(pictures)
        ]
        refused = 0
        for position, (image, picture) in enumerate(zip(batch.images, pictures, strict=True)):
            encoded, status, reason = encoding[position].result()
            if encoded is not None:
                self._transaction.append(batch.start + position, encoded)
            refused += encoded is None
            row = shard.first_row + batch.start + position
            size = (picture.width or image.width, picture.height or image.height)
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
                )
            )
        receipt = None
        if batch.is_last:
            receipt = self._transaction.commit(tuple(self._rows))
            self._transaction = None
        return Step(len(pictures), refused, receipt)

    def close(self) -> None:
        """Drop the shard in hand, if any."""
        if self._transaction is not None:
            self._transaction.close()


def _encode(
    picture: Picture, arrays: dict[str, np.ndarray], position: int, codec: str
) -> tuple[dict[str, bytes] | None, Status, str]:
    """Return the encoded arrays of one record, or None, with its status and reason."""
    if picture.status != Status.OK:
        return None, picture.status, picture.reason
    records = {name: array[position] for name, array in arrays.items()}
    for name, record in records.items():
        if not np.isfinite(record).all():
            reason = f"{name} has NaN or values beyond {record.dtype}; try --dtype float32"
            return None, Status.FAILED, reason
    return {n: encode(codec, as_bytes(record)) for n, record in records.items()}, Status.OK, ""
