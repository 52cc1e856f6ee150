"""Merge columns of several sources, each sorted by image id, in bounded memory."""

import contextlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...base import clipfeat_version
from ...base.errors import StoreError, UsageError
from ...base.files import (
    fsync_folder,
    remove_plain,
    remove_temporaries,
    sha256_file,
    write_atomically,
)
from ..format import (
    FORMAT,
    JOURNAL,
    STORE_JSON,
    TABLES,
    Identity,
    ShardRow,
    Status,
    is_table_file,
    store_digest,
)
from ..layout import Layout, Part, Shard, part_with
from ..lookup import LookupBuilder, lookup_bytes
from ..metadata import write_card
from ..store import FeatureStore
from ..tables import (
    INDEX_SCHEMA,
    index_lines,
    read_index,
    reasons_text,
    refused_rows,
    write_index,
    write_shards,
)
from .journal import Journal, merge_libraries
from .run import Run, StoreLock

KEY = "image_id"
FAN_IN = 16  # streams merged at a time
BATCH_ROWS = 1 << 12  # handed from one level of merging to the next


def merged(streams: Iterable[Iterator[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of all streams, sorted by id, holding one batch of each.

    Streams are merged FAN_IN at a time, then what comes of these, and so on: a row costs the
    same at each level, and levels grow with the logarithm of the number of streams.
    """
    streams = list(streams)
    while len(streams) > FAN_IN:
        groups = (streams[k : k + FAN_IN] for k in range(0, len(streams), FAN_IN))
        streams = [_full(_merged(group)) for group in groups]
    return _merged(streams)


def _merged(streams: list[Iterator[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """Merge a few streams.

    In every step all that can be said to come next is taken: the rows up to the lowest of the
    last ids of the batches at hand.
    """
    heads = [(head, stream) for stream in streams if (head := _next(stream)) is not None]
    while heads:
        bound = min(_id(head, len(head) - 1) for head, _ in heads)
        taken, rest = [], []
        for head, stream in heads:
            end = bisect_right(range(len(head)), bound, key=lambda k, head=head: _id(head, k))
            taken.append(head.slice(0, end))
            left = head.slice(end) if end < len(head) else _next(stream)
            if left is not None:
                rest.append((left, stream))
        heads = rest
        yield from _sorted([batch for batch in taken if len(batch)])


def _full(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the same rows in batches of BATCH_ROWS or more, but for the last."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= BATCH_ROWS:
            yield pa.concat_batches(held)
            held = []
    if held:
        yield pa.concat_batches(held)


def _next(stream: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
    """Return the next batch that holds a row."""
    return next((batch for batch in stream if len(batch)), None)


def _id(batch: pa.RecordBatch, row: int) -> str:
    return batch.column(KEY)[row].as_py()


def _sorted(batches: list[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    if len(batches) == 1:
        yield batches[0]
    else:
        yield from pa.Table.from_batches(batches).sort_by(KEY).to_batches()


def finish_tidying(store: FeatureStore, *, break_lock: bool = False) -> None:
    """Remove what a run has left that was killed after it had finished the store, if anything."""
    journal = Journal(store.path)
    if journal.folder.is_dir() and _is_left_over(journal, store):
        lock = StoreLock(journal)
        lock.acquire(break_lock=break_lock)
        try:
            if _is_left_over(journal, FeatureStore.open(store.path)):
                tidy(store.path)
        finally:
            lock.release()


def _is_left_over(journal: Journal, store: FeatureStore) -> bool:
    plan = journal.plan()
    return plan is None or plan["parent"] != store.digest


def tidy(path: Path) -> None:
    """Remove what a finished store needs no more: tables of an earlier generation, the journal.

    The journal goes last, so that a run killed here is known to have something left to remove.
    """
    current = FeatureStore.open(path)
    tables = {current.table_path(table).name for table in TABLES}
    for file in path.iterdir():
        if is_table_file(file.name) and file.name not in tables:
            remove_plain(file)
    remove_temporaries(path)
    journal = Journal(path)
    if journal.folder.is_dir():
        journal.remove()
    fsync_folder(path)


def discard(run: Run) -> None:
    """Undo a run: remove the beginning of a store, or what was added to a finished one.

    What no writer has made stays. The journal goes last: a folder without it would be taken for
    something else.
    """
    for shard in run.layout.shards:
        if not run.is_in_parent(shard):
            for array in run.identity.arrays:
                remove_plain(run.path / shard.path(array))
    if run.parent is None:
        for name in run.metadata():
            remove_plain(run.path / name)
        remove_temporaries(run.path)
        for path in run.tables().values():
            remove_plain(path)
        for folder in run.folders():
            _remove_if_empty(folder)
    run.journal.remove()
    if run.parent is None:
        _remove_if_empty(run.path)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # something of somebody else's lies there
        folder.rmdir()


TABLE_BATCH_ROWS = 1 << 12  # of the receipts of several shards, handled together


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
        if len(columns[0]) >= TABLE_BATCH_ROWS:
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


MOST = 8  # shards and parts that are named to a person


@dataclass(frozen=True)
class Lacking:
    """What must be written before a store can be finished."""

    path: Path
    shards: tuple[range, ...]  # numbers of those that are lacking
    of: int  # shards that were planned
    ids: int  # in those that are lacking
    changed: bool  # they were written, and are not what their receipts say
    parts: tuple[Part, ...]  # to run again; none if it is not known in how many it was written

    def to_json(self) -> dict[str, Any]:
        """Return the same for scripts; shards as pairs of the first and the last number."""
        return {
            "store": str(self.path),
            "finished": False,
            "shards": self.of,
            "missing": {
                "shards": [[numbers[0], numbers[-1]] for numbers in self.shards],
                "ids": self.ids,
                "parts": [str(part) for part in self.parts],
            },
        }

    def text(self) -> str:
        """Return a line for a person."""
        what = "changed since they were written" if self.changed else "no receipt"
        count = sum(numbers[-1] - numbers[0] + 1 for numbers in self.shards)
        which = _listed(
            str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
            for numbers in self.shards
        )
        where = f" with --shard-range {_listed(map(str, self.parts))}" if self.parts else ""
        ids = "1 id" if self.ids == 1 else f"{self.ids} ids"
        return (
            f"{self.path} lacks {ids} in {count} of {self.of} shards ({what}: {which}); "
            f"type the same clipfeat extract command again{where}"
        )


def _listed(texts: Iterable[str]) -> str:
    some = list(texts)
    more = [f"{len(some) - MOST} more"] if len(some) > MOST else []
    return ", ".join([*some[:MOST], *more])


def finish_store(
    path: Path, *, break_lock: bool = False, say: Callable[[str], None] = lambda line: None
) -> FeatureStore | Lacking:
    """Make a store of the shards that are down at `path`; return it, or what is lacking.

    A store that is finished is returned as it is. Every shard is read again, unless one has no
    receipt. Raises UsageError if no store was begun there, StoreError if it is being written,
    if the journal is not that of one plan, or if no image gave a record: then the run is undone.
    """
    journal = Journal(path)
    if not journal.folder.is_dir():
        if (path / STORE_JSON).exists():
            return FeatureStore.open(path)
        raise UsageError(f"{path} is no feature store: it holds neither {STORE_JSON} nor {JOURNAL}")
    journal.create()
    lock = StoreLock(journal)
    taken_over = lock.acquire(break_lock=break_lock)
    try:
        for gone in taken_over:
            say(f"Taking over the lock of {gone}, which is gone")
        plan = journal.plan()
        parent = FeatureStore.open(path) if (path / STORE_JSON).exists() else None
        if parent is not None and (plan is None or plan["parent"] != parent.digest):
            tidy(path)
            return FeatureStore.open(path)
        if plan is None:
            raise StoreError(f"{path} has no plan yet; type the clipfeat extract command again")
        if parent is None and plan["parent"] is not None:
            raise StoreError(f"{path} was being added to and has lost its {STORE_JSON}")
        return _finish_planned(path, plan, parent, lock)
    finally:
        lock.release()


def _finish_planned(
    path: Path, plan: dict[str, Any], parent: FeatureStore | None, lock: StoreLock
) -> FeatureStore | Lacking:
    identity, journal = Identity.from_json(plan["identity"]), Journal(path)
    found = (
        journal.described(number, plan["shard_records"], identity.arrays)
        for number in journal.numbers()
        if number < plan["shards"]
    )
    described = [of_one for of_one in found if of_one is not None]
    layout = Layout(plan["shard_records"], tuple(shard for shard, _ in described))
    if len(layout.shards) < plan["shards"]:
        gaps = _gaps([shard.number for shard in layout.shards], plan["shards"])
        ids = plan["ids"] - sum(len(shard.ids) for shard in layout.shards)
        return _lacking(journal, gaps, plan["shards"], ids, changed=False)
    run = Run(path, identity, layout, parent)
    if run.plan() != plan:
        raise StoreError(
            f"{path}: its receipts are not those of its plan; type the same clipfeat extract "
            f"command again, which writes anew what is not its own"
        )
    run.check_places()
    changed = run.changed({shard.number: files for shard, files in described})
    if changed:
        numbers = tuple(range(number, number + 1) for number in sorted(changed))
        ids = sum(len(shard.ids) for shard in layout.shards if shard.number in changed)
        return _lacking(journal, numbers, plan["shards"], ids, changed=True)
    if run.is_in_vain():
        why = reasons_text(refused_rows(run.rows(layout.shards)))
        lock.check_held()
        discard(run)
        what = "no store was written" if parent is None else f"{path} is as it was"
        raise StoreError(f"no image gave a record, {what}: {why}")
    return finish(run, lock)


def _gaps(there: list[int], count: int) -> tuple[range, ...]:
    """Return the numbers below `count` that are not in a sorted list."""
    starts, ends = [-1, *there], [*there, count]
    gaps = (range(start + 1, end) for start, end in zip(starts, ends, strict=True))
    return tuple(gap for gap in gaps if gap)


def _lacking(
    journal: Journal, shards: tuple[range, ...], count: int, ids: int, *, changed: bool
) -> Lacking:
    """Name the parts as well, if their locks tell into how many the shards were cut."""
    cuts = {part.of for part in journal.parts()}
    parts: set[Part] = set()
    if len(cuts) == 1:
        (of,) = cuts
        for some in shards:
            first, last = (part_with(shard, count, of).number for shard in (some[0], some[-1]))
            parts.update(Part(number, of) for number in range(first, last + 1))
    return Lacking(journal.store, shards, count, ids, changed, tuple(sorted(parts)))
