"""Real areas: the cells of a grid that hold a pixel of the image, where others hold padding."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np

from .errors import StoreError
from .format import GridShape
from .step_json import MAX_STEPS, parse_step
from .steps import Pad, Step

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


def real_area(steps: Sequence[Step], size: tuple[int, int]) -> Area | None:
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
