"""Write a store: begin or resume it, write its shards in any order anywhere, finish it."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ...base.files import fsync_folder, remove_temporaries
from ..disk.checks import check_folders
from ..disk.hashing import check_files
from ..errors import StoreError
from ..format import (
    STORE_JSON,
    TABLES,
    ZARR_GROUP,
    Identity,
    IndexRow,
    differences,
    table_file,
)
from ..layout import Layout, Shard, is_written_again
from ..store import FeatureStore
from .finish import Run
from .journal import Journal
from .lock import WriterLock
from .tidy import tidy


class StoreWriter:
    """The one writer of a store; what is already down from an earlier run is kept.

    Use as a context manager, which holds the store's lock::

        with StoreWriter(path, identity, layout) as writer:
            for shard in writer.pending:
                with ShardTransaction(path, identity, layout.shard_records, shard) as files:
                    ...  # append each record, then commit
            writer.finish(libraries={})

    With a `parent`, the finished store at `path`, the shards are added to it. Until `finish`
    has written store.json its readers see the parent, from then on the new store.

    Memory: the ids of the layout, and while finishing 32 bytes for each id and the rows of one
    row group. Nothing of the features is held.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity,
        layout: Layout,
        *,
        parent: FeatureStore | None = None,
        break_lock: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ):
        self._path = path
        self._identity = identity
        self._layout = layout
        self._parent = parent
        self._break_lock = break_lock
        self._say = say
        self._journal = Journal(path)
        self._lock = WriterLock(self._journal.lock_path)

    def __enter__(self) -> "StoreWriter":
        self._journal.create()
        gone = self._lock.acquire(break_lock=self._break_lock)
        if gone:
            self._say(f"Taking over the lock of {gone}, which is gone")
        try:
            self._check_base()
            self._begin()
            self.pending = self._without_receipt()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock.is_held():  # a process that wrote shards for this one may have been ended
            self._journal.clear_temporaries()
        self._lock.release()

    def _check_base(self) -> None:
        """Refuse to write if the store was finished by someone else since it was looked at."""
        digest = None
        if (self._path / STORE_JSON).exists():
            digest = FeatureStore.open(self._path).digest
        if digest != (self._parent.digest if self._parent else None):
            tidy(self._path)
            raise StoreError(
                f"{self._path} has just been finished by another process; type it again"
            )

    def _begin(self) -> None:
        """Write the plan, or check that the one that is there is this one."""
        layout, parent = self._layout, self._parent
        again = [[str(s.shape), s.index] for s in layout.shards if self._is_in_parent(s)]
        plan = {
            "identity": self._identity.to_json(),
            "shard_records": layout.shard_records,
            "layout": layout.fingerprint(),
            "parent": parent.digest if parent else None,
            "again": again,
        }
        stored = self._journal.plan()
        if stored is None or stored["parent"] != plan["parent"]:
            self._journal.clear()  # of a run that was killed after its last step but one
        elif stored != plan:
            different = list(differences(stored["identity"], plan["identity"]))
            if stored["shard_records"] != plan["shard_records"]:
                different += differences(stored, plan)
            what = "; ".join(different) or "it was planned for other images"
            raise StoreError(
                f"{self._path} is unfinished and was begun otherwise: {what}. "
                f"Finish it as it was begun, or choose another --out"
            )
        # Before anything is written below it: a store from elsewhere may link to anywhere.
        check_folders(self._path, map(str, layout.records), self._identity.arrays)
        remove_temporaries(self._path)
        self._journal.clear_temporaries()
        self._journal.write_plan(plan)
        group = self._path / ZARR_GROUP
        for shape in layout.records:
            for array in self._identity.arrays:
                (group / str(shape) / array).mkdir(parents=True, exist_ok=True)
            fsync_folder(group / str(shape))
        fsync_folder(group)
        fsync_folder(self._path)

    def _is_in_parent(self, shard: Shard) -> bool:
        parent = self._parent
        return parent is not None and is_written_again(shard, parent.card["grid_shapes"])

    def _without_receipt(self) -> tuple[Shard, ...]:
        """Return the shards to write; those down already are read again to be sure of them."""
        done = {
            file: shard.number
            for shard, receipt in self._journal.receipts(self._layout.shards, self._identity.arrays)
            for file in receipt.files
        }
        checked = check_files(self._path, list(done), "check")
        changed = {done[file] for file, problem in checked if problem}
        whole = set(done.values()) - changed
        return tuple(shard for shard in self._layout.shards if shard.number not in whole)

    def rows(self) -> Iterator[IndexRow]:
        """Yield what became of every id of this run that is down."""
        for _, receipt in self._journal.receipts(self._layout.shards, self._identity.arrays):
            yield from receipt.records

    def discard(self) -> None:
        """Undo the run: remove the beginning of a store, or what was added to a finished one.

        The journal goes last: a folder without it would be taken for something else.
        """
        for shard in self._layout.shards:
            if not self._is_in_parent(shard):
                for array in self._identity.arrays:
                    (self._path / shard.path(array)).unlink(missing_ok=True)
        if self._parent is None:
            shutil.rmtree(self._path / ZARR_GROUP)
            remove_temporaries(self._path)
            for table in TABLES:
                (self._path / table_file(table, 0)).unlink(missing_ok=True)
        self._journal.remove()
        if self._parent is None:
            with contextlib.suppress(OSError):  # something of somebody else's lies there
                self._path.rmdir()

    def finish(self, libraries: Mapping[str, str]) -> FeatureStore:
        """Write the tables and, last, store.json; remove the journal.

        `libraries` are the versions of what touched pixels; they are recorded, and are no
        part of the digest. Raises StoreError if a shard is still missing, or if the lock was
        broken by another process.
        """
        if not self._lock.is_held():
            raise StoreError(f"{self._path}: another process has broken the lock; it writes now")
        run = Run(self._path, self._identity, self._layout, self._parent)
        return run.finish(libraries)
