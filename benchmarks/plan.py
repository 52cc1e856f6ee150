"""Manifests of millions of images, and their plan: time and peak memory.

python -m benchmarks.plan [--images 1000000 10000000]

Ids and paths are like those of COCO, sizes vary, and images come in no order. Each measure is
taken in a fresh process.
"""

import argparse
import multiprocessing as mp
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from clipfeat.extract.planning.plan import plan_shapes, shard_tasks
from clipfeat.extract.planning.recipe import Preprocess, make_recipe
from clipfeat.featstore.layout import lay_out
from clipfeat.featstore.writing.writer import SHARD_RECORDS
from clipfeat.manifests import Image, Manifest, read_manifest, write_manifest


class Cost(NamedTuple):
    """What a step took in a process of its own."""

    seconds: float
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
    manifest, cell = read_manifest(path), (32, 32)
    native = Preprocess(224, "shortest", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    recipe = make_recipe("aspect:384,640", native, cell)
    layout = lay_out(plan_shapes(manifest, recipe, cell), SHARD_RECORDS)
    assert sum(len(task.images) for task in shard_tasks(manifest, layout.shards, recipe)) == count


STEPS: tuple[Callable[[Path, int], None], ...] = (nothing, make, read, look, plan)


def measured(step: Callable[[Path, int], None], path: Path, count: int) -> Cost:
    """Return what a step takes in a fresh process."""
    receiver, sender = mp.Pipe(duplex=False)
    process = mp.get_context("spawn").Process(target=_child, args=(sender, step, path, count))
    process.start()
    cost = receiver.recv()
    process.join()
    return cost


def _child(sender: Connection, step: Callable[[Path, int], None], path: Path, count: int) -> None:
    start = time.perf_counter()
    step(path, count)
    seconds = time.perf_counter() - start
    sender.send(Cost(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1_000_000, 10_000_000])
    print(f"{'images':>12}  {'step':<8}{'seconds':>9}{'peak GB':>9}")
    for count in parser.parse_args().images:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            path = Path(folder) / "images.parquet"
            for step in STEPS:
                cost = measured(step, path, count)
                print(f"{count:>12,}  {step.__name__:<8}{cost.seconds:>9.1f}{cost.peak:>9.2f}")
            print(f"{count:>12,}  file of {path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
