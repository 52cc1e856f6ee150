"""Statistics of all the numbers of a store, shard by shard: a dask computation."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
from dask.base import compute
from dask.delayed import delayed
from tqdm import tqdm

from ..errors import StoreError
from ..format import Status
from ..store import FeatureStore
from .vector_stats import VectorStats

THREADS = min(8, os.cpu_count() or 1)
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
    thread holds one record; the ids are held too, about 100 bytes each. Raises
    CorruptStoreError for a record that has changed, StoreError for NaN or Inf, and if no id
    has a record.
    """
    shards = _ids_by_shard(store)
    if not shards:
        raise StoreError(
            f"{store.path}: no id has a record, so there is nothing to compute; "
            f"for the reasons type: clipfeat store ls {store.path}"
        )
    with tqdm(total=len(store), unit="record", desc="stats", disable=None) as bar:
        parts = [delayed(partial(_sum_shard, store, ids, bar))() for ids in shards]
        while len(parts) > 1:
            groups = [parts[start : start + FAN_IN] for start in range(0, len(parts), FAN_IN)]
            parts = [delayed(_merge)(group) for group in groups]
        (sums,) = compute(*parts, scheduler="threads", num_workers=THREADS)
    return StoreStats(str(store.path), store.digest, len(store), sums["grid"], sums.get("pooled"))


def _ids_by_shard(store: FeatureStore) -> list[list[str]]:
    """Return the ids that have a record, a list for each shard."""
    shards: dict[tuple[str, int], list[str]] = {}
    for row in store.index:
        if row.status == Status.OK:
            place = row.shape, row.row // store.card["shard_records"]
            shards.setdefault(place, []).append(row.image_id)
    return list(shards.values())


def _sum_shard(store: FeatureStore, ids: list[str], bar: tqdm) -> Sums:
    """Return the sums over the records of `ids`, read one by one."""
    sums: Sums = {}
    for image_id in ids:
        record = store.read([image_id])
        arrays = {"grid": record.features[0], "pooled": record.pooled}
        for array, vectors in arrays.items():
            for block in _blocks(vectors) if vectors is not None else ():
                if not np.isfinite(block).all():
                    raise StoreError(
                        f"{store.path}: the record of image id {image_id!r:.100} holds NaN or "
                        f"Inf; type: clipfeat store verify --deep {store.path}"
                    )
                new = VectorStats.of(block)
                sums[array] = sums[array].merged(new) if array in sums else new
        with bar.get_lock():
            bar.update()
    return sums


def _blocks(vectors: np.ndarray) -> Iterator[np.ndarray]:
    """Yield (vector, channel) numbers as float64, no more than BLOCK_NUMBERS at a time."""
    size = max(1, BLOCK_NUMBERS // vectors.shape[1])
    for start in range(0, len(vectors), size):
        yield vectors[start : start + size].astype(np.float64)


def _merge(parts: list[Sums]) -> Sums:
    """Return the sums over the shards of all parts."""
    return {
        array: reduce(VectorStats.merged, [part[array] for part in parts]) for array in parts[0]
    }
