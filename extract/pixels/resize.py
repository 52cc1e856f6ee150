"""The steps of a recipe on tensors of any device, with the pixels that Pillow gives, bit for bit.

Pillow resizes along each axis with weights that are integers of 22 bits, and rounds each sum to 8
bits. Here these sums are matrix products. They are exact in floating point: all numbers in them are
integers below 2**24 (float32) or 2**53 (float64), so that no order of summation rounds.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor

from ...featstore.geometry import Crop, ImageTransform, Interpolation, Pad, ResizeStep
from .decoding import PendingBatch
from .images import Picture

WEIGHT_BITS = 22  # Pillow's PRECISION_BITS
# Weights, of which the largest is less than 2, are split in two parts of 11 bits and a sign: so
# float32 holds their sums, and even TF32 holds the parts.
LOW_BITS = 12
BLOCK = 32  # outputs of one matrix product: with more, more of the matrix is zeros
GROUP_PIXELS = 1 << 22  # of images that are resized together: some 250 MB in between
CACHED = 512  # pairs of lengths, some 0.2 MB each
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}  # pixels on each side, where an image does not shrink


def pixels_on_device(
    slot: UInt8[Tensor, " bytes"],
    batch: PendingBatch,
    pictures: Sequence[Picture],
    steps: Sequence[ImageTransform],
) -> UInt8[Tensor, "image *view height width 3"]:
    """Return the pixels of a batch after all steps of its recipe, on the device of `slot`.

    `slot` is a copy of the batch's memory. Images of one size go through the steps together.
    """
    planned = math.prod(batch.shape)
    images = [slot[start : start + planned].view(batch.shape) for start in batch.starts]
    by_size: dict[tuple[int, int], list[int]] = {}
    for position, picture in enumerate(pictures):
        if picture.is_as_decoded:
            by_size.setdefault((picture.height, picture.width), []).append(position)
    for (height, width), positions in by_size.items():
        together = max(1, GROUP_PIXELS // (height * width))
        for first in range(0, len(positions), together):
            group = positions[first : first + together]
            starts = [batch.starts[position] for position in group]
            decoded = [slot[start : start + 3 * height * width] for start in starts]
            channels = torch.stack(decoded).view(-1, height, width, 3).permute(0, 3, 1, 2)
            done = take_steps(channels, steps).permute(0, 2, 3, 1)
            for position, image in zip(group, done, strict=True):
                images[position] = image
    return torch.stack(images)


def take_steps(
    pixels: UInt8[Tensor, "*channels height width"], steps: Sequence[ImageTransform]
) -> UInt8[Tensor, "*channels new_height new_width"]:
    """Return RGB or gray images after all steps of a recipe.

    The conversion to RGB changes nothing, and decoders have turned images already. The results have
    the size that the last step gives.
    """
    for step in steps:
        height, width = pixels.shape[-2:]
        wide, high = step.size((width, height))
        if isinstance(step, ResizeStep):
            pixels = resize(pixels, (wide, high), step.interpolation)
        elif isinstance(step, Crop | Pad):
            left, top = step.corner((width, height))
            if isinstance(step, Crop):
                left, top = -left, -top
            margins = (left, wide - width - left, top, high - height - top)
            pixels = torch.nn.functional.pad(pixels, margins)  # cuts off where one is negative
    return pixels


def resize(
    pixels: UInt8[Tensor, "*channels height width"],
    size: tuple[int, int],
    interpolation: Interpolation,
) -> UInt8[Tensor, "*channels new_height new_width"]:
    """Return images at (width, height) `size`: first each row is resized, then each column.

    Equal to Pillow's resize in two calls, width first, in its modes of 8 bits a channel without
    palette. An axis that keeps its length is unchanged.
    """
    for dim, length in zip((-1, -2), size, strict=True):
        if pixels.shape[dim] != length:
            pixels = _resize_axis(pixels, dim, length, interpolation)
    return pixels


def _resize_axis(
    pixels: UInt8[Tensor, "..."], dim: int, length: int, interpolation: Interpolation
) -> UInt8[Tensor, "..."]:
    band = _band(pixels.shape[dim], length, interpolation, pixels.device)
    inputs = pixels.movedim(dim, 0).flatten(1).contiguous()
    windows = inputs.index_select(0, band.inputs.flatten()).view(*band.inputs.shape, -1)
    sums = band.weights @ windows.to(band.weights.dtype)
    high, low = sums.int().chunk(2, dim=1)
    total = torch.add(low, high, alpha=1 << LOW_BITS).add_(1 << (WEIGHT_BITS - 1))
    outputs = total.bitwise_right_shift_(WEIGHT_BITS).clamp_(0, 255).to(torch.uint8)
    others = pixels.movedim(dim, 0).shape[1:]
    return outputs.flatten(0, 1)[:length].unflatten(1, others).movedim(0, dim)


class _Band(NamedTuple):
    """The weights of one axis, in blocks of outputs that share a window of inputs."""

    inputs: Int64[Tensor, "block window"]  # their positions
    weights: Float[Tensor, "block outputs window"]  # high parts of BLOCK outputs, then low parts


@lru_cache(CACHED)
def _band(before: int, after: int, interpolation: Interpolation, device: torch.device) -> _Band:
    first, weights = pillow_weights(before, after, interpolation)
    outputs, taps = np.arange(after), weights.shape[1]
    last = np.minimum(first + taps, before)[np.minimum(outputs[::BLOCK] + BLOCK, after) - 1]
    window = int((last - first[::BLOCK]).max())
    starts = np.minimum(first[::BLOCK], before - window)
    block, place = np.divmod(outputs, BLOCK)
    position = (first - starts[block])[:, None] + np.arange(taps)
    high = np.round(weights / (1 << LOW_BITS))
    parts = np.zeros((len(starts), 2, BLOCK, window + taps))  # `taps` zeros beyond the axis
    parts[block[:, None], 0, place[:, None], position] = high
    parts[block[:, None], 1, place[:, None], position] = weights - high * (1 << LOW_BITS)
    is_exact = 255 * np.abs(parts).sum(axis=-1).max() < 1 << 24
    table = torch.from_numpy(parts[..., :window]).flatten(1, 2)
    table = table.to(torch.float32 if is_exact else torch.float64)
    inputs = torch.from_numpy(starts[:, None] + np.arange(window))
    return _Band(_to(inputs, device), _to(table, device))


def _to(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, without waiting for what a GPU computes."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def pillow_weights(
    before: int, after: int, interpolation: Interpolation
) -> tuple[Int64[np.ndarray, " after"], Float64[np.ndarray, "after taps"]]:
    """Return, for each output of an axis, its first input and the weights from there on.

    They are integers whose sum is about 2**22; those beyond the axis are 0. The computation is
    Pillow's (`precompute_coeffs` and `normalize_coeffs_8bpc` in Resample.c), operation by operation
    in doubles, since another order would round to other integers.
    """
    scale = before / after
    widening = max(scale, 1.0)
    support = SUPPORT[interpolation] * widening
    centers = (np.arange(after) + 0.5) * scale
    first = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    ends = np.minimum((centers + support + 0.5).astype(np.int64), before)
    inputs = first[:, None] + np.arange(int((ends - first).max()))
    distances = np.abs((inputs - centers[:, None] + 0.5) * (1.0 / widening))
    values = np.where(inputs < ends[:, None], _filter(distances, interpolation), 0.0)
    values /= np.add.accumulate(values, axis=1)[:, -1:]
    scaled = values * (1 << WEIGHT_BITS)
    return first, np.trunc(scaled + np.where(scaled < 0, -0.5, 0.5))


def _filter(x: Float64[np.ndarray, "..."], interpolation: Interpolation) -> np.ndarray:
    """Return the filter at distances in pixels; the cubic is Keys's with a = -0.5."""
    if interpolation == "bilinear":
        return np.where(x < 1.0, 1.0 - x, 0.0)
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
