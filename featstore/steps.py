"""The steps of a recipe as numbers: which size an image has after each of them.

Sizes are (width, height) in pixels. Pixels are moved elsewhere; what a store says of its images'
real cells follows from these sizes alone.
"""

from dataclasses import dataclass
from typing import Literal

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


Step = (
    Stretch | Shortest | ShortestDetectron2 | ShortestMaskRCNN
    | Fit | Cover | WholeCells | Crop | Pad | RGB
)  # fmt: skip
