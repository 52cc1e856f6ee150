"""The steps of a recipe as numbers: which size an image has after each of them.

Sizes are (width, height) in pixels. Pixels are moved elsewhere; what a store says of its images'
real cells follows from these sizes alone.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np

from ..base.errors import StoreError
from .format import GridShape

Size = tuple[int, int]


@dataclass(frozen=True)
class Stretch:
    """Resize to a size, whatever the aspect ratio."""

    height: int
    width: int

    def size(self, size: Size) -> Size:
        return self.width, self.height


@dataclass(frozen=True)
class Shortest:
    """Resize the shorter side to `side`, the longer rounded down: torchvision's `Resize(side)`.

    >>> Shortest(224).size((640, 481))
    (298, 224)
    """

    side: int

    def size(self, size: Size) -> Size:
        width, height = size
        if width <= height:
            return self.side, int(self.side * height / width)
        return int(self.side * width / height), self.side


@dataclass(frozen=True)
class ShortestDetectron2:
    """Resize the shorter side to `side`, or less so that the longer is not over `longest`.

    Both round to the nearest pixel, as Detectron2's `ResizeShortestEdge` rounds.

    >>> ShortestDetectron2(600, 1000).size((1000, 333))
    (1000, 333)
    """

    side: int
    longest: int

    def size(self, size: Size) -> Size:
        width, height = size
        scale = self.side * 1.0 / min(height, width)
        if height < width:
            new_height, new_width = self.side, scale * width
        else:
            new_height, new_width = scale * height, self.side
        if max(new_height, new_width) > self.longest:
            scale = self.longest * 1.0 / max(new_height, new_width)
            new_height, new_width = new_height * scale, new_width * scale
        return int(new_width + 0.5), int(new_height + 0.5)


@dataclass(frozen=True)
class ShortestMaskRCNN:
    """Resize the shorter side to `side`, or less so that the longer is about `longest`.

    The shorter side is rounded first, the longer follows from it, rounded down, and may be a few
    pixels over `longest`: the rule of maskrcnn-benchmark, which CLIP-ViL's pretraining took over.

    >>> ShortestMaskRCNN(384, 640).size((1000, 312))
    (641, 200)
    """

    side: int
    longest: int

    def size(self, size: Size) -> Size:
        width, height = size
        side = self.side
        short, long = float(min(width, height)), float(max(width, height))
        if long / short * side > self.longest:
            side = round(self.longest * short / long)
        if side == min(width, height):
            return width, height
        if width < height:
            return side, int(side * height / width)
        return int(side * width / height), side


@dataclass(frozen=True)
class Fit:
    """Resize to the largest size inside a box, aspect kept: timm's `ResizeKeepRatio`, longest."""

    height: int
    width: int

    def size(self, size: Size) -> Size:
        width, height = size
        ratio = max(height / self.height, width / self.width)
        return round(width / ratio), round(height / ratio)


@dataclass(frozen=True)
class Cover:
    """Resize to the smallest size around a box, aspect kept: `ResizeKeepRatio`, shortest."""

    height: int
    width: int

    def size(self, size: Size) -> Size:
        width, height = size
        ratio = min(height / self.height, width / self.width)
        return round(width / ratio), round(height / ratio)


@dataclass(frozen=True)
class WholeCells:
    """Resize to whole cells, aspect kept as nearly as they allow.

    The shorter side goes to `shortest`, or less so that the longer is not over `longest`; then
    each is rounded to the nearest number of cells (half a cell up), at least one. In integers,
    so that there is nothing to round before that.

    >>> WholeCells(600, 1000, (32, 32)).size((640, 480))
    (800, 608)
    """

    shortest: int
    longest: int
    cell: tuple[int, int]  # (height, width)

    def size(self, size: Size) -> Size:
        short, long = min(size), max(size)
        scale, over = self.shortest, short  # the scale is a fraction
        if self.shortest * long > self.longest * short:
            scale, over = self.longest, long
        width, height = (
            cell * max(1, (2 * side * scale + over * cell) // (2 * over * cell))
            for side, cell in zip(size, reversed(self.cell), strict=True)
        )
        return width, height


@dataclass(frozen=True)
class Crop:
    """Cut the centre out of an image that is as large or larger; margins round half to even."""

    height: int
    width: int

    def size(self, size: Size) -> Size:
        return self.width, self.height

    def corner(self, size: Size) -> tuple[int, int]:
        """Return (left, top) of what is kept, as torchvision's CenterCrop rounds it."""
        return round((size[0] - self.width) / 2.0), round((size[1] - self.height) / 2.0)


@dataclass(frozen=True)
class Pad:
    """Put the image into the centre of black, and cut off what reaches beyond.

    Where margins differ by a pixel, the wider one is at the left and top (`odd` is "first") or at
    the right and bottom ("last"). With `turn`, an image that is no wider than high goes into
    height and width exchanged. `cell` tells which cells of the grid hold a pixel of the image.
    """

    height: int
    width: int
    turn: bool
    odd: Literal["first", "last"]
    cell: tuple[int, int]  # (height, width)

    def size(self, size: Size) -> Size:
        if self.turn and size[0] <= size[1]:
            return self.height, self.width
        return self.width, self.height

    def corner(self, size: Size) -> tuple[int, int]:
        """Return (left, top) of the image in the black; negative where it reaches beyond."""
        width, height = self.size(size)
        extra = 1 if self.odd == "first" else 0
        return (width - size[0] + extra) // 2, (height - size[1] + extra) // 2


@dataclass(frozen=True)
class RGB:
    """Convert to RGB; until then an image is resized in its own mode."""

    def size(self, size: Size) -> Size:
        return size


ImageTransform = (
    Stretch | Shortest | ShortestDetectron2 | ShortestMaskRCNN
    | Fit | Cover | WholeCells | Crop | Pad | RGB
)  # fmt: skip


MAX_SIDE = 4096  # pixels
MAX_STEPS = 16
NAMES: dict[str, type[ImageTransform]] = {
    "stretch": Stretch,
    "shortest": Shortest,
    "shortest-detectron2": ShortestDetectron2,
    "shortest-maskrcnn": ShortestMaskRCNN,
    "fit": Fit,
    "cover": Cover,
    "whole-cells": WholeCells,
    "crop": Crop,
    "pad": Pad,
    "rgb": RGB,
}


def step_json(step: ImageTransform) -> dict[str, Any]:
    """Return a step as a JSON object: `step`, its name, and its numbers."""
    name = next(name for name, kind in NAMES.items() if type(step) is kind)
    numbers = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(step).items()}
    return {"step": name, **numbers}


def parse_step(value: Any) -> ImageTransform:
    """Return the step that `step_json` gave, raising StoreError for any other value."""
    if not isinstance(value, Mapping):
        raise StoreError(f"a step must be an object with the key step; got {value!r:.80}")
    name = value.get("step")
    if not isinstance(name, str) or name not in NAMES:
        near = difflib.get_close_matches(str(name)[:80], NAMES, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(NAMES)}"
        raise StoreError(f"step {name!r:.80}: no such step; {hint}")
    fields = {field.name: field.type for field in dataclasses.fields(NAMES[name])}
    given = {key: value[key] for key in value if key != "step"}
    for key in given:
        if key not in fields:
            near = difflib.get_close_matches(str(key)[:80], fields, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(fields) or 'none'}"
            raise StoreError(f"step {name}: no such key {key!r:.80}; {hint}")
    for key, kind in fields.items():
        if key not in given:
            raise StoreError(f"step {name}: the key {key} is missing")
        given[key] = _checked(f"step {name}: {key}", given[key], kind)
    return NAMES[name](**given)


def _checked(what: str, value: Any, kind: Any) -> Any:
    """Return a number of a step, raising StoreError unless it is one of its kind."""

    def is_side(number: Any) -> bool:
        return type(number) is int and 1 <= number <= MAX_SIDE

    if kind is int and is_side(value):
        return value
    if kind is bool and type(value) is bool:
        return value
    if get_args(kind) == (int, int) and isinstance(value, list | tuple) and len(value) == 2:
        if all(map(is_side, value)):
            return tuple(value)
    elif isinstance(value, str) and value in get_args(kind):
        return value
    sides = f"1 to {MAX_SIDE} pixels"
    expected = {int: sides, bool: "true or false", tuple[int, int]: f"two of {sides}"}
    words = expected.get(kind) or " or ".join(map(str, get_args(kind)))
    raise StoreError(f"{what}: expected {words}; got {value!r:.80}")


MAX_AREAS = 255  # different ones in a store, beside the whole grid
NUMBER = "(0|[1-9][0-9]{0,3})"
TEXT = re.compile(rf"{NUMBER}x{NUMBER}\+{NUMBER}\+{NUMBER}")


class Area(NamedTuple):
    """A rectangle of cells; its text form is `12x16+0+2`: rows x cols + top + left."""

    rows: int
    cols: int
    top: int
    left: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}+{self.top}+{self.left}"

    @classmethod
    def parse(cls, text: Any) -> Self:
        """Return the area that `text` names, raising StoreError unless it is like 12x16+0+2."""
        found = TEXT.fullmatch(text) if isinstance(text, str) else None
        area = cls(*map(int, found.groups())) if found else None
        if area is None or not area.rows or not area.cols:
            raise StoreError(f"an area must read like 12x16+0+2; got {text!r:.80}")
        return area

    def lies_in(self, shape: GridShape) -> bool:
        """Return whether a grid has all of these cells."""
        return self.top + self.rows <= shape.rows and self.left + self.cols <= shape.cols

    def mask(self, shape: GridShape) -> np.ndarray:
        """Return (row, col) bool, True in the area."""
        mask = np.zeros(shape, bool)
        mask[self.top : self.top + self.rows, self.left : self.left + self.cols] = True
        return mask


def real_area(steps: Sequence[ImageTransform], size: tuple[int, int]) -> Area | None:
    """Return the cells that hold a pixel of an image of (width, height), None for all.

    Without a step that pads all are real, and so they are for an image of unknown size.
    """
    if min(size) < 1:
        return None
    for step in steps:
        if isinstance(step, Pad):
            return _inside(step, size)
        size = step.size(size)
        if min(size) < 1:
            return None
    return None


def _inside(pad: Pad, size: tuple[int, int]) -> Area | None:
    """Return the cells in which an image of (width, height) lies when it is padded."""
    spans = []
    for whole, side, start, cell in zip(
        pad.size(size), size, pad.corner(size), reversed(pad.cell), strict=True
    ):
        cells = whole // cell  # a remainder is dropped, as by the backbone
        first = min(max(start, 0) // cell, cells - 1)
        end = min(-(-(start + side) // cell), cells)
        spans.append((cells, first, max(end, first + 1) - first))
    (cols, left, real_cols), (rows, top, real_rows) = spans
    if (rows, cols) == (real_rows, real_cols) or min(rows, cols) < 1:
        return None
    return Area(real_rows, real_cols, top, left)


def area_rule(recipe: Mapping[str, Any]) -> Callable[[int, int], Area | None] | None:
    """Return the function from an image's width and height to its real area.

    `recipe` is that of an identity. None if it never pads, and for a recipe that is not one of
    clipfeat's, since nothing is known of what made such a grid. Views of one record are all real.
    """
    steps = recipe.get("steps")
    if not isinstance(steps, list) or len(steps) > MAX_STEPS or recipe.get("views") is not None:
        return None
    try:
        parsed = [parse_step(step) for step in steps]
    except StoreError:
        return None
    if not any(isinstance(step, Pad) for step in parsed):
        return None
    return lru_cache(1 << 16)(lambda width, height: real_area(parsed, (width, height)))
