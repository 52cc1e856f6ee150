"""The plan: which images make which shard, a pure function of manifest, recipe and backbone."""

import math
from dataclasses import dataclass

from ...base.endings import SUFFIXES, suffix
from ...featstore import GridShape
from ...featstore.areas import MAX_AREAS, Area
from ...featstore.layout import Shard
from ...manifests import Image, Manifest
from ..errors import ExtractUsageError
from ..recipes.recipe import Recipe


@dataclass(frozen=True)
class ShardTask:
    """One shard to write: the unit that is handed to a device, done whole or not at all."""

    shard: Shard
    images: tuple[Image, ...]  # in the order of the shard's rows
    picture_shape: tuple[int, ...]  # of each image's pixels: ([views,] height, width, 3)


def plan_shapes(manifest: Manifest, recipe: Recipe, cell: tuple[int, int]) -> dict[str, GridShape]:
    """Return the grid shape that each image of the manifest will have, as its size says.

    Images of one size share one GridShape, and each size is looked at once. Raises
    ExtractUsageError if an image would not fill one cell of the backbone, if views are asked of
    a file, and if padding would leave more different real areas than a store can hold.
    """
    by_size: dict[tuple[int, int], GridShape] = {}
    shared: dict[GridShape, GridShape] = {}
    areas: set[Area | None] = {None}
    shapes: dict[str, GridShape] = {}
    for image in manifest.images:
        if recipe.views is not None and suffix(image.path) in SUFFIXES:
            raise ExtractUsageError(
                f"--recipe {recipe.name}: {image.path!r:.200} is a file, not a folder of "
                f"{recipe.views} views; make a manifest with: clipfeat manifest --views DIR"
            )
        size = (image.width, image.height)
        shape = by_size.get(size)
        if shape is None:
            shape = recipe.grid_shape(size, cell)
            if not shape.cells:
                height, width = recipe.size(*size)
                raise ExtractUsageError(
                    f"--recipe {recipe.name}: {height}x{width} pixels are less than one "
                    f"{cell[0]}x{cell[1]} cell of this backbone; use square:{max(cell)} or more"
                )
            areas.add(recipe.real_cells(size))
            by_size[size] = shape = shared.setdefault(shape, shape)
        shapes[image.image_id] = shape
    if len(areas) - 1 > MAX_AREAS:
        raise ExtractUsageError(
            f"--recipe {recipe.name}: padding would leave {len(areas) - 1} different areas of "
            f"real cells, and a store holds {MAX_AREAS}; use whole-cells, which does not pad"
        )
    return shapes


def shard_tasks(
    manifest: Manifest, shards: tuple[Shard, ...], recipe: Recipe
) -> tuple[ShardTask, ...]:
    """Return the tasks that write `shards`."""
    images = {image.image_id: image for image in manifest.images}
    return tuple(_task(shard, tuple(images[i] for i in shard.ids), recipe) for shard in shards)


def _task(shard: Shard, images: tuple[Image, ...], recipe: Recipe) -> ShardTask:
    """All pictures of one grid shape have one size: that of any whose size is known."""
    known = ((image.width, image.height) for image in images if image.width)
    return ShardTask(shard, images, picture_shape(recipe, next(known, (0, 0))))


def largest_picture(manifest: Manifest, recipe: Recipe) -> tuple[int, ...]:
    """Return the shape of the largest pixels, ([views,] height, width, 3), of any image."""
    sizes = set(
        zip(
            *(manifest.images.column(side).to_pylist() for side in ("width", "height")), strict=True
        )
    )
    return max((picture_shape(recipe, size) for size in sizes), key=math.prod)


def picture_shape(recipe: Recipe, size: tuple[int, int]) -> tuple[int, ...]:
    """Return the shape of an image's pixels, of (width, height) `size`, as the recipe makes it."""
    views = (recipe.views,) if recipe.views else ()
    return (*views, *recipe.size(*size), 3)
