"""The steps of a recipe on an image that Pillow has decoded."""

from typing import Any

import numpy as np

from ...featstore import Status
from ...featstore.steps import RGB, Crop, Pad
from ...manifests.headers import pillow
from ..recipes.recipe import Recipe

# Pillow's own limit against decompression bombs (twice 1 GiB of 4:4:4 pixels / 3).
MAX_PIXELS = 178_956_970
# A side of one pixel is what tracking pixels and failed downloads look like, not a picture.
MIN_SIDE = 2
PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}  # modes in which Pillow resizes images with alpha


def size_problem(recipe: Recipe, width: int, height: int) -> tuple[Status, str] | None:
    """Return status and reason of an image of which a step would make nothing, or too much."""
    if min(width, height) < MIN_SIDE:
        reason = f"{width}x{height}: a side is shorter than {MIN_SIDE} pixels"
        return Status.UNSUPPORTED, reason
    before = (width, height)
    for step, (wide, high) in zip(recipe.steps, recipe.sizes(width, height), strict=False):
        if min(wide, high) < 1 or wide * high > MAX_PIXELS:
            return Status.UNSUPPORTED, f"{width}x{height} would be resized to {wide}x{high}"
        if isinstance(step, Crop):
            if before[0] < wide or before[1] < high:
                reason = f"{width}x{height} gives {before[0]}x{before[1]}, less than the crop"
                return Status.UNSUPPORTED, f"{reason} to {wide}x{high}"
        elif not isinstance(step, RGB | Pad) and wide * before[1] > MAX_PIXELS:
            reason = f"{width}x{height} would be {wide}x{before[1]} on the way to {wide}x{high}"
            return Status.UNSUPPORTED, reason
        before = (wide, high)
    return None


def resized(image: Any, recipe: Recipe) -> np.ndarray:
    """Return a PIL image as (height, width, 3) uint8 RGB at the recipe's size.

    Each step works in the mode that the image has by then. Stock CLIP converts to RGB last; so
    do most recipes, since for palette and CMYK images the order changes the pixels.
    """
    resample = {"bicubic": pillow().Resampling.BICUBIC, "bilinear": pillow().Resampling.BILINEAR}
    for step in recipe.steps:
        width, height = step.size(image.size)
        if isinstance(step, RGB):
            image = image.convert("RGB")
        elif isinstance(step, Crop):
            left, top = step.corner(image.size)
            image = image.crop((left, top, left + width, top + height))
        elif isinstance(step, Pad):  # zeros come where a crop reaches beyond the image
            left, top = step.corner(image.size)
            image = image.crop((-left, -top, width - left, height - top))
        else:
            image = _resize(image, (width, height), resample[recipe.interpolation])
    return np.asarray(image)


def _resize(image: Any, size: tuple[int, int], resample: Any) -> Any:
    """Return an image at (width, height) `size`: first each row is resized, then each column.

    Both passes round to whole numbers, so that their order decides pixels. Up to Pillow 12 one
    call went this way, but for the thinnest of lines; Pillow 13 resizes columns first where
    that is less work. One axis a call gives the same bits in either.
    """
    if image.size == size:
        return image
    # Without this, each call would convert there and back.
    if premultiplied := PREMULTIPLIED.get(image.mode):
        return _resize(image.convert(premultiplied), size, resample).convert(image.mode)
    for axis in ((size[0], image.height), size):
        if image.size != axis:
            image = image.resize(axis, resample)
    return image
