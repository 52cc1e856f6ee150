"""A made store with the demo's questions about its images, and what every phase needs."""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from clipfeat.demo.scenes import Scene, make_scene
from clipfeat.demo.write import vqa_files
from clipfeat.featstore import FeatureStore, GridShape, Identity
from clipfeat.featstore.shards import as_bytes, encode
from clipfeat.featstore.writing.writer import write_store

from ..store.records import rectified_grid

SHAPE, DIM = GridShape(14, 14), 2048  # of RN50 at caption448
DIFFERENT = 32  # grids that are drawn; records differ from them in two numbers
IDENTITY = Identity(
    backbone={"model": "bench"},
    recipe={"name": "bench"},
    precision="float32",
    dtype="float16",
    codec="zstd",
    dim=DIM,
    pooled_dim=None,
    order="channels_first",  # as an extraction writes grids of a ResNet
)
FEWEST = 640  # records: the phase of single reads needs so many


@dataclass(frozen=True)
class Setting:
    """Where the phases work, and how large everything is."""

    folder: Path
    bytes: float  # of the store's shards, about
    images: int  # that the epochs of training see
    records: int  # of the store that others are derived from
    ids: int  # of the store that is only opened
    rate: float  # bytes/s of the slow server
    latency: float  # seconds of each request to the distant server
    rounds: int
    demo: Path

    @cached_property
    def web(self) -> Path:
        """The folder that is served."""
        return self.new("web")

    @cached_property
    def grids(self) -> list[np.ndarray]:
        """The grids that all records are made of: (row, col, dim) float16."""
        return [rectified_grid(seed, SHAPE, DIM) for seed in range(DIFFERENT)]

    @cached_property
    def scenes(self) -> list[Scene]:
        """The scenes of all images of the store."""
        stored = IDENTITY.array("grid", SHAPE).as_stored(self.grids[0])
        count = self.bytes / len(encode(IDENTITY.codec, as_bytes(stored)))
        return [make_scene(0, number) for number in range(1, max(FEWEST, round(count)) + 1)]

    @cached_property
    def store(self) -> FeatureStore:
        """The store, with a record for each scene."""
        start = time.perf_counter()
        store = self.write("made.clipfeat", self.scenes)
        size = sum(shard.bytes for shard in store.shards)
        print(
            f"made a store of {len(store):,} records, {size / 1e9:.2f} GB, "
            f"in {time.perf_counter() - start:.0f} s"
        )
        return store

    def write(self, name: str, scenes: Sequence[Scene]) -> FeatureStore:
        """Write a store of a record for each scene into the folder that is served."""
        numbers = {Path(scene.file_name).stem: scene.image_id for scene in scenes}

        def read(image_id: str) -> np.ndarray:
            grid = self.grids[numbers[image_id] % DIFFERENT].copy()
            grid[0, 0, :2] = divmod(numbers[image_id], 1000)  # float16 has integers up to 2048
            return grid

        return write_store(self.web / name, IDENTITY, dict.fromkeys(numbers, SHAPE), read)

    def write_questions(self, name: str, scenes: Sequence[Scene]) -> Path:
        """Write the questions about scenes in VQA v2's format; return their folder."""
        folder = self.new(name)
        for file, content in vqa_files(scenes, 0).items():
            (folder / file).write_text(json.dumps(content))
        return folder

    def new(self, name: str) -> Path:
        """Return an empty folder; what an earlier one of this name had is removed."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    @contextmanager
    def empty_cache(self) -> Iterator[None]:
        """Let this process use a new cache, with room for everything, while the block runs."""
        os.environ["CLIPFEAT_CACHE"] = str(self.new("cache"))
        os.environ["CLIPFEAT_CACHE_GB"] = "1000"
        try:
            yield
        finally:
            shutil.rmtree(self.folder / "cache")
