"""Check that every byte of a store is the byte that was written."""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..base.files import sha256_file
from .format import INDEX_PARQUET, SHARDS_PARQUET, STORE_JSON, ShardRow, store_digest
from .store import FeatureStore

HASH_THREADS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a store."""

    path: str  # relative to the store
    problem: str
    records: int  # how many records it touches
    remedy: str


def verify(path: Path) -> list[Problem]:
    """Return what is wrong with the store at `path`: nothing, if it is the one it says it is.

    Hashes every file of features against the packing list (sha256), compares the Zarr
    metadata with what the identity implies, looks for files that do not belong, and
    recomputes the digest from the tables. Raises StoreError if the store cannot be opened.
    """
    store = FeatureStore.open(path)
    problems = list(_check_files(store))
    problems += _check_metadata(store)
    problems += _check_strangers(store)
    problems += _check_counts(store)
    digest = store_digest(store.identity, store.shards, store.index)
    if digest != store.digest:
        problems.append(
            Problem(
                STORE_JSON,
                f"digest is {store.digest[:80]}, but the tables give {digest}",
                len(store),
                f"copy {STORE_JSON}, {INDEX_PARQUET} and {SHARDS_PARQUET} again from their source",
            )
        )
    return problems


def _check_files(store: FeatureStore) -> Iterator[Problem]:
    """Hash the shards in parallel, with a progress bar in bytes."""
    total = sum(shard.bytes for shard in store.shards)
    with (
        tqdm(total=total, unit="B", unit_scale=True, desc="verify", disable=None) as bar,
        ThreadPoolExecutor(HASH_THREADS) as threads,
    ):
        results = threads.map(lambda shard: _check_file(store.path, shard), store.shards)
        for shard, problem in zip(store.shards, results, strict=True):
            bar.update(shard.bytes)
            if problem:
                yield Problem(
                    shard.path, problem, shard.records, "copy this file again, or extract again"
                )


def _check_file(store: Path, shard: ShardRow) -> str | None:
    path = store / shard.path
    if path.is_symlink() or not path.is_file():
        return "the file is missing"
    size = path.stat().st_size
    if size != shard.bytes:
        return f"has {size} bytes; the packing list says {shard.bytes}"
    digest = sha256_file(path)
    return None if digest == shard.sha256 else f"sha256 is {digest}; expected {shard.sha256}"


def _check_metadata(store: FeatureStore) -> Iterator[Problem]:
    """Compare each zarr.json with the one that this store must have."""
    for name, content in store.zarr_metadata().items():
        path = store.path / name
        if not path.is_file() or path.read_bytes() != content:
            yield Problem(name, "is not what store.json implies", 0, "copy this file again")


def _check_counts(store: FeatureStore) -> Iterator[Problem]:
    """Compare the counts in store.json, which the digest does not cover, with the index."""
    rows = list(store.index)
    counts = Counter(row.status for row in rows)
    shapes = Counter(row.shape for row in rows)
    said = {status: n for status, n in store.card["counts"].items() if n}
    if said != counts or store.card["grid_shapes"] != shapes:
        yield Problem(STORE_JSON, "counts are not those of the index", 0, "copy this file again")


def _check_strangers(store: FeatureStore) -> Iterator[Problem]:
    """Name the files that neither the packing list nor the format knows."""
    known = {STORE_JSON, INDEX_PARQUET, SHARDS_PARQUET, *store.zarr_metadata()}
    known.update(shard.path for shard in store.shards)
    for folder, _, files in os.walk(store.path):
        for file in files:
            name = (Path(folder) / file).relative_to(store.path).as_posix()
            if name not in known:
                yield Problem(name, "does not belong to the store", 0, "delete it")
