"""Regions as a map of their image, so that they are drawn as grids are."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from ..featstore import FeatureStore

LONGER_SIDE = 48  # cells of a map


@dataclass(frozen=True)
class RegionMap:
    """Where the regions of an image lie on a map of it."""

    boxes: Int[np.ndarray, "region 4"]  # left, top, right, bottom: the first two in, the others out
    shape: tuple[int, int]  # rows, cols

    @classmethod
    def of(cls, store: FeatureStore, image_id: str) -> "RegionMap | None":
        """Return the map of an image; None where the store has grids.

        Where the size of the image is not known, it ends with its last box.
        """
        boxes = store.read([image_id]).boxes
        if boxes is None:
            return None
        width, height = store.image_sizes([image_id])[0].tolist()
        if not (width and height):
            width, height = np.maximum(boxes[0, :, 2:].max(axis=0), 1).tolist()
        scale = LONGER_SIDE / max(width, height)
        rows, cols = (max(1, round(scale * side)) for side in (height, width))
        ends = np.array((cols, rows))
        scaled = np.nan_to_num(scale * boxes[0].astype(np.float64)).reshape(-1, 2, 2)
        first = np.floor(scaled[:, 0]).clip(0, ends - 1)
        last = np.ceil(scaled[:, 1]).clip(first + 1, ends)  # every region has a cell
        return cls(np.concatenate((first, last), axis=1).astype(np.int64), (rows, cols))

    def attention(self, weights: Float[np.ndarray, " region"]) -> Float[np.ndarray, "row col"]:
        """Return at each place the largest weight of the regions there, 0 where there is none."""
        return self._painted(weights, np.argsort(weights))

    def features(
        self, regions: Float[np.ndarray, "region dim"]
    ) -> Float[np.ndarray, "row col dim"]:
        """Return at each place the features of the smallest region there, 0 where there is none."""
        left, top, right, bottom = self.boxes.T
        return self._painted(regions, np.argsort(-(right - left) * (bottom - top), kind="stable"))

    def _painted(
        self, values: Shaped[np.ndarray, "region ..."], order: Int[np.ndarray, " region"]
    ) -> Shaped[np.ndarray, "row col ..."]:
        canvas = np.zeros((*self.shape, *values.shape[1:]), values.dtype)
        for number in order.tolist():
            left, top, right, bottom = self.boxes[number].tolist()
            canvas[top:bottom, left:right] = values[number]
        return canvas
