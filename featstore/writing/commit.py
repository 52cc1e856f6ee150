"""Commit a store: tables from the receipts of all shards, then store.json, or take it all back."""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import contextlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ...base import clipfeat_version
from ...base.errors import StoreError
from ...base.files import (
    fsync_folder,
    remove_plain,
    remove_temporaries,
    sha256_file,
    write_atomically,
)
from ...base.text import counted
from ..layout import TABLES, Shard, TableName, is_table_file
from ..lookup import LookupBuilder, Status, lookup_bytes
from ..metadata import StoreMetadata, store_digest, write_metadata
from ..quantise import SCALE_FILE
from ..shards import ShardRow
from ..store import FeatureStore
from ..tables import index_lines, read_index, write_index, write_shards
from .journal import Journal
from .lock import StoreLock
from .run import Run

KEY = "image_id"
FAN_IN = 16  # streams merged at a time
BATCH_ROWS = 1 << 12  # of the index, handled together
JOINED = ", "  # between versions, where several processes had different ones


def commit_store(run: Run, lock: StoreLock) -> FeatureStore:
    """Make a store of the written shards of a run: write its tables and, last, store.json.

    The journal is removed. Raises StoreError if a shard is not written yet, or if another process
    has broken the lock.
    """
    lock.check_held()
    parent, lengths, paths = run.parent, run.lengths(), run.tables()
    written = _WrittenShards(run)
    lookup = LookupBuilder(lengths, run.identity.recipe)
    counts: Counter[str] = Counter()

    def counted_rows() -> Iterator[pa.RecordBatch]:
        for batch in merged(written.index_streams()):
            lookup.add(batch)
            for each in batch.column("status").value_counts().to_pylist():
                counts[each["values"]] += each["counts"]
            yield batch

    write_index(paths["index"], _ahead(counted_rows()))
    missing = len(run.layout.shards) - written.shards
    if missing:
        raise StoreError(
            f"{run.path}: not written yet: {counted(missing, 'shard')} of "
            f"{len(run.layout.shards):,}; run the same clipfeat extract command again",
            code="E-STORE-MISSING-SHARDS",
        )
    shards = sorted(written.files.values())
    write_shards(paths["shards"], shards)
    write_atomically(paths["lookup"], lookup_bytes(lookup.columns()))
    tables: dict[TableName, str] = {table: sha256_file(path) for table, path in paths.items()}
    # Read back from the disk: the digest is that of the file, not of what it should contain.
    index = read_index(paths["index"], tables["index"], counts.total())
    digest = store_digest(run.identity, shards, map(index_lines, _ahead(index)))
    if parent is not None and digest == parent.digest:
        parents = parent.metadata.parents
    else:
        parents = (parent.digest,) if parent else ()
    for name, content in run.zarr_metadata().items():
        write_atomically(run.path / name, content)
    metadata = StoreMetadata(
        clipfeat=clipfeat_version(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        identity=run.identity,
        libraries=merge_libraries(written.libraries),
        shard_records=run.layout.shard_records,
        grid_shapes=lengths,
        areas=lookup.areas,
        counts={status: counts[status] for status in Status},
        parents=parents,
        about=parent.metadata.about if parent else run.about,
        documents=parent.metadata.documents if parent else {},
        loss=parent.metadata.loss if parent else None,
        generation=run.generation,
        tables=tables,
        digest=digest,
    )
    write_metadata(run.path, metadata)
    remove_leftovers(run.path)
    return FeatureStore.open(run.path)


def _ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the batches; a thread makes the next one while the caller works on one."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = thread.submit(next, batches, None)
            yield batch


class _WrittenShards:
    """What a store will consist of: the parent's shards, and those that receipts replace or add.

    The files and libraries are known once the streams have been read.
    """

    def __init__(self, run: Run):
        self._run = run
        self.shards = 0  # that have a receipt
        self.files: dict[str, ShardRow] = {}  # by path
        self.libraries: list[dict[str, str]] = []
        if run.parent is not None:
            self.files = {shard.path: shard for shard in run.parent.shards}
            self.libraries = [run.parent.metadata.libraries]

    def index_streams(self) -> list[Iterator[pa.RecordBatch]]:
        """Return the rows of the index in streams, each of which is sorted by id.

        Of two rows with one id, the one in the earlier stream counts.
        """
        run = self._run
        series: list[list[Shard]] = []  # in each the ids of a shard follow those of the last one
        for shard in run.layout.shards:
            last = series[-1][-1].ids if series else ()
            if last and shard.ids and last[-1] < shard.ids[0]:
                series[-1].append(shard)
            else:
                series.append([shard])
        streams = [self._batches(shards) for shards in series]
        if run.parent is not None:
            streams.append(run.parent.index_batches())
        return streams

    def _batches(self, shards: Iterable[Shard]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of some shards."""
        for written in self._run.written(shards):
            self.shards += len(written.shards)
            for receipt in written.receipts:
                self.files.update({file.path: file for file in receipt.files})
                if receipt.libraries not in self.libraries:
                    self.libraries.append(receipt.libraries)
            yield written.rows


def merge_libraries(several: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return every library with its version; with all of its versions, if there are several.

    >>> merge_libraries([{"torch": "2.7", "pillow": "11"}, {"torch": "2.6"}, {"torch": "2.6, 2.7"}])
    {'pillow': '11', 'torch': '2.6, 2.7'}
    """
    versions: dict[str, set[str]] = {}
    for libraries in several:
        for name, version in libraries.items():
            versions.setdefault(name, set()).update(version.split(JOINED))
    return {name: JOINED.join(sorted(versions[name])) for name in sorted(versions)}


def first_of_each(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return the first row of each id; rows are sorted by id."""
    ids = rows.column(KEY)
    is_other = pc.call_function("not_equal", [ids[1:], ids[:-1]])
    return rows.filter(pa.concat_arrays([pa.array([True]), is_other]))


Unite = Callable[[pa.RecordBatch], pa.RecordBatch]


def merged(
    streams: Iterable[Iterator[pa.RecordBatch]], unite: Unite = first_of_each
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of all streams, sorted by id, holding one batch of each.

    Of several rows with one id `unite` keeps one. It gets rows sorted by id, those of one id in the
    order of the streams. Streams are merged FAN_IN at a time, then the results of these, and so on: a row costs the
    same at each level, and the number of levels is the logarithm of the number of streams.
    """
    streams = list(streams)
    while len(streams) > FAN_IN:
        groups = (streams[k : k + FAN_IN] for k in range(0, len(streams), FAN_IN))
        streams = [_rebatched(_merge_few(group, unite)) for group in groups]
    return _merge_few(streams, unite)


def _merge_few(streams: list[Iterator[pa.RecordBatch]], unite: Unite) -> Iterator[pa.RecordBatch]:
    """Merge streams, in every step all rows up to the lowest of the last ids of their batches."""
    heads = [(head, stream) for stream in streams if (head := _next(stream)) is not None]
    while heads:
        bound = min(_id(head, len(head) - 1) for head, _ in heads)
        taken: list[pa.RecordBatch] = []
        left: list[tuple[pa.RecordBatch, Iterator[pa.RecordBatch]]] = []
        for head, stream in heads:
            end = bisect_right(range(len(head)), bound, key=partial(_id, head))
            if end:
                taken.append(head.slice(0, end))
            rest = head.slice(end) if end < len(head) else _next(stream)
            if rest is not None:
                left.append((rest, stream))
        heads = left
        if len(taken) == 1:
            yield taken[0]
        else:
            yield unite(pa.concat_batches(taken).sort_by(KEY))  # stable


def _rebatched(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the same rows in batches of at least BATCH_ROWS, except for the last."""
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


def remove_leftovers(path: Path) -> None:
    """Remove what a committed store does not need: older tables, temporary files, the journal.

    For the holder of the lock. The journal is removed last, so that after a kill here another
    process knows that something is left.
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


def complete_commit(store: FeatureStore, *, break_lock: bool = False) -> None:
    """Remove the leftovers of a run that was killed after its commit, if there are any."""
    journal = Journal(store.path)
    if journal.folder.is_dir() and not journal.updates(store.digest):
        with StoreLock(store.path, break_lock=break_lock):
            if not journal.updates(FeatureStore.open(store.path).digest):
                remove_leftovers(store.path)


def rollback(run: Run) -> None:
    """Remove a store that was begun, or what was added to a finished one.

    Files that no writer has made stay. The journal is removed last: without it, the folder would
    be taken for something else than a store.
    """
    for shard in run.layout.shards:
        if not run.is_in_parent(shard):
            for array in run.identity.arrays:
                remove_plain(run.path / shard.path(array))
    if run.parent is None:
        for name in [*run.zarr_metadata(), SCALE_FILE]:
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
    with contextlib.suppress(OSError):  # it contains somebody else's file
        folder.rmdir()
