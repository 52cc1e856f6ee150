"""Records of a store as tensors, in pinned memory, from the disk or from a cache."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..featstore import FeatureStore

Cache = Literal["none", "memory", "device"]


class Records(NamedTuple):
    """The grids of some images, padded to the largest among them."""

    features: Float[Tensor, "image cell dim"]
    mask: Bool[Tensor, "image cell"]
    grid_shapes: Int[Tensor, "image 2"]


class RecordReader:
    """Reads the records of a list of ids by their numbers in it."""

    def __init__(self, store: FeatureStore, ids: Sequence[str], device: torch.device) -> None:
        self._store = store
        self._ids = ids
        self._pins = device.type == "cuda"

    def pinned(self, tensor: Tensor) -> Tensor:
        """Return the tensor in memory that a GPU can copy from by itself, if there is one."""
        return tensor.pin_memory() if self._pins else tensor

    def read(self, images: Int[np.ndarray, " image"]) -> Records:
        """Return the records of the ids at `images`."""
        records = self._store.read([self._ids[image] for image in images])
        return Records(
            *map(torch.from_numpy, (records.features, records.mask, records.grid_shapes))
        )
