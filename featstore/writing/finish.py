"""Finish a store: its tables, the zarr.json files and, last, store.json."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from ...base.files import sha256_file, write_atomically
from ...base.version import clipfeat_version
from ..disk.lookup import LookupBuilder, lookup_bytes
from ..disk.store_json import write_card
from ..disk.tables import INDEX_SCHEMA, index_lines, read_index, write_index, write_shards
from ..errors import StoreError
from ..format import FORMAT, ShardRow, Status, store_digest
from ..layout import Shard
from ..store import FeatureStore
from .libraries import merge_libraries
from .merge import merged
from .run import Run
from .store_lock import StoreLock
from .tidy import tidy

BATCH_ROWS = 1 << 12  # of the receipts of several shards, handled together


@dataclass
class _Told:
    """What the receipts say beside their rows."""

    files: dict[str, ShardRow]  # by path; the parent's, until a receipt replaces them
    libraries: list[dict[str, str]]
    receipts: int = 0


def finish(run: Run, lock: StoreLock) -> FeatureStore:
    """Make the shards that are down a store: write its tables and, last, store.json.

    The journal is removed. Raises StoreError if a shard is still missing, or if the lock was
    broken by another process.
    """
    lock.check_held()
    parent = run.parent
    lengths, paths = run.lengths(), run.tables()
    told = _told_by_parent(run)
    lookup = LookupBuilder(lengths, run.identity.recipe)
    counts: Counter[str] = Counter()

    def counted() -> Iterator[pa.RecordBatch]:
        for batch in merged(_sorted_streams(run, told)):
            lookup.add(batch)
            counts.update(batch.column("status").to_pylist())
            yield batch

    write_index(paths["index"], counted())
    missing = len(run.layout.shards) - told.receipts
    if missing:
        raise StoreError(f"{run.path}: {missing} shards are not written yet; extract again")
    shards = sorted(told.files.values())
    write_shards(paths["shards"], shards)
    write_atomically(paths["lookup"], lookup_bytes(lookup.columns()))
    tables = {table: sha256_file(path) for table, path in paths.items()}
    # Read back from the disk: the digest is that of what is there.
    index = read_index(paths["index"], tables["index"], counts.total())
    digest = store_digest(run.identity, shards, map(index_lines, index))
    if parent is not None and digest == parent.digest:
        parents = parent.card["parents"]
    else:
        parents = [parent.digest] if parent else []
    for name, content in run.metadata().items():
        write_atomically(run.path / name, content)
    write_card(
        run.path,
        {
            "format": FORMAT,
            "clipfeat": clipfeat_version(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "identity": run.identity.to_json(),
            "libraries": merge_libraries(told.libraries),
            "shard_records": run.layout.shard_records,
            "grid_shapes": lengths,
            **({"areas": lookup.areas} if lookup.areas else {}),
            "counts": {status.value: counts[status.value] for status in Status},
            "parents": parents,
            "licence": parent.card.get("licence") if parent else None,
            "note": parent.card.get("note") if parent else None,
            "generation": parent.card["generation"] + 1 if parent else 0,
            "tables": tables,
            "digest": digest,
        },
    )
    tidy(run.path)
    return FeatureStore.open(run.path)


def _told_by_parent(run: Run) -> _Told:
    if run.parent is None:
        return _Told({}, [])
    known = run.parent.card["libraries"].items()
    libraries = {name: version for name, version in known if isinstance(version, str)}
    return _Told({shard.path: shard for shard in run.parent.shards}, [libraries])


def _sorted_streams(run: Run, told: _Told) -> list[Iterator[pa.RecordBatch]]:
    """Return the rows of the index in streams that are sorted by id each; fills `told`."""
    series: list[list[Shard]] = []  # in each the ids of one shard lie behind those of the last
    for shard in run.layout.shards:
        if series and shard.ids and series[-1][-1].ids[-1:] < shard.ids[:1]:
            series[-1].append(shard)
        else:
            series.append([shard])
    streams = [_rows(run, tuple(shards), told) for shards in series]
    if run.parent is not None:
        written = {image_id for shard in run.layout.shards for image_id in shard.ids}
        streams.append(_without(written, run.parent.index_batches()))
    return streams


def _rows(run: Run, shards: tuple[Shard, ...], told: _Told) -> Iterator[pa.RecordBatch]:
    """Yield what the receipts of some shards say of their ids, those of several together."""
    columns: list[list[object]] = [[] for _ in INDEX_SCHEMA]
    for _, receipt in run.receipts(shards):
        told.receipts += 1
        told.files.update({file.path: file for file in receipt.files})
        if receipt.libraries not in told.libraries:
            told.libraries.append(dict(receipt.libraries))
        for values, more in zip(columns, receipt.columns, strict=True):
            values.extend(more)
        if len(columns[0]) >= BATCH_ROWS:
            yield _batch(columns)
            columns = [[] for _ in INDEX_SCHEMA]
    yield _batch(columns)


def _batch(columns: list[list[object]]) -> pa.RecordBatch:
    kinds = zip(columns, INDEX_SCHEMA.types, strict=True)
    arrays = [pa.array(values, kind) for values, kind in kinds]
    return pa.RecordBatch.from_arrays(arrays, schema=INDEX_SCHEMA)


def _without(ids: set[str], batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield batch.filter(pa.array([i not in ids for i in batch.column("image_id").to_pylist()]))
