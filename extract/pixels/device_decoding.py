"""JPEG files decoded by torchvision on the device of the backbone, and resized there."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from ...featstore import Status
from ...featstore.geometry import RGB, Crop, Pad
from ...manifests.headers import pillow_for_any_file
from ..planning.recipe import Recipe
from .images import Picture, not_as_planned
from .inspection import ENDED, JPEG_FILL, jpeg_ends_early

GROUP_PIXELS = 1 << 26  # decoded at a time, unless one image has more: 200 MB in RGB


def decode_on_device(
    pictures: Sequence[Picture],
    pixels: UInt8[np.ndarray, "image height width 3"],
    recipe: Recipe,
    device: torch.device,
) -> tuple[list[Picture], UInt8[Tensor, "image height width 3"]]:
    """Return the pictures of a batch without their JPEG files, and the pixels of all on `device`.

    `pixels` hold the pictures that Pillow decoded; the decoded JPEG files are added to them, on a
    CPU in `pixels` themselves. A file that torchvision refuses becomes undecodable, and its pixels
    black. Raises torch.OutOfMemoryError, of which no file is the cause.
    """
    batch = torch.from_numpy(pixels).to(device, non_blocking=True)
    done = list(pictures)
    for group in _groups(pictures):
        contents = [pictures[position].jpeg or b"" for position in group]
        for position, image in zip(group, _decoded(contents, device), strict=True):
            done[position] = _filled(pictures[position], image, batch[position], recipe)
    return done, batch


def decode_one_on_device(picture: Picture, recipe: Recipe, device: torch.device) -> Picture:
    """Return the picture of a JPEG file with its pixels, or the reason why it has none."""
    height, width = recipe.size(picture.width, picture.height)
    pixels = np.empty((1, height, width, 3), np.uint8)
    (done,), batch = decode_on_device([picture], pixels, recipe, device)
    if done.status != Status.OK:
        return done
    return replace(done, pixels=batch[0].cpu().numpy())


def _groups(pictures: Sequence[Picture]) -> Iterator[list[int]]:
    """Yield the positions of JPEG files to decode together: GROUP_PIXELS at most, or one file."""
    group: list[int] = []
    pixels = 0
    for position, picture in enumerate(pictures):
        if picture.jpeg is None:
            continue
        size = picture.width * picture.height
        if group and pixels + size > GROUP_PIXELS:
            yield group
            group, pixels = [], 0
        group.append(position)
        pixels += size
    if group:
        yield group


def _decoded(contents: list[bytes], device: torch.device) -> list[UInt8[Tensor, "3 _ _"] | str]:
    """Return each file's (3, height, width) RGB, or why torchvision refuses it.

    One bad file fails all that are decoded with it, so they are then tried one by one.
    """
    files = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
    if device.type == "cuda":
        # nvJPEG writes on its own stream, into memory that an earlier batch may still read.
        torch.cuda.current_stream(device).synchronize()
    try:
        return list(decode_jpeg(files, mode=ImageReadMode.RGB, device=device))
    except torch.OutOfMemoryError:
        raise
    # A broken device raises this too, and again when the batch is computed: nothing is stored.
    except RuntimeError as error:
        if len(contents) == 1:
            return [f"torchvision: {str(error).splitlines()[0]}"[:200]]
    return [image for content in contents for image in _decoded([content], device)]


def _filled(
    picture: Picture,
    image: UInt8[Tensor, "3 high wide"] | str,
    target: UInt8[Tensor, "height width 3"],
    recipe: Recipe,
) -> Picture:
    """Write an image at the recipe's size into `target`, black if that fails; return its picture."""
    content = picture.jpeg or b""
    picture = replace(picture, jpeg=None)
    header_size = f"{picture.width}x{picture.height}"
    if isinstance(image, str):
        picture = replace(picture, status=Status.UNDECODABLE, reason=image)
    elif (size := f"{image.shape[2]}x{image.shape[1]}") != header_size:
        reason = f"its header says {header_size}, its image is {size}"
        picture = replace(picture, status=Status.UNDECODABLE, reason=reason)
    elif (pixels := resized(image, recipe)).shape != target.shape:
        picture = not_as_planned(picture)
    else:
        target.copy_(pixels)
        if JPEG_FILL.issuperset(image[:, -1, -1].tolist()):
            with pillow_for_any_file():
                if jpeg_ends_early(content):
                    reason = "; ".join(filter(None, (picture.reason, ENDED)))
                    picture = replace(picture, reason=reason)
        return picture
    target.zero_()
    return picture


def resized(image: UInt8[Tensor, "3 high wide"], recipe: Recipe) -> UInt8[Tensor, "height width 3"]:
    """Return an image at the recipe's size: what `images.resized` does, on tensors.

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
            mode = InterpolationMode(step.interpolation)
            image = transforms.resize(image, [height, width], mode, antialias=True)
    return image.permute(1, 2, 0)
