"""Commit a store: tables from the receipts of all shards, then store.json, or take it all back."""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

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
from ..identity import writing_command
from ..layout import TABLES, TableName, is_table_file
from ..lookup import LookupBuilder, Status, lookup_bytes
from ..metadata import StoreMetadata, store_digest, write_metadata
from ..quantise import SCALE_FILE
from ..shards import ShardRow
from ..store import FeatureStore
from ..tables import index_lines, read_index, write_index, write_shards
from .journal import Journal
from .lock import StoreLock
from .merge import SortedRuns, merged
from .receipts import Written
from .run import Run

JOINED = ", "  # between versions, where several processes had different ones


class Proof:
    """What receipts prove of the shards of a run; their rows of the index wait on the disk.

    To be closed, which gives the space back.
    """

    def __init__(self, path: Path):
        self.files: dict[int, tuple[ShardRow, ...]] = {}  # by the number of the shard
        self.libraries: list[dict[str, str]] = []
        self.rows = SortedRuns(path)

    def add(self, written: Written) -> None:
        """Keep what is needed of some shards."""
        for receipt in written.receipts:
            self.files[receipt.shard] = receipt.files
            if receipt.libraries not in self.libraries:
                self.libraries.append(receipt.libraries)
        self.rows.add(written.rows)

    def close(self) -> None:
        self.rows.close()


def commit_store(run: Run, lock: StoreLock, proof: Proof) -> FeatureStore:
    """Make a store of the written shards of a run: write its tables and, last, store.json.

    The journal is removed. Raises StoreError if a shard is not written yet, or if another process
    has broken the lock.
    """
    lock.check_held()
    missing = len(run.layout.shards) - len(proof.files)
    if missing:
        origin, model = run.identity.derived_from, run.identity.backbone.get("model")
        command = writing_command(None if origin is None else origin.operation, model)
        raise StoreError(
            f"{run.path}: not written yet: {counted(missing, 'shard')} of "
            f"{len(run.layout.shards):,}; run the same {command} command again",
            code="E-STORE-MISSING-SHARDS",
        )
    parent, lengths, paths = run.parent, run.lengths(), run.tables()
    lookup = LookupBuilder(lengths, run.identity.recipe)
    counts: Counter[str] = Counter()
    # The parent's rows come last: of two rows with one id, the one in the earlier stream counts.
    streams = [*proof.rows.streams(), *([parent.index_batches()] if parent else [])]

    def counted_rows() -> Iterator[pa.RecordBatch]:
        for batch in merged(streams):
            lookup.add(batch)
            for each in batch.column("status").value_counts().to_pylist():
                counts[each["values"]] += each["counts"]
            yield batch

    write_index(paths["index"], counted_rows())
    proof.close()
    files = {shard.path: shard for shard in parent.shards} if parent else {}
    files |= {file.path: file for several in proof.files.values() for file in several}
    shards = sorted(files.values())
    write_shards(paths["shards"], shards)
    write_atomically(paths["lookup"], lookup_bytes(lookup.columns()))
    tables: dict[TableName, str] = {table: sha256_file(path) for table, path in paths.items()}
    # Read back from the disk: the digest is that of the file, not of what it should contain.
    index = read_index(paths["index"], tables["index"], counts.total())
    digest = store_digest(run.identity, shards, map(index_lines, index))
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
        libraries=merge_libraries(
            [*([parent.metadata.libraries] if parent else []), *proof.libraries]
        ),
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
