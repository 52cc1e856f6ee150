"""Statistics of all the numbers of a store, shard by shard: a dask computation."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
from dask.base import compute
from dask.delayed import delayed
from tqdm import tqdm

from ...base.parquet import rows_of
from ..errors import StoreError
from ..format import GridShape, Status
from ..store import FeatureStore
from ..threads import thread_count
from .vector_stats import VectorStats

FAN_IN = 8  # partial results that are merged at a time
BLOCK_NUMBERS = 1 << 20  # float64 at a time in each thread, 8 MiB

Sums = dict[str, VectorStats]  # by array: grid, and pooled where the store has it


@dataclass(frozen=True)
class StoreStats:
    """What the records of a store look like."""

    path: str
    digest: str
    records: int
    grid: VectorStats  # over every cell of every record
    pooled: VectorStats | None  # over the pooled vectors, where the store has them

    def to_json(self) -> dict[str, Any]:
        """Return every number, for scripts."""
        return {
            "path": self.path,
            "digest": self.digest,
            "records": self.records,
            "cells": self.grid.channels.n,
            "grid": self.grid.to_json(),
            "pooled": self.pooled.to_json() if self.pooled else None,
        }


def store_stats(store: FeatureStore) -> StoreStats:
    """Return the statistics of every record of `store`, each read and verified once.

    A shard is a task, and gives sums of some 200 kB at 2,560 channels; a tree adds them up, in
    an order that does not depend on the threads, so a store always gives the same numbers. A
    thread holds one record, or as many as have BLOCK_NUMBERS numbers together; the ids are held
    too, about 100 bytes each. Raises CorruptStoreError for a record that has changed, StoreError
    for NaN or Inf, and if no id has a record.
    """
    shards = list(_ids_by_shard(store))
    if not shards:
        raise StoreError(
            f"{store.path}: no id has a record, so there is nothing to compute; "
            f"for the reasons type: clipfeat store ls {store.path}"
        )
    with tqdm(total=len(store), unit="record", desc="stats", disable=None) as bar:
        parts = [delayed(partial(_sum_shard, store, *shard, bar))() for shard in shards]
        while len(parts) > 1:
            groups = [parts[start : start + FAN_IN] for start in range(0, len(parts), FAN_IN)]
            parts = [delayed(_merge)(group) for group in groups]
        (sums,) = compute(*parts, scheduler="threads", num_workers=thread_count())
    return StoreStats(str(store.path), store.digest, len(store), sums["grid"], sums.get("pooled"))


def _ids_by_shard(store: FeatureStore) -> Iterator[tuple[GridShape, list[str]]]:
    """Yield each shard's grid shape and its ids that have a record."""
    shards: dict[tuple[str, int], list[str]] = {}
    for batch in store.index_batches("image_id", "status", "shape", "row"):
        for image_id, status, shape, row in rows_of(batch):
            if status == Status.OK:
                place = shape, row // store.card["shard_records"]
                shards.setdefault(place, []).append(image_id)
    for (shape, _), ids in shards.items():
        yield GridShape.parse(shape), ids


def _sum_shard(store: FeatureStore, shape: GridShape, ids: list[str], bar: tqdm) -> Sums:
    """Return the sums over the records of `ids`, all of one grid shape, read some at a time."""
    sums: Sums = {}
    size = max(1, BLOCK_NUMBERS // (shape.cells * store.dim))
    for start in range(0, len(ids), size):
        some = ids[start : start + size]
        records = store.read(some)
        arrays = {"grid": records.features}
        if records.pooled is not None:
            arrays["pooled"] = records.pooled
        for array, vectors in arrays.items():
            for block in _blocks(vectors):
                if not _is_finite(block):
                    bad = next(i for i, v in zip(some, vectors, strict=True) if not _is_finite(v))
                    raise StoreError(
                        f"{store.path}: the record of image id {bad!r:.100} holds NaN or "
                        f"Inf; type: clipfeat store verify --deep {store.path}"
                    )
                new = VectorStats.of(block)
                sums[array] = sums[array].merged(new) if array in sums else new
        with bar.get_lock():
            bar.update(len(some))
    return sums


def _is_finite(numbers: np.ndarray) -> bool:
    return bool(np.isfinite(numbers).all())


def _blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    """Yield (vector, channel) numbers as float64, no more than BLOCK_NUMBERS at a time."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    size = max(1, BLOCK_NUMBERS // flat.shape[1])
    for start in range(0, len(flat), size):
        yield flat[start : start + size].astype(np.float64)


def _merge(parts: list[Sums]) -> Sums:
    """Return the sums over the shards of all parts."""
    return {
        array: reduce(VectorStats.merged, [part[array] for part in parts]) for array in parts[0]
    }
