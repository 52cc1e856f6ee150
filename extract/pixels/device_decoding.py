"""JPEG files decoded on the device, and taken through the recipe's steps there."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from ...featstore import Status
from ...featstore.geometry import RGB, Crop, Pad
from ..planning.recipe import Recipe
from .images import Picture, not_as_planned
from .inspection import ENDED, JPEG_FILL, jpeg_ends_early

GROUP_PIXELS = 1 << 26  # decoded at a time, unless one image has more: 200 MB in RGB


def complete(
    pictures: Sequence[Picture], pixels: np.ndarray, recipe: Recipe, device: torch.device
) -> tuple[list[Picture], UInt8[Tensor, "image height width 3"]]:
    """Return what came of each picture of a batch, and the pixels of all on `device`.

    `pixels`, (image, height, width, 3) uint8, hold the pictures that Pillow decoded; JPEG files
    go beside them, on a CPU into `pixels` themselves. A file that torchvision refuses becomes
    undecodable, and its place black. Raises torch.OutOfMemoryError, which is no file's fault.
    """
    batch = torch.from_numpy(pixels).to(device, non_blocking=True)
    done = list(pictures)
    for group in _groups(pictures):
        contents = [pictures[position].jpeg or b"" for position in group]
        for position, image in zip(group, _decoded(contents, device), strict=True):
            done[position] = _placed(pictures[position], image, batch[position], recipe)
    return done, batch


def with_pixels(picture: Picture, recipe: Recipe, device: torch.device) -> Picture:
    """Return the picture of a JPEG file with its pixels, or the reason why there are none."""
    height, width = recipe.size(picture.width, picture.height)
    place = np.empty((1, height, width, 3), np.uint8)
    (done,), batch = complete([picture], place, recipe, device)
    if done.status != Status.OK:
        return done
    return dataclasses.replace(done, pixels=batch[0].cpu().numpy())


def _groups(pictures: Sequence[Picture]) -> Iterator[list[int]]:
    """Yield positions of JPEG files that are decoded together, of GROUP_PIXELS or one file."""
    group: list[int] = []
    held = 0
    for position, picture in enumerate(pictures):
        if picture.jpeg is None:
            continue
        size = picture.width * picture.height
        if group and held + size > GROUP_PIXELS:
            yield group
            group, held = [], 0
        group.append(position)
        held += size
    if group:
        yield group


def _decoded(contents: list[bytes], device: torch.device) -> list[Tensor | str]:
    """Return each file's (3, height, width) uint8 RGB, or why torchvision refuses it.

    One bad file fails all that are decoded with it, so that they are then tried one by one.
    """
    files = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
    if device.type == "cuda":
        # nvJPEG writes from a stream of its own into memory that a batch before may still read.
        torch.cuda.current_stream(device).synchronize()
    try:
        return list(decode_jpeg(files, mode=ImageReadMode.RGB, device=device))
    except torch.OutOfMemoryError:
        raise
    # A broken device raises this as well, and again when the batch is computed: nothing is stored.
    except RuntimeError as error:
        if len(contents) == 1:
            return [f"torchvision: {str(error).splitlines()[0]}"[:200]]
    return [image for content in contents for image in _decoded([content], device)]


def _placed(picture: Picture, image: Tensor | str, place: Tensor, recipe: Recipe) -> Picture:
    """Put an image at the recipe's size into `place`, black if it cannot be; say what came."""
    content = picture.jpeg or b""
    picture = dataclasses.replace(picture, jpeg=None)
    size = f"{picture.width}x{picture.height}"
    if isinstance(image, str):
        picture = dataclasses.replace(picture, status=Status.UNDECODABLE, reason=image)
    elif (found := f"{image.shape[2]}x{image.shape[1]}") != size:
        reason = f"its header says {size}, its image is {found}"
        picture = dataclasses.replace(picture, status=Status.UNDECODABLE, reason=reason)
    elif (pixels := resized(image, recipe)).shape != place.shape:
        picture = not_as_planned(picture)
    else:
        place.copy_(pixels)
        if JPEG_FILL.issuperset(image[:, -1, -1].tolist()) and jpeg_ends_early(content):
            reason = "; ".join(filter(None, (picture.reason, ENDED)))
            picture = dataclasses.replace(picture, reason=reason)
        return picture
    place.zero_()
    return picture


def resized(image: UInt8[Tensor, "3 high wide"], recipe: Recipe) -> UInt8[Tensor, "height width 3"]:
    """Return an image at the recipe's size: what `resizing.resized` does, on tensors.

    Gray files are RGB from the start, which gives the same numbers.
    """
    for step in recipe.steps:
        before = (image.shape[2], image.shape[1])
        width, height = step.size(before)
        if isinstance(step, Crop | Pad):
            left, top = step.corner(before)
            if isinstance(step, Crop):
                left, top = -left, -top
            right, bottom = width - before[0] - left, height - before[1] - top
            image = torch.nn.functional.pad(image, (left, right, top, bottom))
        elif not isinstance(step, RGB):
            mode = InterpolationMode(recipe.interpolation)
            image = transforms.resize(image, [height, width], mode, antialias=True)
    return image.permute(1, 2, 0)
