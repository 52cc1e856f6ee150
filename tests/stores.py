"""Stores made of given arrays, for tests that need no backbone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipfeat.featstore import GridShape, Identity
from clipfeat.featstore.write import write_store

ONE_CELL = GridShape(1, 1)


def make_identity(dim: int, codec: str = "zstd", **changes: Any) -> Identity:
    """Return the identity of a store whose backbone is a test."""
    fields: dict[str, Any] = {
        "backbone": {"model": "test"},
        "recipe": {"name": "test"},
        "precision": "float32",
        "dtype": "float16",
        "codec": codec,
        "dim": dim,
        "pooled_dim": None,
    }
    return Identity(**{**fields, **changes})


def make_store(
    path: Path,
    records: Mapping[str, np.ndarray | None],
    codec: str = "zstd",
    shard_size: int = 4,
    shape: GridShape = ONE_CELL,
) -> Path:
    """Write `{image_id: (row, col, dim) array}` as a finished store; None is a missing image.

    `shape` is the grid shape planned for missing images.
    """
    dim = next(array.shape[-1] for array in records.values() if array is not None)
    shapes = {i: shape if a is None else GridShape(*a.shape[:2]) for i, a in records.items()}
    return write_store(path, make_identity(dim, codec), shapes, records.get, shard_size).path
