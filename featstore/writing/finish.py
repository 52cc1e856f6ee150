"""Finish a store: its tables, the zarr.json files and, last, store.json."""

import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from ...base.files import sha256_file, write_atomically
from ...base.version import clipfeat_version
from ..disk.lookup import LookupBuilder, lookup_bytes
from ..disk.store_json import write_card
from ..disk.tables import read_index, write_index, write_shards
from ..disk.zarr_metadata import metadata_files
from ..errors import StoreError
from ..format import (
    FORMAT,
    TABLES,
    GridShape,
    IndexRow,
    ShardRow,
    Status,
    store_digest,
    table_file,
)
from ..layout import Shard
from ..store import FeatureStore
from .libraries import merge_libraries
from .run import Run
from .store_lock import StoreLock
from .tidy import tidy


def finish(run: Run, lock: StoreLock) -> FeatureStore:
    """Make the shards that are down a store: write its tables and, last, store.json.

    The journal is removed. Raises StoreError if a shard is still missing, or if the lock was
    broken by another process.
    """
    lock.check_held()
    parent = run.parent
    shards, libraries = _shards_and_libraries(run)
    lengths = _lengths(run)
    generation = parent.card["generation"] + 1 if parent else 0
    paths = {table: run.path / table_file(table, generation) for table in TABLES}
    counts, areas = _write_tables(run, paths, lengths, shards)
    tables = {table: sha256_file(path) for table, path in paths.items()}
    # Read back from the disk: the digest is that of what is there.
    digest = store_digest(run.identity, shards, read_index(paths["index"], tables["index"]))
    if parent is not None and digest == parent.digest:
        parents = parent.card["parents"]
    else:
        parents = [parent.digest] if parent else []
    _write_metadata(run, lengths)
    write_card(
        run.path,
        {
            "format": FORMAT,
            "clipfeat": clipfeat_version(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "identity": run.identity.to_json(),
            "libraries": libraries,
            "shard_records": run.layout.shard_records,
            "grid_shapes": lengths,
            **({"areas": areas} if areas else {}),
            "counts": counts,
            "parents": parents,
            "licence": parent.card.get("licence") if parent else None,
            "note": parent.card.get("note") if parent else None,
            "generation": generation,
            "tables": tables,
            "digest": digest,
        },
    )
    tidy(run.path)
    return FeatureStore.open(run.path)


def _shards_and_libraries(run: Run) -> tuple[list[ShardRow], dict[str, str]]:
    """Return packing list and libraries: the parent's, with those of this run."""
    files, libraries = {}, []
    if run.parent is not None:
        files = {shard.path: shard for shard in run.parent.shards}
        known = run.parent.card["libraries"].items()
        libraries = [{name: version for name, version in known if isinstance(version, str)}]
    written = 0
    for _, receipt in run.receipts(run.layout.shards):
        files.update({file.path: file for file in receipt.files})
        if receipt.libraries not in libraries:
            libraries.append(dict(receipt.libraries))
        written += 1
    missing = len(run.layout.shards) - written
    if missing:
        raise StoreError(f"{run.path}: {missing} shards are not written yet; extract again")
    return sorted(files.values()), merge_libraries(libraries)


def _lengths(run: Run) -> dict[str, int]:
    """Return the length of the arrays of each grid shape, sorted by rows, then cols."""
    lengths = {**(run.parent.card["grid_shapes"] if run.parent else {})}
    for shape, length in run.layout.records.items():
        lengths[str(shape)] = max(length, lengths.get(str(shape), 0))
    return {str(shape): lengths[str(shape)] for shape in sorted(map(GridShape.parse, lengths))}


def _write_tables(
    run: Run, paths: Mapping[str, Path], lengths: Mapping[str, int], shards: list[ShardRow]
) -> tuple[dict[str, int], list[str]]:
    """Write index, packing list and look-up; return the counts by status, and the real areas."""
    lookup = LookupBuilder(lengths, run.identity.recipe)
    counts: Counter[str] = Counter()

    def counted() -> Iterator[IndexRow]:
        for row in _all_rows(run):
            lookup.add(row)
            counts[row.status] += 1
            yield row

    write_index(paths["index"], counted())
    write_shards(paths["shards"], shards)
    write_atomically(paths["lookup"], lookup_bytes(lookup.columns()))
    return {status.value: counts[status.value] for status in Status}, lookup.areas


def _all_rows(run: Run) -> Iterator[IndexRow]:
    """Yield every row of the index, sorted by id, a receipt at a time."""
    series: list[list[Shard]] = []  # in each the ids of one shard lie behind those of the last
    for shard in (shard for shard in run.layout.shards if shard.ids):
        if series and series[-1][-1].ids[-1] < shard.ids[0]:
            series[-1].append(shard)
        else:
            series.append([shard])
    streams = [run.rows(tuple(shards)) for shards in series]
    if run.parent is not None:
        written = {image_id for shard in run.layout.shards for image_id in shard.ids}
        streams.append(row for row in run.parent.index if row.image_id not in written)
    return heapq.merge(*streams)


def _write_metadata(run: Run, lengths: Mapping[str, int]) -> None:
    records = {GridShape.parse(shape): n for shape, n in lengths.items()}
    for name, content in metadata_files(run.identity, records, run.layout.shard_records).items():
        write_atomically(run.path / name, content)
