"""The plan of an extraction: grids of images, tasks of shards, batches, and bytes on disk.

Everything here follows from the sizes of the images; no image is read.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ...base.errors import ExtractUsageError
from ...base.files import free_bytes
from ...base.text import IMAGE_SUFFIXES, suffix
from ...featstore import GridShape, Identity
from ...featstore.geometry import MAX_AREAS
from ...featstore.identity import Precision
from ...featstore.layout import Grids, Ids, Layout, Shard
from ...featstore.metadata import MAX_RECORD_BYTES
from ...manifests import Image, Images, Manifest
from .config import ExtractConfig
from .recipe import Recipe

Item = TypeVar("Item")


@dataclass(frozen=True)
class BackboneSpec:
    """Which backbone, with which weights, computing in which precision."""

    # open_clip's name, or timm/ and timm's; None: the one that weights or `model_config` describe.
    model: str | None
    # A tag, a place of weights, "package" or "none"; None: openai, or the tag in timm's name.
    pretrained: str | None
    seed: int  # of random weights
    precision: Precision
    model_config: str | None = None  # a file with an architecture in open_clip's format
    ema: bool = False  # take the averaged weights of a checkpoint


# Images that a CPU thread computes at a time. The number is fixed, and each thread's kernels run
# on it alone: how they sum then depends neither on the number of threads nor on the batch.
CHUNK = 4
RECORDS_PER_SPARE_ROW = 10  # on a GPU: a shard has at most a tenth more rows than records


@dataclass(frozen=True)
class Batching:
    """How many records go through the backbone at once.

    Beside its pixels, the features of a record depend on the number of rows of its batch, by which
    kernels choose how to sum. So the batches of a shard follow from its length alone, never from
    what is already written or which process computes, and a batch that is not full is padded with
    black images.
    """

    max_rows: int  # records in one batch
    multiple_of: int | None  # rows on a CPU, where any multiple gives the same bits; None: a GPU

    @classmethod
    def of(cls, images: int, views: int, shard_records: int, *, on_cpu: bool) -> "Batching":
        """Return batches of at most `images` images, of which a record has `views`.

        No batch spans two shards, so none is larger than a shard of `shard_records`. On a CPU the
        number is rounded up to whole chunks.
        """
        records = max(1, images // views)
        if on_cpu:
            rows = CHUNK // math.gcd(CHUNK, views)
            return cls(_rounded_up(min(records, shard_records), rows), rows)
        return cls(min(records, _power_of_two(shard_records)), None)

    def rows(self, records: int) -> tuple[int, ...]:
        """Return the rows of each batch of a shard of `records`: the last ones may be padded.

        On a GPU the rest of a shard takes smaller and smaller powers of two, as long as a larger
        one would be padded by more than a tenth of the shard.

        >>> Batching(64, None).rows(128), Batching(64, None).rows(100), Batching(64, None).rows(7)
        ((64, 64), (64, 32, 4), (4, 2, 1))
        >>> Batching(16, 4).rows(21)
        (16, 8)
        """
        batches: list[int] = []
        spare = records // RECORDS_PER_SPARE_ROW
        left = max(1, records)  # a shard without records has one batch, too
        while left > 0:
            if self.multiple_of is not None:
                rows = min(self.max_rows, _rounded_up(left, self.multiple_of))
            else:
                rows = min(self.max_rows, _power_of_two(left))
                while rows - left > spare:
                    rows = _power_of_two(rows) // 2
            batches.append(rows)
            left -= rows
        return tuple(batches)

    def split(self, items: Sequence[Item]) -> Iterator[tuple[Sequence[Item], int]]:
        """Yield the items of each batch of a shard, with the rows of the batch."""
        start = 0
        for rows in self.rows(len(items)):
            yield items[start : start + rows], rows
            start += rows


def _rounded_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def _power_of_two(number: int) -> int:
    """Return the least power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()


@dataclass(frozen=True)
class Job:
    """Everything a device needs to turn shard tasks into shards."""

    store: Path
    image_root: str  # a folder or a URL
    backbone: BackboneSpec
    recipe: Recipe
    identity: Identity
    shard_records: int
    batching: Batching
    picture_bytes: int  # of the largest picture of the plan, as it enters the backbone
    decoders: int  # processes that decode, per device
    threads: int  # that compress, per device
    libraries: Mapping[str, str]  # versions of what decides pixels and features, by name
    config: ExtractConfig


@dataclass(frozen=True)
class ShardTask:
    """One shard to write: the unit of work of a device, written whole or not at all."""

    shard: Shard
    images: Images  # in the order of the shard's rows
    picture_shape: tuple[int, ...]  # of each image's pixels: ([views,] height, width, 3)


@dataclass(frozen=True)
class Batch:
    """Consecutive images of one shard."""

    task: ShardTask
    start: int  # position of the first image in the shard
    images: Sequence[Image]
    rows: int  # that the backbone computes: more than the images where the batch is padded

    @property
    def is_last(self) -> bool:
        return self.start + len(self.images) == len(self.task.images)


def plan_grids(manifest: Manifest, recipe: Recipe, cell: tuple[int, int]) -> Grids:
    """Return the grid shape of each image of the manifest, from its size.

    Each size is planned once. Raises ExtractUsageError if an image would not fill one cell of the
    backbone, for a file where the recipe needs a folder of views, and if padding would leave more
    different real areas than a store can hold.
    """
    if recipe.views is not None:
        _require_folders(manifest, recipe)
    sizes, first, size_of = _sizes(manifest)
    numbers: dict[GridShape, int] = {}
    shape_of = np.zeros(len(sizes), np.int32)
    for at in np.argsort(first).tolist():  # an error is about the first image of its kind
        shape = recipe.grid_shape(sizes[at], cell)
        if not shape.cells:
            height, width = recipe.size(*sizes[at])
            raise ExtractUsageError(
                f"--recipe {recipe.name}: {height}x{width} pixels are less than one "
                f"{cell[0]}x{cell[1]} cell of this backbone; use square:{max(cell)} or more",
                code="E-RECIPE-SIZE",
            )
        shape_of[at] = numbers.setdefault(shape, len(numbers))
    areas = {area for size in sizes if (area := recipe.real_cells(size)) is not None}
    if len(areas) > MAX_AREAS:
        raise ExtractUsageError(
            f"--recipe {recipe.name}: padding would leave {len(areas)} different areas of "
            f"real cells, and a store holds {MAX_AREAS}; use whole-cells, which does not pad",
            code="E-RECIPE-AREAS",
        )
    return Grids(
        Ids(manifest.images.column("image_id").combine_chunks()), tuple(numbers), shape_of[size_of]
    )


def _require_folders(manifest: Manifest, recipe: Recipe) -> None:
    """Raise ExtractUsageError for an image that is a file, not a folder of views."""
    for image in manifest.images:
        if suffix(image.path) in IMAGE_SUFFIXES:
            raise ExtractUsageError(
                f"--recipe {recipe.name}: {image.path!r:.200} is a file, not a folder of "
                f"{recipe.views} views; make a manifest with: clipfeat manifest --views DIR",
                code="E-RECIPE-VIEWS",
            )


def _sizes(manifest: Manifest) -> tuple[list[tuple[int, int]], np.ndarray, np.ndarray]:
    """Return the different (width, height), the first image of each, and the size of each image.

    Images and sizes are named by their positions.
    """
    width, height = (manifest.images.column(name).to_numpy() for name in ("width", "height"))
    packed = width.astype(np.int64) << 32 | height
    sizes, first, size_of = np.unique(packed, return_index=True, return_inverse=True)
    return [divmod(size, 1 << 32) for size in sizes.tolist()], first, size_of


def shard_tasks(
    manifest: Manifest, shards: tuple[Shard, ...], recipe: Recipe
) -> tuple[ShardTask, ...]:
    """Return the tasks that write `shards`."""
    images = manifest.images.having([shard.ids.column for shard in shards])
    widths, heights = (images.column(side).to_numpy() for side in ("width", "height"))
    tasks: list[ShardTask] = []
    start = 0
    for shard in shards:
        end = start + len(shard.ids)
        # All images of a grid shape have equally many pixels: those of any whose size is known.
        known = [start + at for at in np.flatnonzero(widths[start:end])[:1].tolist()]
        size = (int(widths[known[0]]), int(heights[known[0]])) if known else (0, 0)
        tasks.append(ShardTask(shard, images[start:end], picture_shape(recipe, size)))
        start = end
    return tuple(tasks)


def batches(tasks: Iterable[ShardTask], batching: Batching) -> Iterator[Batch]:
    """Yield the batches of tasks; no batch spans two shards, and a shard without ids has one."""
    for task in tasks:
        start = 0
        for images, rows in batching.split(task.images):
            yield Batch(task, start, images, rows)
            start += len(images)


def largest_picture(manifest: Manifest, recipe: Recipe) -> tuple[int, ...]:
    """Return the shape of the largest pixels, ([views,] height, width, 3), of any image."""
    sizes, _, _ = _sizes(manifest)
    return max((picture_shape(recipe, size) for size in sizes), key=math.prod)


def picture_shape(recipe: Recipe, size: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of the pixels, ([views,] height, width, 3), of an image of (width, height)."""
    views = (recipe.views,) if recipe.views else ()
    return (*views, *recipe.size(*size), 3)


def check_record_sizes(shapes: Iterable[GridShape], identity: Identity) -> None:
    """Raise ExtractUsageError if a grid would be larger than a store may hold."""
    largest = max(shapes, key=lambda shape: shape.cells)
    size = identity.array("grid", largest).bytes
    if size > MAX_RECORD_BYTES:
        raise ExtractUsageError(
            f"a grid of {largest}x{identity.dim} {identity.dtype} has {size:,} bytes, and a store "
            f"holds grids of at most {MAX_RECORD_BYTES:,}; choose a recipe with fewer pixels",
            code="E-RECIPE-SIZE",
        )


def layout_bytes(layout: Layout, identity: Identity) -> int:
    """Return the bytes of all numbers that a layout's shards hold, before compression."""
    return sum(len(s.ids) * identity.record_bytes(s.shape) for s in layout.shards)


def disk_space_warning(out: Path, layout: Layout, identity: Identity) -> str | None:
    """Return a warning if the features might not fit on the disk of `out`."""
    needed, free = layout_bytes(layout, identity), free_bytes(out)
    if needed <= free:
        return None
    return (
        f"the features take up to {needed / 1e9:.1f} GB before compression, and {free / 1e9:.1f} "
        f"GB are free; --dry-run measures how much it will be"
    )
