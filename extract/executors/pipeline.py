"""One device at work: decode ahead, forward, compress and write behind, shard after shard.

    files --processes--> pixels --device--> grids --threads--> compressed --writer--> shard files

Each stage runs a bounded number of batches ahead of the next, across the borders of shards, so
that the device never waits for a shard to end.
"""

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import torch

from ...base.errors import ExtractError
from ..backbones.backbone import Backbone
from ..pixels.decoding import Decoders, Limits, PendingBatch
from ..pixels.device_decoding import decode_on_device
from ..pixels.images import Picture, load_picture
from ..planning.plan import Job, ShardTask
from .batches import Batch, Spent, Step, batches
from .features import Computing, FeatureStream
from .shards import BatchWriter

AHEAD = 2  # batches decoded ahead of the device, and as many waiting to be written


def run_tasks(
    tasks: Iterable[ShardTask], job: Job, backbone: Backbone
) -> Generator[Step, None, None]:
    """Write the shard of every task; yields as batches go down, in order.

    At any time AHEAD batches are being decoded, one is on the device and AHEAD are on their way
    to the shard's file, which grows on disk and not in memory.
    """
    load = partial(
        load_picture,
        root=job.image_root,
        recipe=job.recipe,
        max_pixels=job.max_pixels,
        accept_truncated=job.accept_truncated,
    )
    stream = FeatureStream(backbone, job.recipe, job.identity.dtype)
    limits = Limits.of(job.max_pixels, job.recipe.views or 1)
    slots, slot_bytes = 2 * AHEAD + 3, job.passes.most * job.picture_bytes
    with (
        Decoders(load, job.decoders, slots, slot_bytes, limits=limits) as decoders,
        stream.reading(decoders.memory) as remark,
        ThreadPoolExecutor(job.threads) as threads,
        ThreadPoolExecutor(1) as writer_thread,
    ):
        writer = BatchWriter(job, threads)

        def write(
            batch: Batch, decoding: PendingBatch, pictures: list[Picture], computing: Computing,
            spent: Spent,
        ) -> Step:  # fmt: skip
            features, device = computing.result()
            decoding.release()
            return writer.write(batch, pictures, features, replace(spent, device=device))

        writing: deque[Future[Step]] = deque()
        if remark:
            yield Step(0, 0, 0, Spent(), None, remark)
        since = time.perf_counter()
        try:
            for batch, decoding in _decoding(batches(tasks, job.passes), decoders):
                pictures, decode = decoding.result()
                pixels = decoding.pixels
                try:
                    if job.recipe.decoder == "torchvision":
                        pictures, pixels = decode_on_device(
                            pictures, pixels, job.recipe, backbone.device
                        )
                    computing = stream.compute(pixels)
                except torch.OutOfMemoryError:
                    images = batch.rows * (job.recipe.views or 1)
                    raise ExtractError(
                        f"{backbone.device} has not enough memory for {images} images at once; "
                        f"add --batch-size {max(1, images // 2)}"
                    ) from None
                now = time.perf_counter()
                spent, since = Spent(wall=now - since, decode=decode), now
                writing.append(
                    writer_thread.submit(write, batch, decoding, pictures, computing, spent)
                )
                while len(writing) > AHEAD or (writing and writing[0].done()):
                    yield writing.popleft().result()
            while writing:
                yield writing.popleft().result()
        finally:
            for future in writing:
                future.cancel()
            writer_thread.submit(writer.close).result()


def _decoding(todo: Iterable[Batch], decoders: Decoders) -> Iterator[tuple[Batch, PendingBatch]]:
    """Yield batches that are being decoded, AHEAD more of them begun already.

    A batch of fewer images than its pass has rows is padded with black ones.
    """
    ahead: deque[tuple[Batch, PendingBatch]] = deque()
    for batch in todo:
        paths = [image.path for image in batch.images]
        ahead.append((batch, decoders.submit(paths, batch.rows, batch.task.picture_shape)))
        if len(ahead) > AHEAD:
            yield ahead.popleft()
    yield from ahead
