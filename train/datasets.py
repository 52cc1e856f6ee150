"""A store as a plain torch Dataset, for a trainer of your own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..featstore import FeatureStore
from ..featstore.lookup import ImageId, id_texts

Item = dict[str, Any]
OF_CELLS = ("features", "mask", "boxes", "classes", "scores")  # what `collate` pads


class StoreDataset(Dataset[Item]):
    """The records of a store by number, each a dict of tensors.

    - `image_id`: text.
    - `features`: (cell, dim), in the store's dtype, row by row.
    - `mask`: (cell,) bool, True where a cell holds pixels of the image.
    - `grid_shape`: (2,) int64, rows and columns.
    - `pooled`: (dim,), where the store has pooled vectors.
    - Of regions `boxes`: (cell, 4), left, top, right and bottom in pixels; `image_size`: (2,)
      int64, width and height, 0 where not known; and as far as the store has them `classes` and
      `scores`: (cell,).

    `ids` are the images in the dataset's order, by default all that have a record, sorted. A loader
    reads a batch with one call; give it `collate_fn=collate`, which pads. Workers may be forked or
    spawned: each opens the store itself.
    """

    def __init__(
        self, store: FeatureStore | str | Path, ids: Sequence[ImageId] | None = None
    ) -> None:
        """Raise StoreError for a store that cannot be read, MissingRecordError for an id without
        a record.
        """
        self.store = store if isinstance(store, FeatureStore) else FeatureStore.open(store)
        self.ids = self.store.ids if ids is None else tuple(id_texts(ids))
        self.store.shapes(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> Item:
        """Return one record."""
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Item]:
        """Return some records, read at once; torch's loader calls this for a batch.

        Raises CorruptStoreError for bytes that have changed.
        """
        ids = [self.ids[number] for number in numbers]
        batch = self.store.read(ids)
        arrays = {
            "grid_shape": batch.grid_shapes,
            "features": batch.features,
            "mask": batch.mask,
            "pooled": batch.pooled,
            "boxes": batch.boxes,
            "image_size": None if batch.boxes is None else self.store.image_sizes(ids),
            "classes": batch.classes,
            "scores": batch.scores,
        }
        tensors = {
            name: torch.from_numpy(array) for name, array in arrays.items() if array is not None
        }
        cells = batch.grid_shapes.prod(axis=1).tolist()
        return [
            {
                "image_id": image_id,
                **{
                    name: tensor[row, : cells[row]] if name in OF_CELLS else tensor[row]
                    for name, tensor in tensors.items()
                },
            }
            for row, image_id in enumerate(ids)
        ]


def collate(items: Sequence[Item]) -> dict[str, Any]:
    """Return items of a StoreDataset as one batch: ids as a list, other values as tensors.

    Cells are padded with zeros (False in `mask`) to the largest image: `features` are (image, cell,
    dim). What a subclass adds to its items is stacked if these are tensors, and else listed.
    """
    batch: dict[str, Any] = {}
    for name, first in items[0].items():
        values = [item[name] for item in items]
        if name in OF_CELLS:
            batch[name] = _padded(values)
        else:
            batch[name] = torch.stack(values) if isinstance(first, Tensor) else values
    return batch


def _padded(tensors: Sequence[Tensor]) -> Tensor:
    cells = max(len(tensor) for tensor in tensors)
    padded = tensors[0].new_zeros(len(tensors), cells, *tensors[0].shape[1:])
    for row, tensor in zip(padded, tensors, strict=True):
        row[: len(tensor)] = tensor
    return padded
