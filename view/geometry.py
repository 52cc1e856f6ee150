"""Where a grid lies on its image: the part that it covers, and the boxes of regions."""

import numpy as np

from ..featstore import GridShape, Identity
from ..featstore.geometry import Upright
from ..featstore.recipes import cell_size, image_recipe, placed_image

WHOLE = (0.0, 0.0, 1.0, 1.0)

Share = tuple[float, float, float, float]  # left, top, right, bottom: of the image's sides


def covered_part(identity: Identity, size: tuple[int, int] | None, shape: GridShape) -> Share:
    """Return the part of an image of (width, height) that a grid covers, as shares of its sides.

    It follows from the steps of the recipe: a crop leaves parts of the image out, and a grid whose
    image was padded reaches outside. A remainder smaller than a cell belongs to no cell; where the
    recipe does not name the cell's size, it is the likeliest that gives such a grid. The whole image
    where the recipe is not clipfeat's, a size is not known, or cells are views or regions. Of a
    pooled grid, whose padding was left out, it is the part inside the image.
    """
    recipe, steps = image_recipe(identity)
    if identity.regions or recipe.get("views") is not None or size is None or not steps:
        return WHOLE
    placed = placed_image(steps, size)
    if placed is None:
        return WHOLE
    for step in steps:
        size = step.size(size)
    x, y, width, height = placed
    left, top = (0 - x) / width, (0 - y) / height
    right, bottom = (size[0] - x) / width, (size[1] - y) / height
    if "pool" in identity.recipe:
        return max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)
    cell = cell_size(steps, size, shape)
    if cell is not None:
        right = left + (right - left) * shape.cols * cell[1] / size[0]
        bottom = top + (bottom - top) * shape.rows * cell[0] / size[1]
    return left, top, right, bottom


def is_turned(identity: Identity) -> bool:
    """Return whether the image was turned as its EXIF orientation says before it was extracted."""
    return any(isinstance(step, Upright) for step in image_recipe(identity)[1])


def box_shares(boxes: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Return boxes (region, 4) in pixels as shares of the image's sides, 0 to 1, float64.

    Where the size of the image is not known, it ends with its last box.
    """
    known = np.nan_to_num(boxes.astype(np.float64))
    width, height = size or np.maximum(known[:, 2:].max(axis=0, initial=1), 1).tolist()
    return (known / np.array((width, height, width, height))).clip(0, 1)
