"""Shapes of grids, the size of an image after each step of a recipe, and the cells it fills.

Sizes are (width, height) in pixels. Nothing here touches pixels: which cells of a grid hold a
pixel of the image follows from these sizes alone.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, Self, TypedDict

import msgspec
import numpy as np
from msgspec import Meta

from ..base.errors import StoreError
from ..base.jsonio import as_struct

MAX_GRID_SIDE = 1 << 12  # rows or cols
MAX_SIDE = 4096  # pixels
MAX_STEPS = 16


class GridShape(NamedTuple):
    """A grid's rows and columns; its text form, `14x14`, names its arrays on disk."""

    rows: int
    cols: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}"

    @property
    def cells(self) -> int:
        """The number of cells."""
        return self.rows * self.cols

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the shape that `text` names, raising StoreError unless it is like `14x14`."""
        rows, _, cols = text.partition("x")
        if not all(n.isascii() and n.isdigit() and n.lstrip("0") == n for n in (rows, cols)):
            raise StoreError(
                f"a grid shape must read like 14x14; got {text!r:.80}", code="E-STORE-SHAPE"
            )
        shape = cls(int(rows[:9]), int(cols[:9]))
        if not 1 <= min(shape) <= max(shape) <= MAX_GRID_SIDE:
            raise StoreError(
                f"a grid has 1 to {MAX_GRID_SIDE} rows and cols; got {text!r:.80}",
                code="E-STORE-SHAPE",
            )
        return shape


Interpolation = Literal["bicubic", "bilinear"]
Passes = Literal["horizontal-first"]
Side = Annotated[int, Meta(ge=1, le=MAX_SIDE, description=f"1 to {MAX_SIDE} pixels")]
Cell = tuple[Side, Side]  # (height, width)
Size = tuple[int, int]


class Resampling(TypedDict):
    """What every step that resizes says: the filter, and the order of the two passes."""

    interpolation: Interpolation
    passes: Passes


BICUBIC: Resampling = {"interpolation": "bicubic", "passes": "horizontal-first"}
BILINEAR: Resampling = {"interpolation": "bilinear", "passes": "horizontal-first"}


class _Transform(msgspec.Struct, frozen=True, tag_field="step", forbid_unknown_fields=True):
    """A step of a recipe; its `size` is an image's (width, height) after the step."""


class ResizeStep(_Transform, frozen=True, kw_only=True):
    """A step that resizes; each of its two passes rounds, so that their order decides pixels."""

    interpolation: Interpolation
    passes: Passes


class Stretch(ResizeStep, frozen=True, tag="stretch"):
    """Resize to a size, whatever the aspect ratio."""

    height: Side
    width: Side

    def size(self, size: Size) -> Size:
        return self.width, self.height


class Shortest(ResizeStep, frozen=True, tag="shortest"):
    """Resize the shorter side to `side`, the longer rounded down: torchvision's `Resize(side)`.

    >>> Shortest(224, **BICUBIC).size((640, 481))
    (298, 224)
    """

    side: Side

    def size(self, size: Size) -> Size:
        width, height = size
        if width <= height:
            return self.side, int(self.side * height / width)
        return int(self.side * width / height), self.side


class ShortestDetectron2(ResizeStep, frozen=True, tag="shortest-detectron2"):
    """Resize the shorter side to `side`, or less so that the longer does not exceed `longest`.

    Both round to the nearest pixel, as Detectron2's `ResizeShortestEdge` rounds.

    >>> ShortestDetectron2(600, 1000, **BILINEAR).size((1000, 333))
    (1000, 333)
    """

    side: Side
    longest: Side

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


class ShortestMaskRCNN(ResizeStep, frozen=True, tag="shortest-maskrcnn"):
    """Resize the shorter side to `side`, or less so that the longer is about `longest`.

    The shorter side is rounded first; the longer follows from it, rounded down, and may exceed
    `longest` by a few pixels. This is the rule of maskrcnn-benchmark, which CLIP-ViL's pre-training
    uses.

    >>> ShortestMaskRCNN(384, 640, **BILINEAR).size((1000, 312))
    (641, 200)
    """

    side: Side
    longest: Side

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


class Fit(ResizeStep, frozen=True, tag="fit"):
    """Resize to the largest size inside a box, keeping the aspect ratio: timm's `ResizeKeepRatio`
    with `longest=1`."""

    height: Side
    width: Side

    def size(self, size: Size) -> Size:
        width, height = size
        ratio = max(height / self.height, width / self.width)
        return round(width / ratio), round(height / ratio)


class Cover(ResizeStep, frozen=True, tag="cover"):
    """Resize to the smallest size around a box, keeping the aspect ratio: `ResizeKeepRatio` with
    `longest=0`."""

    height: Side
    width: Side

    def size(self, size: Size) -> Size:
        width, height = size
        ratio = min(height / self.height, width / self.width)
        return round(width / ratio), round(height / ratio)


class WholeCells(ResizeStep, frozen=True, tag="whole-cells"):
    """Resize to whole cells, with nearly the same aspect ratio.

    The shorter side becomes `shortest`, or less so that the longer does not exceed `longest`; then
    each is rounded to the nearest number of cells (half a cell up), at least one. Computed in
    integers, so that nothing else is rounded.

    >>> WholeCells(600, 1000, (32, 32), **BICUBIC).size((640, 480))
    (800, 608)
    """

    shortest: Side
    longest: Side
    cell: Cell

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


class Crop(_Transform, frozen=True, tag="crop"):
    """Keep the centre of an image that is as large or larger; margins round half to even."""

    height: Side
    width: Side

    def size(self, size: Size) -> Size:
        return self.width, self.height

    def corner(self, size: Size) -> tuple[int, int]:
        """Return (left, top) of the kept part, rounded as torchvision's CenterCrop does."""
        return round((size[0] - self.width) / 2.0), round((size[1] - self.height) / 2.0)


class Pad(_Transform, frozen=True, tag="pad"):
    """Put the image on the centre of a black frame, and cut off what lies outside.

    Where margins differ by a pixel, the wider one is at the left and top (`odd` is "first") or at
    the right and bottom ("last"). With `turn`, height and width of the frame are exchanged for an
    image that is not wider than high. `cell` decides which cells of the grid hold its pixels.
    """

    height: Side
    width: Side
    turn: bool
    odd: Literal["first", "last"]
    cell: Cell

    def size(self, size: Size) -> Size:
        if self.turn and size[0] <= size[1]:
            return self.height, self.width
        return self.width, self.height

    def corner(self, size: Size) -> tuple[int, int]:
        """Return (left, top) of the image in the frame; negative where it is cut off."""
        width, height = self.size(size)
        extra = 1 if self.odd == "first" else 0
        return (width - size[0] + extra) // 2, (height - size[1] + extra) // 2


class RGB(_Transform, frozen=True, tag="rgb"):
    """Convert to RGB; until then an image is resized in its own mode."""

    def size(self, size: Size) -> Size:
        return size


class Upright(_Transform, frozen=True, tag="upright"):
    """Turn an image as its EXIF orientation says.

    `size` is that of the turned image: all sizes of a recipe with this step are.
    """

    def size(self, size: Size) -> Size:
        return size


ImageTransform = (
    Upright | Stretch | Shortest | ShortestDetectron2 | ShortestMaskRCNN
    | Fit | Cover | WholeCells | Crop | Pad | RGB
)  # fmt: skip

Steps = Annotated[list[ImageTransform], Meta(max_length=MAX_STEPS)]


MAX_AREAS = 255  # in a store, besides the whole grid
NUMBER = "(0|[1-9][0-9]{0,3})"
AREA = re.compile(rf"{NUMBER}x{NUMBER}\+{NUMBER}\+{NUMBER}")


class Area(NamedTuple):
    """A rectangle of cells; its text form is `12x16+0+2`: rows x cols + top + left."""

    rows: int
    cols: int
    top: int
    left: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.cols}+{self.top}+{self.left}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the area that `text` names, raising StoreError unless it is like 12x16+0+2."""
        match = AREA.fullmatch(text)
        area = cls(*map(int, match.groups())) if match else None
        if area is None or not area.rows or not area.cols:
            raise StoreError(
                f"an area must read like 12x16+0+2; got {text!r:.80}", code="E-STORE-AREA"
            )
        return area

    def lies_in(self, shape: GridShape) -> bool:
        """Return whether a grid contains all of these cells."""
        return self.top + self.rows <= shape.rows and self.left + self.cols <= shape.cols

    def mask(self, shape: GridShape) -> np.ndarray:
        """Return (row, col) bool, True in the area."""
        mask = np.zeros(shape, bool)
        mask[self.top : self.top + self.rows, self.left : self.left + self.cols] = True
        return mask


def real_area(steps: Sequence[ImageTransform], size: tuple[int, int]) -> Area | None:
    """Return the cells that hold a pixel of an image of (width, height), None for all cells.

    Without a step that pads, and for an image of unknown size, these are all cells.
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
    """Return the cells that a padded image of (width, height) covers."""
    spans: list[tuple[int, int, int]] = []
    for whole, side, start, cell in zip(
        pad.size(size), size, pad.corner(size), reversed(pad.cell), strict=True
    ):
        cells = whole // cell  # the backbone drops a remainder, too
        first = min(max(start, 0) // cell, cells - 1)
        end = min(-(-(start + side) // cell), cells)
        spans.append((cells, first, max(end, first + 1) - first))
    (cols, left, real_cols), (rows, top, real_rows) = spans
    if (rows, cols) == (real_rows, real_cols) or min(rows, cols) < 1:
        return None
    return Area(real_rows, real_cols, top, left)


def area_rule(recipe: Mapping[str, Any]) -> Callable[[int, int], Area | None] | None:
    """Return the function from an image's width and height to its real area.

    `recipe` is that of an identity. None if it never pads, if a record holds views, and for a
    recipe that clipfeat did not make, since the origin of its grids is unknown.
    """
    try:
        steps: list[ImageTransform] = as_struct(recipe.get("steps"), Steps)
    except ValueError:
        return None
    if recipe.get("views") is not None or not any(isinstance(step, Pad) for step in steps):
        return None

    def area_of_image(width: int, height: int) -> Area | None:
        return real_area(steps, (width, height))

    return lru_cache(1 << 16)(area_of_image)
