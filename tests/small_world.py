"""A small store of two grid shapes and two arrays, written as an extraction writes one.

For tests that stop a writer: nothing but featstore is imported, and a store is written in
hundredths of a second.
"""

import os
import signal
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
from stores import make_identity

from clipfeat.featstore import CorruptStoreError, FeatureStore, GridShape, IndexRow, Status
from clipfeat.featstore.layout import Grids, Layout, Part, Shard, lay_out
from clipfeat.featstore.shards import RecordHashes, as_bytes, encode
from clipfeat.featstore.writing.commit import complete_commit
from clipfeat.featstore.writing.parts import MissingShards, commit_parts
from clipfeat.featstore.writing.run import finished_store, update_layout
from clipfeat.featstore.writing.writer import ShardTransaction, StoreWriter

IDENTITY = make_identity(8, pooled_dim=4)
SHARD_RECORDS = 2
LIBRARIES = {"torch": "2.7"}
SHAPES = {
    "a0": GridShape(1, 2),
    "a1": GridShape(1, 2),
    "a2": GridShape(1, 2),
    "b0": GridShape(2, 1),
    "a3": GridShape(1, 2),
    "b1": GridShape(2, 1),
}
MISSING = "a1"
FIRST = ("a0", "a1", "a2", "b0")  # three shards: a0 and a1, a2, b0
ALL = tuple(SHAPES)  # two shards more
DROPPED = ("a0", "a1")  # whose shard `drop_shard` removes


def vectors(image_id: str) -> dict[str, np.ndarray]:
    """Return what the store must hold of an id."""
    rng = np.random.default_rng(list(image_id.encode()))
    shape = SHAPES[image_id]
    grid = rng.standard_normal((*shape, IDENTITY.dim)).astype(np.float16)
    return {"grid": grid, "pooled": rng.standard_normal(4).astype(np.float16)}


def layout_of(path: Path, ids: Collection[str]) -> tuple[FeatureStore | None, Layout]:
    """Return the store at `path`, if it is finished, and what to write so that it has `ids`."""
    shapes = {image_id: SHAPES[image_id] for image_id in ids}
    store = finished_store(path, IDENTITY)
    if store is None:
        return None, lay_out(Grids.of(shapes), SHARD_RECORDS)
    return store, update_layout(store, Grids.of(shapes))


def write(
    path: Path,
    ids: Collection[str] = FIRST,
    *,
    break_lock: bool = False,
    write_shards: Callable[[Path, tuple[Shard, ...]], None] | None = None,
) -> FeatureStore:
    """Write a store of `ids`, or bring the one at `path` to hold them, as `extract` does."""
    write_shards = write_shards or write_one_by_one
    store, layout = layout_of(path, ids)
    if store is not None and not layout.shards:
        complete_commit(store)
        return store
    with StoreWriter(path, IDENTITY, layout, parent=store, break_lock=break_lock) as writer:
        write_shards(path, writer.pending)
        return writer.commit()


def write_in_parts(path: Path, ids: Collection[str]) -> FeatureStore | MissingShards:
    """Bring the store at `path` to hold `ids` in two parts, one after the other, and commit it."""
    for number in (1, 2):
        store, layout = layout_of(path, ids)
        if store is None or layout.shards:
            part = Part(number, 2)
            with StoreWriter(path, IDENTITY, layout, part=part, parent=store) as writer:
                write_one_by_one(path, writer.pending)
    return commit_parts(path)


def write_one_by_one(path: Path, shards: tuple[Shard, ...]) -> None:
    for shard in shards:
        write_shard(path, shard)


def write_shard(path: Path, shard: Shard, libraries: Mapping[str, str] = LIBRARIES) -> None:
    """Write one shard and its receipt."""
    with ShardTransaction(path, IDENTITY, SHARD_RECORDS, shard, libraries) as files:
        rows = [_append(files, shard, position) for position in range(len(shard.ids))]
        files.commit(tuple(rows))


def begin_shard_and_die(path: Path, shard: Shard) -> None:
    """Open the files of a shard and be killed, as a worker process may be."""
    with ShardTransaction(path, IDENTITY, SHARD_RECORDS, shard, LIBRARIES):
        os.kill(os.getpid(), signal.SIGKILL)


def _append(files: ShardTransaction, shard: Shard, position: int) -> IndexRow:
    image_id, row, shape = shard.ids[position], shard.rows[position], str(shard.shape)
    if image_id == MISSING:
        return IndexRow(
            image_id, Status.MISSING, "no such file", shape, row, 0, 0, "", image_id, ""
        )
    encoded = {
        name: encode(IDENTITY.codec, as_bytes(array)) for name, array in vectors(image_id).items()
    }
    files.append(row - shard.first_row, encoded)
    hashes = RecordHashes.of(encoded.values())
    return IndexRow(image_id, Status.OK, "", shape, row, 0, 0, "", image_id, *hashes)


def drop_shard(path: Path) -> None:
    """Remove the grids of DROPPED from a finished store."""
    (path / "features.zarr/1x2/grid/c.0.0.0.0").unlink()


def unreadable(store: FeatureStore, ids: Collection[str]) -> list[str]:
    """Return the ids that the store does not give as `vectors` does; MISSING must have none."""
    wrong = [MISSING] if MISSING in store else []
    for image_id in ids:
        if image_id != MISSING:
            expected = vectors(image_id)
            try:
                batch = store.read([image_id])
            except (CorruptStoreError, KeyError) as error:
                wrong.append(f"{image_id}: {error}")
                continue
            same = np.array_equal(batch.features[0], expected["grid"].reshape(2, -1))
            assert batch.pooled is not None
            if not same or not np.array_equal(batch.pooled[0], expected["pooled"]):
                wrong.append(image_id)
    return wrong
