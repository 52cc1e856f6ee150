"""Decode every record of a store: the check behind `clipfeat store verify --deep`."""

from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from ..disk.codecs import CRC_BYTES
from ..disk.shard_file import as_bytes, opened, read_index, read_record
from ..disk.shard_index import ABSENT
from ..errors import CorruptStoreError
from ..format import GridShape, IndexRow, ShardRow, Status
from ..store import FeatureStore
from ..threads import thread_count

Rows = dict[int, IndexRow]  # by position in the shard


def check_records(store: FeatureStore, skip: set[str]) -> Iterator[tuple[str, str]]:
    """Yield (path, problem) for each shard with a record that is not as the index says.

    Every record is decoded, its checksum verified and its numbers looked at; one is held for
    each thread. The shards of `skip` are passed over.
    """
    rows = _rows_by_shard(store)
    shards = [shard for shard in store.shards if shard.path not in skip]
    with (
        tqdm(
            total=sum(shard.bytes for shard in shards),
            unit="B",
            unit_scale=True,
            desc="decode",
            disable=None,
        ) as bar,
        ThreadPoolExecutor(thread_count()) as threads,
    ):
        found = threads.map(
            lambda shard: _check_shard(store, shard, rows[shard.shape, shard.first_row]), shards
        )
        for shard, problem in zip(shards, found, strict=True):
            bar.update(shard.bytes)
            if problem:
                yield shard.path, problem


def _rows_by_shard(store: FeatureStore) -> dict[tuple[str, int], Rows]:
    """Return the index rows of each shard, by (grid shape, first row)."""
    rows: dict[tuple[str, int], Rows] = defaultdict(dict)
    for row in store.index:
        position = row.row % store.card["shard_records"]
        rows[row.shape, row.row - position][position] = row
    return rows


def _check_shard(store: FeatureStore, shard: ShardRow, rows: Rows) -> str | None:
    """Return the first thing that is wrong with the records of a shard."""
    identity = store.identity
    array = shard.path.split("/")[-2]
    shape = GridShape.parse(shard.shape)
    size = shape.cells * identity.dim if array == "grid" else identity.pooled_dim
    record = np.empty(size or 0, identity.numpy_dtype)
    try:
        with opened(f"{store.path}/{shard.path}") as descriptor:
            index = read_index(descriptor, store.card["shard_records"])
            for position, (offset, length) in enumerate(index.tolist()):
                row = rows.get(position)
                if row is None:  # a gap; what it may hold, an id has had before
                    continue
                is_ok = row.status == Status.OK
                if is_ok != (offset != ABSENT):
                    state = "absent" if offset == ABSENT else "there"
                    return f"record {position} is {state}, but it is {row.status} in the index"
                if is_ok:
                    check = _check_of(row, array)
                    entry = (offset, length)
                    out = as_bytes(record)
                    read_record(descriptor, entry, identity.codec, check, out, verify=True)
                    if not np.isfinite(record).all():
                        return f"record {position} ({row.image_id}) holds NaN or Inf"
    except CorruptStoreError as error:
        return str(error)
    return None


def _check_of(row: IndexRow, array: str) -> bytes:
    checks = bytes.fromhex(row.checksum)
    return checks[:CRC_BYTES] if array == "grid" else checks[CRC_BYTES:]
