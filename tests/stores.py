"""Stores made of given arrays, for tests that need no backbone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipfeat.featstore import GridShape, Identity, IndexRow, Status
from clipfeat.featstore.codecs import encode
from clipfeat.featstore.layout import lay_out
from clipfeat.featstore.shard_file import as_bytes
from clipfeat.featstore.transaction import ShardTransaction
from clipfeat.featstore.writer import StoreWriter

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
    identity = make_identity(dim, codec)
    shapes = {i: shape if a is None else GridShape(*a.shape[:2]) for i, a in records.items()}
    layout = lay_out(shapes, shard_size)
    with StoreWriter(path, identity, layout) as writer:
        for shard in writer.pending:
            with ShardTransaction(path, identity, shard_size, shard) as files:
                rows = []
                for position, image_id in enumerate(shard.ids):
                    array = records[image_id]
                    if array is not None:
                        content = as_bytes(np.ascontiguousarray(array, identity.numpy_dtype))
                        files.append(position, {"grid": encode(codec, content)})
                    status, reason = (
                        (Status.OK, "") if array is not None else (Status.MISSING, "no such file")
                    )
                    row = shard.first_row + position
                    rows.append(
                        IndexRow(
                            image_id, status, reason, str(shard.shape), row, 8, 8, "", image_id
                        )
                    )
                files.commit(tuple(rows))
        writer.finish(libraries={})
    return path
