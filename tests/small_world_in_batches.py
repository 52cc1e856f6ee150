"""The small store, written as an extraction does: by batches, with threads that hash and commit."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from small_world import IDENTITY, LIBRARIES, MISSING, SHARD_RECORDS, vectors, write

from clipfeat.extract.executors.results import StageTimings
from clipfeat.extract.executors.shards import BatchWriter, Features
from clipfeat.extract.pixels.images import Picture
from clipfeat.extract.planning.config import ExtractConfig
from clipfeat.extract.planning.plan import BackboneSpec, Batch, Batching, Job, ShardTask
from clipfeat.extract.planning.recipe import Preprocess, make_recipe
from clipfeat.featstore import FeatureStore, Status
from clipfeat.featstore.layout import Shard
from clipfeat.manifests import Image, Images

FOUND = Picture(Status.OK, "", 0, 0, "")
GONE = Picture(Status.MISSING, "no such file", 0, 0, "")


def write_in_batches(path: Path, ids: Collection[str]) -> FeatureStore:
    """Write a store of `ids`, or continue one, in batches of one image."""
    return write(path, ids, write_shards=_write_shards)


def _write_shards(path: Path, shards: tuple[Shard, ...]) -> None:
    mean = (0.5, 0.5, 0.5)
    job = Job(
        store=path, image_root="images", backbone=BackboneSpec("test", "none", 0, "float32"),
        recipe=make_recipe("square:64", Preprocess(64, "squash", "bicubic", mean, mean), (64, 32)),
        identity=IDENTITY, shard_records=SHARD_RECORDS, batching=Batching(1, None),
        picture_bytes=3 * 64**2, decoders=1, threads=1, libraries=LIBRARIES,
        config=ExtractConfig(model="test"),
    )  # fmt: skip
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
    images = Images.of(Image(image_id, image_id, 0, 0) for image_id in shard.ids)
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
