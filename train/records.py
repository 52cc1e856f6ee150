"""Records of a store as tensors."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import psutil
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from ..base.errors import UsageError
from ..base.text import is_url
from ..featstore import FeatureStore
from ..featstore.reading import BufferPool
from .batches import READ_AHEAD

# Batches in memory at once: those read ahead, the one being read, the one computed on, and the
# previous one, which Python frees when the next arrives.
ALIVE = READ_AHEAD + 3
BOX = 5  # numbers that a model reads of a box
SPARED = 0.9  # of the free memory: the share that a cache may take
NO_BOXES = torch.zeros(0, 0, BOX)


class Records(NamedTuple):
    """The grids of some images, padded to the largest among them, in the store's dtype.

    Of a store of regions each cell is one, and has a box (`relative_boxes`).
    """

    features: Float[Tensor, "image cell dim"]
    mask: Bool[Tensor, "image cell"]  # True where a cell holds pixels of the image
    grid_shapes: Int[Tensor, "image 2"]  # rows, cols
    boxes: Float32[Tensor, "image cell 5"] = NO_BOXES  # empty for grids


def relative_boxes(
    boxes: Float32[np.ndarray, "image cell 4"], sizes: Int[np.ndarray, "image 2"]
) -> Float32[np.ndarray, "image cell 5"]:
    """Return boxes as models read them: left, top, right, bottom and area, as shares of the image.

    `boxes` and `sizes`, width and height, are in pixels. The five numbers are those of ViLBERT
    (arXiv:1908.02265, section 2.2). Boxes of an image of unknown size, which is 0, are zeros.
    """
    known = np.logical_and(*(sizes > 0).T)[:, None, None]
    sides = np.tile(sizes, 2)[:, None]  # image 1 4
    shares = np.divide(boxes, sides, out=np.zeros(boxes.shape), where=known)
    left, top, right, bottom = np.moveaxis(shares, -1, 0)
    area = (right - left) * (bottom - top)
    return np.stack((left, top, right, bottom, area), axis=-1).astype(np.float32)


class RecordReader:
    """Reads records by image id, for batches that `device` will compute on.

    For a GPU they are in pinned memory, so that it can copy them by itself. With `cache` "memory"
    or "device", each record is read from the disk once and then kept in that memory.
    """

    def __init__(self, store: FeatureStore, device: torch.device, cache: str = "none") -> None:
        self._store = store
        self._pins = device.type == "cuda"
        self._home = device if cache == "device" else torch.device("cpu")
        self._kept: dict[str, Records] | None = None if cache == "none" else {}
        self._pool = BufferPool(ALIVE)

    def require_room(self, ids: Collection[str], *, processes: int) -> None:
        """Raise UsageError unless the cache, if there is one, can hold the records of `ids`."""
        if self._kept is None:
            return
        needed = int(self._store.shapes(list(ids)).prod(axis=1).sum()) * self._cell_bytes
        if self._home.type == "cuda":
            free, cache = torch.cuda.mem_get_info(self._home)[0], "device"
        else:  # each process keeps what it has read
            needed, free, cache = needed * processes, psutil.virtual_memory().available, "memory"
        if needed > SPARED * free:
            raise UsageError(
                f"cache {cache} needs {needed / 1e9:.1f} GB for {len(ids):,} records, and "
                f"{free / 1e9:.1f} GB are free; pass --set cache=none",
                code="E-RUN-CACHE",
            )

    def pinned(self, tensor: Tensor) -> Tensor:
        """Return the tensor in memory that a GPU can copy from by itself, if there is one."""
        return tensor.pin_memory() if self._pins else tensor

    def select(
        self, features: Float[Tensor, "image cell dim"], cells: Int[Tensor, "image chosen"]
    ) -> Float[Tensor, "image chosen dim"]:
        """Return what some cells of each image have, in pinned memory if `read` returns such."""
        images, count, dim = features.shape
        rows = (torch.arange(images)[:, None] * count + cells).flatten().to(features.device)
        pins = self._pins and features.device.type == "cpu"
        chosen = features.new_empty(len(rows), dim, pin_memory=pins)
        torch.index_select(features.flatten(0, 1), 0, rows, out=chosen)
        return chosen.unflatten(0, cells.shape)

    def read(self, ids: Sequence[str]) -> Records:
        """Return the records of `ids`, each id once; raises as `FeatureStore.read` does."""
        if self._kept is None:
            return self._from_store(ids)
        self._keep([image_id for image_id in ids if image_id not in self._kept])
        return self._gathered([self._kept[image_id] for image_id in ids])

    def fetch(self, ids: Sequence[str]) -> None:
        """Bring the records of `ids` to this machine, unless they are here or kept in memory."""
        if not is_url(self._store.location):
            return
        kept = self._kept or {}
        self._store.fetch([image_id for image_id in ids if image_id not in kept])

    @property
    def _cell_bytes(self) -> int:
        return self._store.dim * self._store.identity.numpy_dtype.itemsize

    def _from_store(self, ids: Sequence[str]) -> Records:
        cells = int(self._store.shapes(list(ids)).prod(axis=1).max(initial=0))
        features = self._memory(len(ids), cells, pins=self._pins)
        batch = self._store.read(ids, out=features.numpy())
        records = Records(
            features,
            self.pinned(torch.from_numpy(batch.mask)),
            self.pinned(torch.from_numpy(batch.grid_shapes)),
        )
        if batch.boxes is None:
            return records
        boxes = relative_boxes(batch.boxes, self._store.image_sizes(ids))
        return records._replace(boxes=self.pinned(torch.from_numpy(boxes)))

    def _memory(self, images: int, cells: int, *, pins: bool) -> Tensor:
        """Return an empty (image, cell, dim) tensor on the host."""
        shape, dtype = (images, cells, self._store.dim), self._store.identity.numpy_dtype
        if pins:  # torch keeps pinned memory by itself, until the GPU has copied from it
            kind = torch.from_numpy(np.empty(0, dtype)).dtype
            return torch.empty(shape, dtype=kind, pin_memory=True)
        memory = self._pool.take(images * cells * self._cell_bytes)
        return torch.from_numpy(memory.view(dtype).reshape(shape))

    def _keep(self, ids: Sequence[str]) -> None:
        """Read the records of `ids` and keep a copy of each, without its padding."""
        if not ids or self._kept is None:
            return
        records = self._from_store(ids)
        for number, (image_id, cells) in enumerate(
            zip(ids, records.grid_shapes.prod(dim=1).tolist(), strict=True)
        ):
            self._kept[image_id] = Records(
                records.features[number, :cells].to(self._home, copy=True),
                records.mask[number, :cells].to(self._home, copy=True),
                records.grid_shapes[number].clone(),
                records.boxes[number : number + 1, :cells].to(self._home, copy=True),
            )

    def _gathered(self, kept: Sequence[Records]) -> Records:
        """Return kept records as one batch, in the memory in which they are kept."""
        shapes = torch.stack([record.grid_shapes for record in kept])
        cells = max(len(record.mask) for record in kept)
        if self._home.type == "cuda":
            features = kept[0].features.new_empty(len(kept), cells, self._store.dim)
        else:
            features = self._memory(len(kept), cells, pins=self._pins)
        mask = kept[0].mask.new_zeros(len(kept), cells)
        boxes = torch.zeros(
            (len(kept), cells, BOX) if self._store.identity.regions else NO_BOXES.shape,
            device=self._home,
        )
        for number, record in enumerate(kept):
            real = len(record.mask)
            features[number, :real] = record.features
            features[number, real:] = 0
            mask[number, :real] = record.mask
            boxes[number : number + 1, :real] = record.boxes
        return Records(features, mask, self.pinned(shapes), boxes)
