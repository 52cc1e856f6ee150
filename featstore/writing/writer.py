"""Write a store: hold its lock, write the shards that are pending, commit."""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from ...base.errors import StoreError, StoreUsageError
from ...base.files import remove_temporaries
from ..geometry import GridShape
from ..identity import Identity
from ..layout import Grids, Layout, Part, Shard, check_folder, check_folders, lay_out
from ..lookup import Status
from ..metadata import About
from ..quantise import Scale
from ..shards import RecordHashes, ShardWriter, as_bytes, encode
from ..store import FeatureStore
from ..tables import IndexRow
from .commit import Proof, commit_store, complete_commit, remove_leftovers, rollback
from .journal import Journal
from .lock import StoreLock
from .merge import SortedRuns, merged
from .receipts import Receipt, check_libraries
from .run import NO_TEXTS, Run, finished_store

SHARD_RECORDS = 128
UNKNOWN_SIZE = (0, 0)  # of a source image


def write_store(
    path: str | Path,
    identity: Identity,
    shapes: Mapping[str, GridShape],
    read: Callable[[str], np.ndarray | Mapping[str, np.ndarray] | None],
    shard_records: int = SHARD_RECORDS,
    *,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> FeatureStore:
    """Write a store of `{image id: grid shape}`, or continue one that was interrupted.

    `read` returns the grid of an id, (row, col, dim), or None for an image that is missing. Where
    the identity has more arrays, it returns all of them by name: {"grid": ..., "boxes": ...}. One
    record is held at a time. `sizes` has width and height of source images in pixels, as far as
    they are known: a model that is trained on regions needs them to read boxes. Raises StoreError if
    a finished store or something else is at `path`, and for an array of another shape.
    """
    path = Path(path)
    if finished_store(path, identity) is not None:
        raise StoreUsageError(
            f"{path} is a finished store already; open it, or choose another path",
            code="E-STORE-FINISHED",
        )
    known = sizes or {}
    layout = lay_out(Grids.of(shapes), shard_records)
    with StoreWriter(path, identity, layout) as writer:
        for shard in writer.pending:
            with ShardTransaction(path, identity, shard_records, shard, libraries={}) as files:
                rows = [
                    _append(files, identity, shard, n, read(i), known.get(i, UNKNOWN_SIZE))
                    for n, i in enumerate(shard.ids)
                ]
                files.commit(tuple(rows))
        return writer.commit()


def _append(
    files: "ShardTransaction",
    identity: Identity,
    shard: Shard,
    position: int,
    grid: np.ndarray | Mapping[str, np.ndarray] | None,
    size: tuple[int, int],
) -> IndexRow:
    """Append the record of an id of a shard, None for none; return its row of the index."""
    image_id, row, shape = shard.ids[position], shard.rows[position], str(shard.shape)
    if grid is None:
        reason = "no such file"
        return IndexRow(image_id, Status.MISSING, reason, shape, row, 0, 0, "", image_id)
    record = {"grid": grid} if isinstance(grid, np.ndarray) else grid
    encoded = encode_record(identity, shard.shape, record)
    files.append(row - shard.first_row, encoded)
    hashes = RecordHashes.of(encoded.values())
    return IndexRow(image_id, Status.OK, "", shape, row, *size, "", image_id, *hashes)


def encode_record(
    identity: Identity, shape: GridShape, record: Mapping[str, np.ndarray]
) -> dict[str, bytes]:
    """Return the arrays of a record as they lie on disk, {name: bytes}.

    Raises StoreError if an array is missing, or has another shape than its grid shape asks for.
    """
    encoded: dict[str, bytes] = {}
    for name in identity.arrays:
        array = identity.array(name, shape)
        if name not in record or record[name].shape != array.shape:
            got = f"got {record[name].shape}" if name in record else "there is none"
            raise StoreError(
                f"{name}: expected an array of {array.shape}; {got}", code="E-STORE-RECORD"
            )
        encoded[name] = encode(identity.codec, as_bytes(array.as_stored(record[name])))
    return encoded


class StoreWriter:
    """The one writer of a store, or of one part of it; shards that are already written are kept.

    Use as a context manager, which holds the lock::

        with StoreWriter(path, identity, layout) as writer:
            for shard in writer.pending:
                with ShardTransaction(
                    path, identity, layout.shard_records, shard, libraries
                ) as files:
                    ...  # append each record, then commit
            writer.commit()

    `shards` are all that it is for, `pending` those that are not written yet. With a `parent`, the
    finished store at `path`, the shards are added to it. Until `commit` has written store.json,
    readers see the parent; from then on the new store. A new store of uint8 needs its `scale`, and
    may have texts `about` it.

    The writer of a `part` does not commit: `commit_parts` does, once all parts are written. Parts
    may start in any order, also at the same time. The first writes the plan, and the others must
    have the same. A part only removes temporary files of its own shards, which nobody else writes:
    its lock excludes another run of the same part.

    Memory: the ids of the layout, and during the commit 32 bytes for each id and the rows of one
    row group; the rows of all ids are then in a temporary file. No features are held.
    """

    pending: tuple[Shard, ...]

    def __init__(
        self,
        path: Path,
        identity: Identity,
        layout: Layout,
        *,
        parent: FeatureStore | None = None,
        part: Part | None = None,
        scale: Scale | None = None,
        about: About = NO_TEXTS,
        break_lock: bool = False,
    ):
        self._run = Run(path, identity, layout, parent, scale, about)
        self._lock = StoreLock(path, part, break_lock=break_lock)
        self._numbers = part.shards(len(layout.shards)) if part else None
        self.shards = layout.shards
        if self._numbers is not None:
            self.shards = layout.shards[self._numbers.start : self._numbers.stop]

    def __enter__(self) -> Self:
        run = self._run
        run.journal.create()
        self._lock.acquire()
        try:
            if run.is_overtaken():
                self._complete_commit()
                raise StoreError(
                    f"another process completed {run.path}; rerun the command",
                    code="E-STORE-OVERTAKEN",
                )
            if self._numbers is None:
                self._begin_store()
            else:
                self._begin_part(self._numbers)
            run.make_folders()
            self.pending = run.pending(self.shards)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._lock.is_held():  # a process that wrote shards for this one may have been ended
                self._run.journal.clear_temporaries(self._numbers)
        finally:
            self._lock.release()

    def _complete_commit(self) -> None:
        """Remove what the process that completed the store may have left, if it was killed."""
        path = self._run.path
        if self._numbers is None:
            remove_leftovers(path)
        else:
            self._lock.release()
            with contextlib.suppress(StoreError, OSError):  # other parts may be as late
                complete_commit(FeatureStore.open(path))

    def _begin_store(self) -> None:
        """Write the plan, or check that the one that exists is the same."""
        run, journal = self._run, self._run.journal
        stored = journal.plan()
        if stored is None or stored.parent != run.parent_digest:
            journal.clear()  # of a run that was killed after its commit
        else:
            run.check_plan(stored)
        run.check_places()
        remove_temporaries(run.path)
        journal.clear_temporaries()
        journal.write_plan(run.plan)

    def _begin_part(self, numbers: range) -> None:
        """Agree on the plan with the other parts."""
        run, journal = self._run, self._run.journal
        run.check_places()
        stored = journal.write_first_plan(run.plan)
        if stored.parent != run.parent_digest:
            raise StoreError(
                f"{run.path}: its journal was left by a run that was killed just after it had "
                f"finished the store; type: clipfeat store finish {run.path}",
                code="E-PLAN-LEFTOVER",
            )
        run.check_plan(stored)
        journal.clear_temporaries(numbers)

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Yield the index rows of the ids of those of `shards` that are written."""
        return self._run.rows(self.shards)

    def sorted_rows(self) -> Iterator[pa.RecordBatch]:
        """Yield the same sorted by id; meanwhile they take space on the store's disk."""
        with contextlib.closing(SortedRuns(self._run.path)) as runs:
            for rows in self.rows():
                runs.add(rows)
            yield from merged(runs.streams())

    def produced_no_records(self) -> bool:
        """Return whether all shards are written and contain no new record at all."""
        return self._run.produced_no_records()

    def rollback(self) -> None:
        """Remove a new store, or what was added to a finished one."""
        self._require_whole()
        rollback(self._run)

    def commit(self) -> FeatureStore:
        """Write the tables and, last, store.json; remove the journal.

        Raises StoreError if a shard is not written yet, or if another process has broken the lock.
        """
        self._require_whole()
        with contextlib.closing(Proof(self._run.path)) as proof:
            for written in self._run.written(self.shards):
                proof.add(written)
            return commit_store(self._run, self._lock, proof)

    def _require_whole(self) -> None:
        if self._numbers is not None:
            raise RuntimeError("a part cannot decide about the store; see commit_parts")


class ShardTransaction:
    """One shard being written: leaving the block without `commit` leaves nothing behind.

    `libraries` are the versions of what touches pixels in this process, {name: version}. The
    receipt records them, and later store.json; they are not part of the digest. A `hasher` is a
    thread that hashes what was written while the next record is.
    """

    def __init__(
        self,
        store: Path,
        identity: Identity,
        shard_records: int,
        shard: Shard,
        libraries: Mapping[str, str],
        hasher: ThreadPoolExecutor | None = None,
    ):
        self._journal = Journal(store)
        self._shard = shard
        self._libraries = dict(libraries)
        self._files: dict[str, ShardWriter] = {}
        check_libraries(self._libraries)
        check_folders(store, [str(shard.shape)], identity.arrays)
        check_folder(self._journal.folder)
        try:
            for array in identity.arrays:
                temporary = self._journal.temporary(f"{shard.number:08}.{array}")
                self._files[array] = ShardWriter(
                    store, temporary, shard, array, shard_records, hasher
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was not committed."""
        for file in self._files.values():
            file.close()

    def append(self, position: int, encoded: Mapping[str, bytes]) -> None:
        """Write the encoded arrays of the record at `position` in the shard, in rising order."""
        for array, file in self._files.items():
            file.append(position, encoded[array])

    def commit(self, records: tuple[IndexRow, ...]) -> Receipt:
        """Give the files their names, then write the receipt, which makes the shard done."""
        files = tuple(file.commit() for file in self._files.values())
        receipt = Receipt.of(self._shard.number, files, records, self._libraries)
        self._journal.write_receipt(receipt)
        return receipt
