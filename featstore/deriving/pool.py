"""Average neighbouring cells: every grid of a store in one smaller grid shape."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...base.errors import UsageError
from ...base.text import counted
from ..geometry import Area, GridShape, area_rule
from ..identity import Identity
from ..store import FeatureStore
from ..tables import IndexRow
from .derive import Derivation, Origins, Record, check_out, derive, derived_identity
from .numbers import as_stored, values_of, widened


def pool(source: FeatureStore, out: Path, shape: GridShape) -> FeatureStore:
    """Write a store to `out` with the cells of each grid averaged to `shape`; return the new store.

    Where the recipe has padded, only the real area of the grid is averaged, so that the new grids
    have no padding. All other arrays, the dtype and a scale of uint8 stay. The recipe of the new
    store contains that of the old one. Raises UsageError for more cells than the largest grid has,
    for a store whose cells are regions or views, which have no neighbours, and as `derive` does.
    """
    check_out(out, [source])
    recipe = source.identity.recipe
    cells = "regions" if source.identity.regions else "views" if recipe.get("views") else None
    if cells is not None:
        raise UsageError(
            f"{source.location}: its cells are {cells}, which are not side by side; only grids of one "
            f"image can be pooled",
            code="E-POOL-CELLS",
        )
    most = max(old.cells for old in source.grid_shapes)
    if shape.cells > most:
        raise UsageError(
            f"{source.location}: its largest grid has {counted(most, 'cell')}, fewer than {shape}; "
            f"choose a smaller grid",
            code="E-POOL-SHAPE",
        )
    identity = derived_identity(
        source, "pool", {"shape": str(shape)}, recipe=pooled_recipe(source.identity, shape)
    )
    area_of_image = area_rule(recipe)

    def change(row: IndexRow, record: Record) -> Record:
        grid = within_area(area_of_image, row, values_of(source, record["grid"]))
        new = as_stored(adaptive_average(grid, shape), identity, source.scale)
        return {**record, "grid": new}

    derivation = Derivation(
        Origins((source,), shape=shape),
        identity,
        source.metadata.shard_records,
        change,
        source.scale,
    )
    return derive(derivation, out)


def pooled_recipe(identity: Identity, shape: GridShape) -> dict[str, object]:
    """Return the recipe of grids that were pooled: that of the store, and the new grid shape."""
    name = identity.recipe.get("name", "unnamed")
    return {"name": f"{name}, pooled to {shape}", "pool": [*shape], "recipe": identity.recipe}


def within_area(
    area_of_image: Callable[[int, int], Area | None] | None, row: IndexRow, grid: np.ndarray
) -> np.ndarray:
    """Return the cells of a grid (row, col, dim) that do not lie in the padding of its image."""
    has_size = row.width > 0 and row.height > 0
    area = area_of_image(row.width, row.height) if area_of_image and has_size else None
    if area is None:
        return grid
    return grid[area.top : area.top + area.rows, area.left : area.left + area.cols]


def adaptive_average(grid: np.ndarray, shape: GridShape) -> np.ndarray:
    """Return the means (*shape, dim) float32 of the cells of a grid (row, col, dim).

    Cell i of n covers the cells floor(i m / n) to ceil((i + 1) m / n) - 1 of m, along rows and
    cols alike: the windows of torch's adaptive_avg_pool2d. Windows may overlap, and those of a
    smaller grid repeat its cells. Sums and means are computed in float32.
    """
    numbers = widened(grid)
    means = np.empty((*shape, grid.shape[2]), np.float32)
    for i, rows in enumerate(_windows(grid.shape[0], shape.rows)):
        for j, cols in enumerate(_windows(grid.shape[1], shape.cols)):
            means[i, j] = numbers[rows, cols].mean(axis=(0, 1))
    return means


def _windows(cells: int, count: int) -> list[slice]:
    """Return which of `cells` cells each of `count` new cells covers.

    >>> [(w.start, w.stop) for w in _windows(5, 2)]
    [(0, 3), (2, 5)]
    """
    return [slice(i * cells // count, -(-(i + 1) * cells // count)) for i in range(count)]
