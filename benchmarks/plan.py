"""Manifests of millions of images, their plan, and the tables of their store: time and memory.

python -m benchmarks.plan [--images 1000000 10000000]

Ids and paths are like those of COCO, sizes vary, and images come in no order. The files of the
shards are empty, so that `finish` is the cost of the tables alone. Each measure is taken in a
fresh process.
"""

import argparse
import hashlib
import multiprocessing as mp
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from clipfeat.extract.planning.plan import plan_grids, shard_tasks
from clipfeat.extract.planning.recipe import Preprocess, Recipe, make_recipe
from clipfeat.featstore import FeatureStore, Identity, IndexRow, Status
from clipfeat.featstore.layout import Shard, lay_out
from clipfeat.featstore.shards import ShardRow
from clipfeat.featstore.writing.parts import commit_parts
from clipfeat.featstore.writing.receipts import Receipt
from clipfeat.featstore.writing.run import Run
from clipfeat.featstore.writing.writer import SHARD_RECORDS
from clipfeat.manifests import Image, Manifest, read_manifest, write_manifest


class Cost(NamedTuple):
    """What a step took in a process of its own."""

    seconds: float
    busy: float  # seconds of processor time
    peak: float  # GB of memory, the interpreter and its libraries with it


def images(count: int) -> Iterator[Image]:
    """Yield synthetic images, in an order that is not that of their ids."""
    step = 7_368_787  # a prime: every number comes once
    rng = random.Random(0)
    for k in range(count):
        number = k * step % count
        path = f"train2014/COCO_train2014_{number:012}.jpg"
        yield Image(f"COCO_train2014_{number:012}", path, rng.randint(300, 640), 480)


def nothing(path: Path, count: int) -> None:
    """Import what the others import."""


def make(path: Path, count: int) -> None:
    """Make a manifest, which sorts and checks it, and write it."""
    write_manifest(Manifest.of(path.parent, images(count)), path)


def read(path: Path, count: int) -> None:
    """Read a manifest, which checks it again."""
    assert len(read_manifest(path).images) == count


def look(path: Path, count: int) -> None:
    """Read a manifest and look at each image once."""
    assert sum(1 for image in read_manifest(path).images if image.height == 480) == count


def plan(path: Path, count: int) -> None:
    """Read a manifest and cut it into shard tasks, as an extraction does before any pixel."""
    manifest, recipe = read_manifest(path), aspect_recipe()
    layout = lay_out(plan_grids(manifest, recipe, CELL), SHARD_RECORDS)
    layout.fingerprint()
    assert sum(len(task.images) for task in shard_tasks(manifest, layout.shards, recipe)) == count


def aspect_recipe() -> Recipe:
    """Return a recipe that gives many grid shapes."""
    native = Preprocess(224, "shortest", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return make_recipe("aspect:384,640", native, CELL)


def journal(path: Path, count: int) -> None:
    """Make the journal of a store of which every shard is written; its files are empty."""
    manifest, recipe = read_manifest(path), aspect_recipe()
    identity = Identity(
        backbone={"model": "RN50", "pretrained": "none", "seed": 0, "weights_sha256": "0" * 64},
        recipe=recipe.to_json(), precision="float32", dtype="float16", codec="zstd", dim=2048,
        pooled_dim=1024,
    )  # fmt: skip
    layout = lay_out(plan_grids(manifest, recipe, CELL), SHARD_RECORDS)
    run = Run(path.with_suffix(".clipfeat"), identity, layout, None)
    run.journal.create()
    run.make_folders()
    for shard in layout.shards:
        for array in identity.arrays:
            (run.path / shard.path(array)).touch()
        receipt = full_receipt(shard, identity)
        run.journal.receipt_path(shard.number).write_bytes(receipt.to_bytes())
    run.journal.write_plan(run.plan)


def full_receipt(shard: Shard, identity: Identity) -> Receipt:
    """Return the receipt of a shard of which every image gave a record."""
    shape, empty = str(shard.shape), hashlib.sha256().hexdigest()
    files = [
        ShardRow(shard.path(array), 0, empty, shape, shard.first_row, shard.records)
        for array in identity.arrays
    ]
    rows: list[IndexRow] = []
    for image_id, row in zip(shard.ids, shard.rows, strict=True):
        sha256 = hashlib.sha256(image_id.encode()).hexdigest()
        source = f"train2014/{image_id}.jpg"
        rows.append(
            IndexRow(
                image_id, Status.OK, "", shape, row, 640, 480, sha256, source, sha256[:16], sha256
            )
        )
    return Receipt.of(shard.number, files, rows, {"pillow": "12.0", "torch": "2.11"})


def finish(path: Path, count: int) -> None:
    """Make the store of a journal, as `clipfeat store finish` does."""
    store = commit_parts(path.with_suffix(".clipfeat"))
    assert isinstance(store, FeatureStore)
    assert len(store) == count


CELL = (32, 32)  # pixels of a cell of the grid: height, width
STEPS: tuple[Callable[[Path, int], None], ...] = (nothing, make, read, look, plan, journal, finish)


def measured(step: Callable[[Path, int], None], path: Path, count: int) -> Cost:
    """Return what a step takes in a fresh process."""
    receiver, sender = mp.Pipe(duplex=False)
    process = mp.get_context("spawn").Process(target=_child, args=(sender, step, path, count))
    process.start()
    cost = receiver.recv()
    process.join()
    return cost


def _child(sender: Connection, step: Callable[[Path, int], None], path: Path, count: int) -> None:
    start, busy = time.perf_counter(), time.process_time()
    step(path, count)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    sender.send(
        Cost(seconds, busy, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000_000, 10_000_000])
    print(f"{'images':>12}  {'step':<8}{'seconds':>9}{'of a core':>11}{'peak GB':>9}")
    for count in parser.parse_args().images:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            path = Path(folder) / "images.parquet"
            for step in STEPS:
                cost = measured(step, path, count)
                print(
                    f"{count:>12,}  {step.__name__:<8}{cost.seconds:>9.1f}{cost.busy:>11.1f}{cost.peak:>9.2f}"
                )
            print(f"{count:>12,}  file of {path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
