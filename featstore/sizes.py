"""The sizes of source images, as the index has them, by the places of the records."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .geometry import GridShape
from .lookup import SHAPE_BIT, Places

COLUMNS = ("image_id", "shape", "row", "width", "height")  # of the index


@dataclass(frozen=True)
class ImageSizes:
    """Width and height of the source image of every row of the index, 16 bytes for each."""

    places: np.ndarray  # (row,) int64, sorted: the number of the grid shape, then the array's row
    sizes: np.ndarray  # (row, 2) int32: width, height; 0 where they are not known

    @classmethod
    def of(cls, grid_shapes: Sequence[GridShape], index: Iterable[pa.RecordBatch]) -> "ImageSizes":
        """Return the sizes of an index that is given by its COLUMNS."""
        shapes = pa.array([str(shape) for shape in grid_shapes], pa.string())
        places, sizes = [np.zeros(0, np.int64)], [np.zeros((0, 2), np.int32)]
        for batch in index:
            number = pc.call_function(
                "index_in", [batch.column("shape")], pc.SetLookupOptions(shapes)
            )
            # A grid shape that the store does not have leads to a place that nobody looks for.
            shape = number.fill_null(len(shapes)).to_numpy().astype(np.int64)
            places.append((shape << SHAPE_BIT) | batch.column("row").to_numpy())
            sides = [batch.column(name).to_numpy() for name in ("width", "height")]
            sizes.append(np.stack(sides, axis=1))
        all_places = np.concatenate(places)
        order = np.argsort(all_places, kind="stable")
        return cls(all_places[order], np.concatenate(sizes)[order])

    def find(self, wanted: Places) -> tuple[np.ndarray, np.ndarray]:
        """Return the sizes (image, 2) at some places, and which of these the index has."""
        keys = (wanted.shape << SHAPE_BIT) | wanted.row
        position = np.searchsorted(self.places, keys).clip(max=len(self.places) - 1)
        return self.sizes[position], self.places[position] == keys
