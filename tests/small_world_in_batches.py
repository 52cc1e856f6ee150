"""The small store, written as an extraction does: by batches, with threads that hash and commit."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from small_world import IDENTITY, LIBRARIES, MISSING, SHARD_RECORDS, vectors, write

from clipfeat.extract.executors.results import StageTimings
from clipfeat.extract.executors.shards import BatchWriter, Features
from clipfeat.extract.pixels.images import Picture
from clipfeat.extract.planning.plan import Batch, ShardTask
from clipfeat.featstore import FeatureStore, Status
from clipfeat.featstore.layout import Shard
from clipfeat.manifests import Image

FOUND = Picture(Status.OK, "", 0, 0, "")
GONE = Picture(Status.MISSING, "no such file", 0, 0, "")


def write_in_batches(path: Path, ids: Collection[str]) -> FeatureStore:
    """Write a store of `ids`, or continue one, in batches of one image."""
    return write(path, ids, write_shards=_write_shards)


def _write_shards(path: Path, shards: tuple[Shard, ...]) -> None:
    job: Any = SimpleNamespace(
        store=path, identity=IDENTITY, shard_records=SHARD_RECORDS, libraries=LIBRARIES
    )
    with ThreadPoolExecutor(1) as threads:
        writer = BatchWriter(job, threads)
        try:
            written = [
                writer.write(batch, [picture], features_of(batch), StageTimings())
                for shard in shards
                for batch, picture in batches_of(shard)
            ]
            for each in written:
                each.result()
        finally:
            writer.close()


def batches_of(shard: Shard) -> list[tuple[Batch, Picture]]:
    """Return the batches of a shard, each of one image, with its picture."""
    images = tuple(Image(image_id, image_id, 0, 0) for image_id in shard.ids)
    task = ShardTask(shard, images, (1, 1, 3))
    return [
        (Batch(task, start, [image], 1), GONE if image.image_id == MISSING else FOUND)
        for start, image in enumerate(images)
    ]


def features_of(batch: Batch) -> dict[str, Features]:
    """Return the arrays of a batch of one image."""
    return {
        name: Features(array[None], np.zeros(1), array.reshape(1, -1)[:, :4])
        for name, array in vectors(batch.images[0].image_id).items()
    }
