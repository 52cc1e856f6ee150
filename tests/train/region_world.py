"""Stores of regions: of given boxes, or with the cells of a store's grids as regions."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from stores import make_identity

from clipfeat.featstore import FeatureStore, GridShape, write_store

Regions = Mapping[str, tuple[np.ndarray, np.ndarray]]  # features (n, dim) and boxes (n, 4) by id
WIDTH, HEIGHT = 640, 480


def write_regions(
    path: Path, regions: Regions, sizes: Mapping[str, tuple[int, int]] | None = None
) -> FeatureStore:
    """Write a store of regions; `sizes` has width and height of images, 640x480 if left out."""
    identity = make_identity(next(iter(regions.values()))[0].shape[1], regions=("boxes",))
    return write_store(
        path,
        identity,
        {image_id: GridShape(len(boxes), 1) for image_id, (_, boxes) in regions.items()},
        lambda image_id: {
            "grid": regions[image_id][0][:, None].astype(np.float16),
            "boxes": regions[image_id][1].astype(np.float32),
        },
        sizes=dict.fromkeys(regions, (WIDTH, HEIGHT)) if sizes is None else sizes,
    )


def as_regions(
    grids: Path, path: Path, sizes: Mapping[str, tuple[int, int]] | None = None
) -> FeatureStore:
    """Write the cells of a store's grids as regions, each with its part of the image as its box."""
    store = FeatureStore.open(grids)
    regions = {}
    for image_id in store.ids:
        grid = store[image_id]
        rows, cols, dim = grid.shape
        row, col = np.divmod(np.arange(rows * cols), cols)
        sides = np.array((WIDTH / cols, HEIGHT / rows) * 2)
        boxes = np.stack((col, row, col + 1, row + 1), axis=1) * sides
        regions[image_id] = grid.reshape(-1, dim), boxes
    return write_regions(path, regions, sizes)
