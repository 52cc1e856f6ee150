"""What the formats have in common: arrays of one image as found, and what a store takes of them."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ...base.errors import UsageError, reason_of
from ...base.text import printable
from ..geometry import MAX_GRID_SIDE, GridShape
from ..identity import REGIONS, FloatDtype, Region
from .records import Features, Item, status_of

# How the axes of a grid are meant; a batch axis of 1 may stand before them. "cn" is a matrix with a
# column for each region. Vectors and matrices with a row for each region need no layout.
Layout = Literal["hwc", "chw", "cn"]
LAYOUTS = ("hwc", "chw")
FIRST_IMAGES = 16
DTYPES: dict[str, FloatDtype] = {"float16": "float16", "float32": "float32"}


class Parts(NamedTuple):
    """The arrays of one image, not yet read: each has a shape and a dtype, and numpy can read it.

    Boxes are left, top, right and bottom, in pixels.
    """

    grid: Any
    boxes: Any = None  # (region, 4)
    classes: Any = None  # (region,)
    scores: Any = None  # (region,) or (region, class), of which the largest counts
    width: int = 0
    height: int = 0

    @property
    def regions(self) -> tuple[Region, ...]:
        """What each cell has besides its vector."""
        return tuple(name for name in REGIONS if getattr(self, name) is not None)


def cells_of(shape: Sequence[int], layout: Layout | None) -> tuple[GridShape, int]:
    """Return the grid shape and the dim of an array; ValueError for one that is no grid."""
    sides = tuple(shape[1:] if len(shape) == 4 and shape[0] == 1 else shape)
    if len(sides) == 1:
        rows, cols, dim = 1, 1, sides[0]
    elif len(sides) == 2:
        (dim, rows), cols = (sides if layout == "cn" else sides[::-1]), 1
    elif len(sides) == 3 and layout in ("hwc", "chw"):
        rows, cols, dim = sides if layout == "hwc" else (*sides[1:], sides[0])
    else:
        raise ValueError(f"an array of shape {tuple(shape)}, which is not the grid of one image")
    if not 1 <= min(rows, cols) <= max(rows, cols) <= MAX_GRID_SIDE or dim < 1:
        raise ValueError(
            f"an array of shape {tuple(shape)}; a grid has 1 to {MAX_GRID_SIDE} rows and cols"
        )
    return GridShape(rows, cols), dim


class PartsReader(ABC):
    """Reads a format whose images are `Parts`; the base of a `FeatureReader`.

    A subclass says where the images are, and opens the parts of one.
    """

    files: Sequence[Path] = ()

    def __init__(
        self,
        name: str,
        source: Path,
        settings: dict[str, Any] | None = None,
        layout: Layout | None = None,
    ) -> None:
        """Look at the first images, since what most of them are decides what a store of them is.

        Raises UsageError where none can be read (E-IMPORT-EMPTY), and where the order of a grid's
        axes must be given (E-IMPORT-LAYOUT).
        """
        self.format = name
        self.layout: Layout | None = layout
        self.settings = settings or {}
        problem = ""
        kinds: Counter[tuple[int, FloatDtype, tuple[Region, ...]]] = Counter()
        for image_id, place in self.places():
            try:
                parts = self.parts(image_id, place)
                self._require_layout(source, parts.grid.shape)
                shape, dim = cells_of(parts.grid.shape, layout)
                regions = parts.regions if shape.cols == 1 else ()
                kinds[dim, _float_dtype(parts.grid.dtype), regions] += 1
            except (ValueError, OSError) as error:
                problem = problem or f": {image_id}: {reason_of(error)}"
            if kinds.total() == FIRST_IMAGES:
                break
        if not kinds:
            problem = f" can be read{printable(problem)}" if problem else ""
            raise UsageError(
                f"{source}: no image in it{problem or ' has features':.300}; name another source, or "
                f"another format with --as",
                code="E-IMPORT-EMPTY",
            )
        ((self.dim, self.dtype, self.regions), _), *_ = kinds.most_common(1)

    def _require_layout(self, source: Path, shape: Sequence[int]) -> None:
        if len(shape) == (4 if shape[:1] == (1,) else 3) and self.layout is None:
            raise UsageError(
                f"{source}: its arrays have the shape {tuple(shape)}, in which the axes of a grid may "
                f"stand in either order; pass --layout hwc (row, col, channel) or --layout chw",
                code="E-IMPORT-LAYOUT",
            )

    @abstractmethod
    def places(self) -> Iterator[tuple[str, Any]]:
        """Yield the id and the place of each image, in the order of the source."""

    @abstractmethod
    def parts(self, image_id: str, place: Any) -> Parts:
        """Return the parts of an image, of which no large one is read yet."""

    @abstractmethod
    def whole(self, image_id: str, place: Any) -> tuple[Parts, str]:
        """Return the parts of an image, and the sha256 of its bytes."""

    def place_text(self, place: Any) -> str:
        """Return the place of an image for people."""
        return str(place)

    def items(self) -> Iterator[Item]:
        """Yield the images of the source, damaged ones with their problem."""
        for image_id, place in self.places():
            source = self.place_text(place)
            try:
                shape = self._checked(self.parts(image_id, place))
            except (ValueError, OSError) as error:
                problem, status = reason_of(error), status_of(error)
                yield Item(image_id, GridShape(1, 1), place, problem, status, source)
            else:
                yield Item(image_id, shape, place, source=source)

    def read(self, item: Item) -> Features:
        """Return the features of an item; ValueError where it is damaged, OSError as for files."""
        parts, sha256 = self.whole(item.image_id, item.place)
        shape = self._checked(parts)
        grid = np.asarray(parts.grid).astype(self.dtype, copy=False)
        if self.layout in ("chw", "cn"):
            grid = np.moveaxis(grid.reshape(self.dim, *shape), 0, -1)
        boxes = classes = scores = None
        if "boxes" in self.regions:
            boxes = _numbers(parts.boxes, "float32")
        if "classes" in self.regions:
            classes = _numbers(parts.classes, "int32")
        if "scores" in self.regions:
            scores = _numbers(parts.scores, "float32")
            scores = scores.max(axis=1) if scores.ndim == 2 else scores
        return Features(
            np.ascontiguousarray(grid).reshape(*shape, self.dim),
            boxes, classes, scores, parts.width, parts.height, sha256,
        )  # fmt: skip

    def close(self) -> None:  # noqa: B027 - most have none
        """Close the files of the source."""

    def _checked(self, parts: Parts) -> GridShape:
        """Return the grid shape of an image, if it has the parts that most images have."""
        shape, dim = cells_of(parts.grid.shape, self.layout)
        if dim != self.dim:
            raise ValueError(f"{dim} channels, where most images have {self.dim}")
        if _float_dtype(parts.grid.dtype) != self.dtype and self.dtype == "float16":
            raise ValueError("float32, where most images have float16")
        for name in self.regions:
            part = getattr(parts, name)
            if part is None:
                raise ValueError(f"it has no {name}, which most images have")
            expected = (shape.rows, 4) if name == "boxes" else (shape.rows,)
            if tuple(part.shape) != expected and not _is_matrix_of_scores(name, part, shape.rows):
                raise ValueError(f"{name} of shape {tuple(part.shape)} for {shape.rows} regions")
        return shape


def _is_matrix_of_scores(name: str, part: Any, regions: int) -> bool:
    return (
        name == "scores" and len(part.shape) == 2 and part.shape[0] == regions and part.shape[1] > 0
    )


def _float_dtype(dtype: np.dtype) -> FloatDtype:
    if dtype.name not in DTYPES:
        raise ValueError(f"{dtype.name} numbers; features are float16 or float32")
    return DTYPES[dtype.name]


def _numbers(array: Any, dtype: str) -> np.ndarray:
    """Return small numbers of regions as a store has them; ValueError where they do not fit."""
    values = np.asarray(array)
    if (
        dtype == "int32"
        and values.size
        and not -(1 << 31) <= values.min() <= values.max() < 1 << 31
    ):
        raise ValueError("classes that are not numbers of classes")
    return values.astype(dtype)
