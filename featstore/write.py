"""Write a store from arrays at hand, for those who have features already."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from .disk.codecs import checksum, encode
from .disk.shard_file import as_bytes
from .errors import StoreError
from .format import GridShape, Identity, IndexRow, Status
from .layout import Shard, lay_out
from .store import FeatureStore
from .writing.transaction import ShardTransaction
from .writing.update import finished_store
from .writing.writer import StoreWriter

SHARD_RECORDS = 128


def write_store(
    path: Path,
    identity: Identity,
    shapes: Mapping[str, GridShape],
    read: Callable[[str], np.ndarray | None],
    shard_records: int = SHARD_RECORDS,
) -> FeatureStore:
    """Write a finished store of `{image id: grid shape}`, going on where a run was cut off.

    `read` gives the grid of an id, (row, col, dim), or None for an image that is missing. One
    record is held at a time. Raises StoreError if a finished store or something else stands at
    `path`.
    """
    if finished_store(path, identity) is not None:
        raise StoreError(
            f"{path} is a finished store already; open it, or choose another path",
            code="E-STORE-FINISHED",
        )
    layout = lay_out(shapes, shard_records)
    with StoreWriter(path, identity, layout) as writer:
        for shard in writer.pending:
            with ShardTransaction(path, identity, shard_records, shard, libraries={}) as files:
                rows = [
                    _append(files, identity, shard, position, read(image_id))
                    for position, image_id in enumerate(shard.ids)
                ]
                files.commit(tuple(rows))
        return writer.finish()


def _append(
    files: ShardTransaction,
    identity: Identity,
    shard: Shard,
    position: int,
    grid: np.ndarray | None,
) -> IndexRow:
    image_id, shape = shard.ids[position], str(shard.shape)
    row = shard.rows[position]
    if grid is None:
        status, reason = Status.MISSING, "no such file"
        return IndexRow(image_id, status, reason, shape, row, 0, 0, "", image_id, "")
    content = as_bytes(np.ascontiguousarray(grid, identity.numpy_dtype))
    encoded = {"grid": encode(identity.codec, content)}
    files.append(row - shard.first_row, encoded)
    check = checksum(encoded.values())
    return IndexRow(image_id, Status.OK, "", shape, row, 0, 0, "", image_id, check)
