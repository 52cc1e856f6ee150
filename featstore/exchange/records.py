"""What feature files of other programs hold, in the terms of a store."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..geometry import GridShape
from ..identity import FloatDtype, Region
from ..lookup import Status


class Item(NamedTuple):
    """One image of a source, as found without decoding its features."""

    image_id: str
    shape: GridShape  # of its grid; regions have one col, vectors are 1x1
    place: Any  # where its reader finds it: an offset, a file, a key
    problem: str = ""  # why it cannot be read, "" for an item without a known problem
    status: Status = Status.UNDECODABLE  # of an item with a problem
    source: str = ""  # its place for people: a file, or a line of one


def status_of(error: Exception) -> Status:
    """Return the status of an image that could not be read."""
    if isinstance(error, FileNotFoundError):
        return Status.MISSING
    is_failure = isinstance(error, OSError | OverflowError)
    return Status.FAILED if is_failure else Status.UNDECODABLE


class Features(NamedTuple):
    """The features of one image.

    Boxes are left, top, right and bottom, in pixels of the source image.
    """

    grid: np.ndarray  # (row, col, dim) float16 or float32
    boxes: np.ndarray | None = None  # (region, 4) float32
    classes: np.ndarray | None = None  # (region,) int32
    scores: np.ndarray | None = None  # (region,) float32
    width: int = 0  # pixels of the source image, 0 where the source does not say
    height: int = 0
    source_sha256: str = ""  # of the item's bytes in the source

    def has_box_beyond(self, width: int, height: int) -> bool:
        """Return whether a box has a negative size, or is over a pixel beyond an image."""
        if self.boxes is None:
            return False
        left, top, right, bottom = self.boxes.T
        is_negative = (right < left).any() or (bottom < top).any()
        is_beyond = self.boxes.min() < -1 or right.max() > width + 1 or bottom.max() > height + 1
        return bool(is_negative or is_beyond)


class FeatureReader(Protocol):
    """Reads the features of one format; `read` may be called in several threads at once.

    The order of `items` decides which of two items of one id counts: the first without a problem.
    """

    format: str  # its name, for the identity
    dim: int
    dtype: FloatDtype  # of the numbers in the source
    regions: tuple[Region, ...]  # what each row has besides its vector, () for grids
    files: Sequence[Path]  # of the source: their sha256 belong to the store's identity
    settings: dict[str, Any]  # what the user said about the source, for the identity's recipe

    def items(self) -> Iterator[Item]:
        """Yield the images of the source in its order, damaged ones with their problem."""
        ...

    def read(self, item: Item) -> Features:
        """Return the features of an item; raises ValueError with the reason where it is damaged.

        The grid has the item's shape, `dim` channels and `dtype`; with regions, the arrays that
        `regions` names are there. That numbers are finite is checked by the caller.
        """
        ...

    def close(self) -> None:
        """Close the files of the source."""
        ...


class FeatureWriter(Protocol):
    """Writes one format. An interrupted export continues: `written` ids are not written again.

    Making one checks only what can be known; nothing is written before `written` is called, once.
    """

    def written(self) -> set[str]:
        """Return the ids that an interrupted export has written completely."""
        ...

    def write(self, image_id: str, features: Features) -> None:
        """Write the features of one image; raises ValueError where the format cannot hold them."""
        ...

    def finish(self) -> None:
        """Complete the destination, which until then shows that it is incomplete."""
        ...
