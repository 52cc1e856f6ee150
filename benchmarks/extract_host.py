"""The host side of one GPU: what rate these cores sustain, on a device that is simulated.

python -m benchmarks.extract_host [--images 2000]

The device answers a batch after 0.4 ms an image, with grids that lie ready: RN50 at 448x448, two
thirds of the numbers zero. All else is an extraction from JPEG files (640x480, the entropy of
photographs) to shards, whose decoders only decode, as with a GPU. Then each stage alone, in milliseconds
of CPU time an image.
"""

import argparse
import contextlib
import hashlib
import math
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from clipfeat.base.machine import usable_cores
from clipfeat.extract import ExtractConfig
from clipfeat.extract.executors import pipeline
from clipfeat.extract.executors.results import StageTimings
from clipfeat.extract.executors.shards import Features
from clipfeat.extract.pixels.images import load_picture
from clipfeat.extract.pixels.jpeg import decode_jpeg
from clipfeat.extract.planning.plan import BackboneSpec, Batching, Job, plan_grids, shard_tasks
from clipfeat.extract.planning.recipe import Preprocess, make_recipe
from clipfeat.featstore import GridShape, Identity
from clipfeat.featstore.layout import lay_out
from clipfeat.featstore.shards import as_bytes, encode
from clipfeat.featstore.writing.writer import SHARD_RECORDS, StoreWriter
from clipfeat.manifests import folder_manifest

from .photographs import linked, write_photographs
from .store.records import rectified_grid

DEVICE_SECONDS = 0.4e-3  # an image: 2,500 images/s, RN50 on an H100 (estimated)
CELL, DIM = (32, 32), 2048  # of RN50
BATCH = SHARD_RECORDS
WIDTH, HEIGHT = 640, 480
HALF = (0.5, 0.5, 0.5)  # no forward pass reads the mean and the deviation
RECIPE = make_recipe("caption448", Preprocess(224, "shortest", "bicubic", HALF, HALF), CELL)
TIMES = 40  # that a stage is measured alone


@dataclass(frozen=True)
class HostResult:
    """What the host side did."""

    images: int
    seconds: float
    timings: StageTimings
    here_ms: float  # CPU time of this process, an image
    decoders_ms: float  # CPU time of the decoder processes, an image, their start included
    alone_ms: dict[str, float]  # CPU time of a stage alone, an image
    stored_kb: float  # an image

    def text(self) -> str:
        """Return lines for a person."""
        rate, cores = self.images / self.seconds, usable_cores()
        cpu = self.here_ms + self.decoders_ms
        alone = ", ".join(f"{name} {ms:.2f}" for name, ms in self.alone_ms.items())
        return (
            f"host side of one GPU on {cores} cores: {rate:.0f} images/s of "
            f"{1 / DEVICE_SECONDS:,.0f}, device waited {100 * self.timings.waited:.0f} %, "
            f"{cpu:.2f} ms of CPU an image ({self.decoders_ms:.2f} in decoders), "
            f"{self.stored_kb:.0f} kB an image; {0.95 / DEVICE_SECONDS * cpu / 1000:.1f} cores "
            f"for 0.95 of the device\nstages alone, ms of CPU an image: {alone}\n"
            f"{self.timings.text(self.images)}"
        )


class SimulatedDevice:
    """Takes the place of `pipeline.FeatureStream`: a device that computes while the host works."""

    def __init__(self, grids: np.ndarray):
        self._grids = grids
        self._free = 0.0  # when it has done what it was given
        rng = np.random.default_rng(1)
        self._means = rng.standard_normal((len(grids), DIM)).astype(np.float32)

    def __call__(self, *_: Any) -> "SimulatedDevice":
        return self

    @contextlib.contextmanager
    def reading(self, _: np.ndarray) -> Iterator[str]:
        yield ""

    def compute(self, pixels: np.ndarray, steps: object) -> "SimulatedFeatures":
        self._free = max(self._free, time.perf_counter()) + BATCH * DEVICE_SECONDS
        grids = Features(self._grids, np.ones(BATCH), self._means)
        return SimulatedFeatures({"grid": grids}, self._free, BATCH * DEVICE_SECONDS)


@dataclass(frozen=True)
class SimulatedFeatures:
    """Features that may be read from a time on."""

    features: dict[str, Features]
    ready: float
    seconds: float

    def result(self) -> tuple[dict[str, Features], float]:
        time.sleep(max(0.0, self.ready - time.perf_counter()))
        return self.features, self.seconds


def ready_grids(shape: GridShape, count: int) -> np.ndarray:
    """Return grids as a ResNet's lie on disk: (image, dim, row, col), two thirds zeros."""
    grids = [rectified_grid(seed, shape, DIM).transpose(2, 0, 1) for seed in range(count)]
    return np.ascontiguousarray(np.stack(grids))


def measure(pool: Path, images: int) -> HostResult:
    """Extract so many images from the files of `pool` through the simulated device."""
    identity = Identity(
        backbone={"model": "RN50"}, recipe=RECIPE.to_json(), precision="float16",
        dtype="float16", codec="zstd", dim=DIM, pooled_dim=None, order="channels_first",
    )  # fmt: skip
    with tempfile.TemporaryDirectory(dir=".") as temporary:
        root = Path(temporary)
        manifest = folder_manifest(linked(sorted(pool.iterdir()), images, root / "images"))
        shapes = plan_grids(manifest, RECIPE, CELL)
        shape = shapes.shapes[0]
        grids = ready_grids(shape, BATCH)
        layout = lay_out(shapes, SHARD_RECORDS)
        job = Job(
            store=root / "s", image_root=manifest.root,
            backbone=BackboneSpec("RN50", "none", 0, "float16"), recipe=RECIPE, identity=identity,
            shard_records=SHARD_RECORDS, batching=Batching(BATCH, None),
            picture_bytes=3 * math.prod(RECIPE.size(WIDTH, HEIGHT)), decoders=usable_cores(),
            threads=max(2, usable_cores()), libraries={}, config=ExtractConfig(model="RN50"),
        )  # fmt: skip
        backbone: Any = SimpleNamespace(device=None)
        with (
            StoreWriter(job.store, identity, layout) as writer,
            mock.patch.object(pipeline, "FeatureStream", SimulatedDevice(grids)),
            mock.patch.object(pipeline, "resizes_on_device", return_value=True),
        ):
            tasks = shard_tasks(manifest, writer.pending, RECIPE)
            before, started = cpu_seconds(), time.perf_counter()
            results = list(pipeline.run_tasks(tasks, job, backbone))
            seconds = time.perf_counter() - started
            here, decoders = (b - a for a, b in zip(before, cpu_seconds(), strict=True))
        stored = sum(result.bytes for result in results)
        timings = sum((result.timings for result in results), StageTimings())
        return HostResult(
            images=images,
            seconds=seconds,
            timings=timings,
            here_ms=1000 * here / images,
            decoders_ms=1000 * decoders / images,
            alone_ms=stages_alone(pool, grids, root),
            stored_kb=stored / images / 1e3,
        )


def cpu_seconds() -> tuple[float, float]:
    """Return the CPU time of this process, and of its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    here, children = (usage.ru_utime + usage.ru_stime for usage in used)
    return here, children


def stages_alone(pool: Path, grids: np.ndarray, folder: Path) -> dict[str, float]:
    """Return the milliseconds of CPU time an image of each stage, on one thread."""
    files = sorted(pool.iterdir())
    record = encode("zstd", as_bytes(grids[0]))
    with (folder / "written").open("wb") as file:

        def write(_: int) -> None:
            file.write(record)
            os.fsync(file.fileno())

        decoded = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        return {
            "decode": thread_ms(lambda k: decode_jpeg(files[k % len(files)].read_bytes(), decoded)),
            "decode and resize": thread_ms(
                lambda k: load_picture(files[k % len(files)].name, str(pool), RECIPE)
            ),
            "compress": thread_ms(lambda k: encode("zstd", as_bytes(grids[k % len(grids)]))),
            "hash": thread_ms(lambda _: hashlib.sha256(record)),
            "write": thread_ms(write),
        }


def thread_ms(do: Callable[[int], object]) -> float:
    """Return the median of the milliseconds of CPU time that `do` takes of this thread."""
    do(0)
    taken = []
    for number in range(TIMES):
        started = time.thread_time()
        do(number)
        taken.append(time.thread_time() - started)
    return 1000 * float(np.median(taken))


def main() -> None:
    """Print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as temporary:
        pool = write_photographs(Path(temporary) / "pool", 256, WIDTH, HEIGHT)
        print(measure(pool, arguments.images).text())


if __name__ == "__main__":
    main()
