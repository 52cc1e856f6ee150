"""Stores made of given arrays, for tests that need no backbone."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipfeat.featstore import FeatureStore, GridShape, Identity, IndexRow, Status
from clipfeat.featstore.layout import Grids, Layout, Shard, lay_out
from clipfeat.featstore.shards import RecordHashes, as_bytes, encode
from clipfeat.featstore.writing.run import update_layout
from clipfeat.featstore.writing.writer import ShardTransaction, StoreWriter, write_store

ONE_CELL = GridShape(1, 1)

Records = Mapping[str, np.ndarray | None]
Encoded = Mapping[str, Mapping[str, bytes] | None]  # by image id, then by array


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
    records: Records,
    codec: str = "zstd",
    shard_size: int = 4,
    shape: GridShape = ONE_CELL,
    **changes: Any,
) -> Path:
    """Write `{image_id: (row, col, dim) array}` as a finished store; None is a missing image.

    `shape` is the grid shape planned for missing images, `changes` are to the store's identity.
    """
    dim = next(array.shape[-1] for array in records.values() if array is not None)
    shapes, identity = shapes_of(records, shape), make_identity(dim, codec, **changes)
    return write_store(path, identity, shapes, records.get, shard_size).path


def shapes_of(records: Records, shape: GridShape = ONE_CELL) -> dict[str, GridShape]:
    """Return the grid shape of each record; `shape` is that of missing images."""
    return {i: shape if a is None else GridShape(*a.shape[:2]) for i, a in records.items()}


def encoded_records(
    identity: Identity, records: Records, pooled: Mapping[str, np.ndarray] | None = None
) -> dict[str, dict[str, bytes] | None]:
    """Return the bytes on disk of each record."""
    encoded: dict[str, dict[str, bytes] | None] = {}
    for image_id, grid in records.items():
        arrays = {"grid": grid} if pooled is None else {"grid": grid, "pooled": pooled[image_id]}
        encoded[image_id] = None if grid is None else {
            name: encode(
                identity.codec, as_bytes(identity.array(name, ONE_CELL).as_stored(a))
            )
            for name, a in arrays.items() if a is not None
        }  # fmt: skip
    return encoded


def write_encoded(
    path: Path,
    identity: Identity,
    layout: Layout,
    encoded: Encoded,
    parent: FeatureStore | None = None,
) -> FeatureStore:
    """Write the shards of `layout` with records whose bytes on disk are given, then finish."""
    with StoreWriter(path, identity, layout, parent=parent) as writer:
        for shard in writer.pending:
            write_shard(path, identity, layout, shard, encoded)
        return writer.commit()


def write_shard(
    path: Path,
    identity: Identity,
    layout: Layout,
    shard: Shard,
    encoded: Encoded,
) -> None:
    """Write one shard of records whose bytes on disk are given."""
    with ShardTransaction(path, identity, layout.shard_records, shard, libraries={}) as files:
        rows = []
        for image_id, row in zip(shard.ids, shard.rows, strict=True):
            content = encoded[image_id]
            status = Status.MISSING if content is None else Status.OK
            if content is not None:
                files.append(row - shard.first_row, content)
            hashes = RecordHashes() if content is None else RecordHashes.of(content.values())
            reason = "" if status == Status.OK else "no such file"
            shape = str(shard.shape)
            rows.append(IndexRow(image_id, status, reason, shape, row, 0, 0, "", image_id, *hashes))
        files.commit(tuple(rows))


def make_pooled_store(
    path: Path,
    identity: Identity,
    records: Records,
    pooled: Mapping[str, np.ndarray] | None,
    shard_size: int,
) -> Path:
    """Write a store of any identity, with pooled vectors where it has them."""
    layout = lay_out(Grids.of(shapes_of(records)), shard_size)
    return write_encoded(path, identity, layout, encoded_records(identity, records, pooled)).path


def padded_store(
    path: Path,
    recipe: Mapping[str, Any],
    sizes: Mapping[str, tuple[int, int] | None],
    shapes: GridShape | Mapping[str, GridShape],
    parent: FeatureStore | None = None,
) -> FeatureStore:
    """Write a store of images of (width, height), None for a missing one; all cells are ones.

    `shapes` is the grid shape of all or of each. With a `parent` the store there is added to.
    """
    identity = make_identity(4, recipe=recipe)
    each = dict.fromkeys(sizes, shapes) if isinstance(shapes, GridShape) else shapes
    layout = update_layout(parent, Grids.of(each)) if parent else lay_out(Grids.of(each), 4)
    with StoreWriter(path, identity, layout, parent=parent) as writer:
        for shard in writer.pending:
            with ShardTransaction(path, identity, layout.shard_records, shard, {}) as files:
                rows = []
                for image_id, row in zip(shard.ids, shard.rows, strict=True):
                    size, shape = sizes[image_id], str(shard.shape)
                    if size is None:
                        missing = (Status.MISSING, "no such file", shape, row, 0, 0, "", image_id)
                        rows.append(IndexRow(image_id, *missing, ""))
                        continue
                    grid = as_bytes(np.ones((*shard.shape, 4), np.float16))
                    encoded = {"grid": encode(identity.codec, grid)}
                    files.append(row - shard.first_row, encoded)
                    hashes = RecordHashes.of(encoded.values())
                    rows.append(
                        IndexRow(image_id, Status.OK, "", shape, row, *size, "", image_id, *hashes)
                    )
                files.commit(tuple(rows))
        return writer.commit()


def extend_store(
    path: Path,
    records: Records,
    retry: Collection[str] = (),
    pooled: Mapping[str, np.ndarray] | None = None,
) -> FeatureStore:
    """Write what a finished store lacks of `records`, all of its images and new ones.

    Shards whose files are not there are written again; refused ids whose status is in `retry`
    are tried once more.
    """
    store = FeatureStore.open(path)
    planned = {row.image_id: GridShape.parse(row.shape) for row in store.index}
    shapes = {**shapes_of(records), **{i: s for i, s in planned.items() if records[i] is None}}
    layout = update_layout(store, Grids.of(shapes), retry)
    if not layout.shards:
        return store
    encoded = encoded_records(store.identity, records, pooled)
    return write_encoded(path, store.identity, layout, encoded, parent=store)


def files_of(store: Path) -> list[str]:
    """Return every file of a store, sorted, relative to it."""
    files = (path for path in store.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(store).as_posix() for path in files)


def snapshot(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return (inode, time of change, content) of every file and folder below `folder`."""
    states = {}
    for path in [folder, *folder.rglob("*")]:
        state = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        states[path.relative_to(folder).as_posix()] = (state.st_ino, state.st_mtime_ns, content)
    return states
