"""Where a grid lies on its image: the part that it covers, and the boxes of regions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..base.errors import StoreError
from ..base.jsonio import as_struct
from ..featstore import GridShape, Identity
from ..featstore.deriving.pool import before_pooling
from ..featstore.geometry import Crop, ImageTransform, Pad, Steps, Upright

WHOLE = (0.0, 0.0, 1.0, 1.0)
USUAL_CELLS = (32, 16, 14, 8, 28, 64)  # pixels of a cell's side, of CLIP's towers and others

Share = tuple[float, float, float, float]  # left, top, right, bottom: of the image's sides


def covered_part(identity: Identity, size: tuple[int, int] | None, shape: GridShape) -> Share:
    """Return the part of an image of (width, height) that a grid covers, as shares of its sides.

    It follows from the steps of the recipe: a crop leaves parts of the image out, and a grid whose
    image was padded reaches outside. A remainder smaller than a cell belongs to no cell; where the
    recipe does not name the cell's size, it is the likeliest that gives such a grid. The whole image
    where the recipe is not clipfeat's, a size is not known, or cells are views or regions. Of a
    pooled grid, whose padding was left out, it is the part inside the image.
    """
    try:
        recipe, poolings = before_pooling(identity)
    except StoreError:
        return WHOLE
    steps = _steps(recipe)
    if identity.regions or recipe.get("views") is not None or size is None or not steps:
        return WHOLE
    left, top, right, bottom = _canvas(steps, size)
    if poolings:
        return max(left, 0.0), max(top, 0.0), min(right, 1.0), min(bottom, 1.0)
    for step in steps:
        size = step.size(size)
        if min(size) < 1:
            return WHOLE
    cell = _cell(steps, size, shape)
    wide = min(1.0, shape.cols * cell / size[0])
    high = min(1.0, shape.rows * cell / size[1])
    return left, top, left + (right - left) * wide, top + (bottom - top) * high


def is_turned(identity: Identity) -> bool:
    """Return whether the image was turned as its EXIF orientation says before it was extracted."""
    try:
        steps = _steps(before_pooling(identity)[0])
    except StoreError:
        return False
    return any(isinstance(step, Upright) for step in steps)


def box_shares(boxes: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Return boxes (region, 4) in pixels as shares of the image's sides, 0 to 1, float64.

    Where the size of the image is not known, it ends with its last box.
    """
    known = np.nan_to_num(boxes.astype(np.float64))
    width, height = size or np.maximum(known[:, 2:].max(axis=0, initial=1), 1).tolist()
    return (known / np.array((width, height, width, height))).clip(0, 1)


def _steps(recipe: Mapping[str, Any]) -> Sequence[ImageTransform]:
    """Return the steps of a recipe, none where it is not one of clipfeat's."""
    try:
        steps: list[ImageTransform] = as_struct(recipe.get("steps"), Steps)
    except ValueError:
        return ()
    return steps


def _canvas(steps: Sequence[ImageTransform], size: tuple[int, int]) -> Share:
    """Return what the pixels after all steps show of the image of (width, height), as shares."""
    low, high = np.zeros(2), np.ones(2)
    for step in steps:
        after = step.size(size)
        if min(after) < 1:
            return WHOLE
        if isinstance(step, Crop | Pad):
            corner = np.array(step.corner(size)) * (1 if isinstance(step, Crop) else -1)
            pixel = (high - low) / np.array(size)
            low = low + corner * pixel
            high = low + np.array(after) * pixel
        size = after
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    return left, top, right, bottom


def _cell(steps: Sequence[ImageTransform], size: tuple[int, int], shape: GridShape) -> int:
    """Return the side of a cell in pixels, of an image of (width, height) with this grid."""
    for step in steps:
        cell = getattr(step, "cell", None)
        if cell is not None:
            return cell[0]
    able = [n for n in USUAL_CELLS if (size[1] // n, size[0] // n) == shape]
    return able[0] if able else min(size[0] // shape.cols, size[1] // shape.rows)
