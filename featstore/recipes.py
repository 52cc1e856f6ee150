"""What a store's recipe says: its poolings, its steps, where they put an image and the grid's cells."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..base.errors import StoreError
from ..base.jsonio import as_struct
from .geometry import Cell, Crop, GridShape, ImageTransform, Pad, Size, Steps, WholeCells
from .identity import Identity
from .metadata import MAX_RECORD_BYTES

CELL_SIDES = (32, 16, 14, 8, 28, 64, 4, 2, 1)  # pixels, of backbones, tried in this order

Rect = tuple[float, float, float, float]  # left, top, width, height


def before_pooling(identity: Identity) -> tuple[Mapping[str, Any], list[GridShape]]:
    """Return the recipe of an identity without its poolings, and their shapes, the first one first.

    Raises StoreError for a recipe with poolings that `pool` does not make.
    """
    recipe: Any = identity.recipe
    shapes: list[GridShape] = []
    while "pool" in recipe:
        try:
            rows, cols = recipe["pool"]
            shapes.append(GridShape.parse(f"{rows}x{cols}"))
            recipe = {**recipe["recipe"]}
            if 4 * shapes[-1].cells * identity.dim > MAX_RECORD_BYTES:
                raise ValueError
        except (StoreError, ValueError, TypeError, KeyError):
            raise StoreError(
                "recipe: it does not say how the grids were pooled; tell whoever made the store",
                code="E-RECIPE-POOL",
            ) from None
    return recipe, shapes[::-1]


def image_recipe(identity: Identity) -> tuple[Mapping[str, Any], Sequence[ImageTransform]]:
    """Return the recipe of a store's images, which pooled grids have inside of theirs, and its steps.

    No steps where they are not clipfeat's, and nothing where the poolings are not.
    """
    try:
        recipe, _ = before_pooling(identity)
    except StoreError:
        return {}, ()
    try:
        steps: list[ImageTransform] = as_struct(recipe.get("steps"), Steps)
    except ValueError:
        return recipe, ()
    return recipe, steps


def placed_image(steps: Sequence[ImageTransform], size: Size) -> Rect | None:
    """Return where the whole image of (width, height) lies in the pixels that the steps lead to.

    It begins left of them or above, and is larger, where a crop left parts out. None where no pixel
    would be left.
    """
    left, top, width, height = 0.0, 0.0, float(size[0]), float(size[1])
    for step in steps:
        new = step.size(size)
        if min(new) < 1:
            return None
        if isinstance(step, Crop | Pad):
            x, y = step.corner(size)
            sign = -1 if isinstance(step, Crop) else 1
            left, top = left + sign * x, top + sign * y
        else:
            across, down = new[0] / size[0], new[1] / size[1]
            left, width, top, height = left * across, width * across, top * down, height * down
        size = new
    return left, top, width, height


def cell_size(steps: Sequence[ImageTransform], size: Size, shape: GridShape) -> Cell | None:
    """Return the (height, width) of a cell of a grid over pixels of (width, height), in pixels.

    It is the one that the recipe names, or else the likeliest square that gives such a grid; None
    where none does. What is left of the pixels belongs to no cell.
    """
    named = [step.cell for step in steps if isinstance(step, Pad | WholeCells)]
    for rows, cols in named[:1] or [(side, side) for side in CELL_SIDES]:
        if (size[1] // rows, size[0] // cols) == shape:
            return rows, cols
    return None
