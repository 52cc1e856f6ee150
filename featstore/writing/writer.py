"""What all who write shards do: hold a lock, go on where a run was cut off, clear up."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

import numpy as np

from ...base.errors import StoreError
from ...base.files import remove_temporaries
from ..format import GridShape, Identity, IndexRow, Status
from ..layout import Layout, Part, Shard, lay_out
from ..shards import as_bytes, checksum, encode
from ..store import FeatureStore
from .commit import discard, finish, finish_tidying, tidy
from .run import Run, ShardTransaction, StoreLock
from .update import finished_store


class RunWriter(ABC):
    """The one writer of some shards of a run; those down from an earlier one are kept.

    A context manager that holds the lock. `shards` are all that it is for, and `pending` those
    that are not down.
    """

    shards: tuple[Shard, ...]
    pending: tuple[Shard, ...]

    def __init__(
        self, run: Run, part: Part | None, *, break_lock: bool, say: Callable[[str], None]
    ):
        self._run = run
        self._lock = StoreLock(run.journal, part)
        self._break_lock = break_lock
        self._say = say

    def __enter__(self) -> Self:
        self._run.journal.create()
        taken_over = self._lock.acquire(break_lock=self._break_lock)
        try:
            for gone in taken_over:
                self._say(f"Taking over the lock of {gone}, which is gone")
            self._begin()
            self.pending = self._run.pending(self.shards)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._lock.is_held():  # a process that wrote shards for this one may have been ended
                self._clear_temporaries()
        finally:
            self._lock.release()

    @abstractmethod
    def _begin(self) -> None:
        """Make sure of the plan, and clear up after a run that was killed."""

    @abstractmethod
    def _clear_temporaries(self) -> None:
        """Remove files in the making, which are nobody's while the lock is held."""

    def rows(self) -> Iterator[IndexRow]:
        """Yield what became of every id of `shards` that is down."""
        return self._run.rows(self.shards)


class StoreWriter(RunWriter):
    """The one writer of a store; what is already down from an earlier run is kept.

    Use as a context manager, which holds the store's lock::

        with StoreWriter(path, identity, layout) as writer:
            for shard in writer.pending:
                with ShardTransaction(
                    path, identity, layout.shard_records, shard, libraries
                ) as files:
                    ...  # append each record, then commit
            writer.finish()

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
        run = Run(path, identity, layout, parent)
        super().__init__(run, None, break_lock=break_lock, say=say)
        self.shards = layout.shards

    def _begin(self) -> None:
        """Write the plan, or check that the one that is there is this one."""
        run, journal = self._run, self._run.journal
        if run.is_overtaken():
            tidy(run.path)
            raise run.overtaken()
        plan, stored = run.plan(), journal.plan()
        if stored is None or stored["parent"] != plan["parent"]:
            journal.clear()  # of a run that was killed after its last step but one
        else:
            run.check_plan(stored, plan)
        run.check_places()
        remove_temporaries(run.path)
        self._clear_temporaries()
        journal.write_plan(plan)
        run.make_folders()

    def _clear_temporaries(self) -> None:
        self._run.journal.clear_temporaries()

    def is_in_vain(self) -> bool:
        """Return whether all is down and not one record came of it."""
        return self._run.is_in_vain()

    def discard(self) -> None:
        """Undo the run: remove the beginning of a store, or what was added to a finished one."""
        discard(self._run)

    def finish(self) -> FeatureStore:
        """Write the tables and, last, store.json; remove the journal.

        Raises StoreError if a shard is still missing, or if the lock was broken by another
        process.
        """
        return finish(self._run, self._lock)


class PartWriter(RunWriter):
    """The one writer of a part of a store; what is already down from an earlier run is kept.

    Used as a StoreWriter is, but without an end: `finish_store` makes a store of the shards
    once all parts are down. Parts begin in any order, at the same time too. The first writes
    the plan and the others must have the same. A part removes nothing but files in the making
    of its own shards, which nobody else writes: another run of it is excluded by its lock.
    """

    def __init__(
        self,
        path: Path,
        identity: Identity,
        layout: Layout,
        part: Part,
        *,
        parent: FeatureStore | None = None,
        break_lock: bool = False,
        say: Callable[[str], None] = lambda line: None,
    ):
        run = Run(path, identity, layout, parent)
        super().__init__(run, part, break_lock=break_lock, say=say)
        self._numbers = part.shards(len(layout.shards))
        self.shards = layout.shards[self._numbers.start : self._numbers.stop]

    def _begin(self) -> None:
        """Agree on the plan with the other parts."""
        run, journal = self._run, self._run.journal
        if run.is_overtaken():
            self._lock.release()
            with contextlib.suppress(StoreError, OSError):  # other parts may be as late
                finish_tidying(FeatureStore.open(run.path))
            raise run.overtaken()
        run.check_places()
        plan = run.plan()
        stored = journal.settle_plan(plan)
        if stored["parent"] != plan["parent"]:
            raise StoreError(
                f"{run.path}: its journal was left by a run that was killed just after it had "
                f"finished the store; type: clipfeat store finish {run.path}"
            )
        run.check_plan(stored, plan)
        self._clear_temporaries()
        run.make_folders()

    def _clear_temporaries(self) -> None:
        self._run.journal.clear_temporaries(self._numbers)


SHARD_RECORDS = 128


def write_store(
    path: Path,
    identity: Identity,
    shapes: Mapping[str, GridShape],
    read: Callable[[str], np.ndarray | None],
    shard_records: int = SHARD_RECORDS,
) -> FeatureStore:
    """Write a finished store of `{image id: grid shape}`, going on where a run was cut off.

    `read` gives the grid of an id, (row, col, dim), or None for an image that is missing. One
    record is held at a time. Raises StoreError if a finished store or something else stands at
    `path`.
    """
    if finished_store(path, identity) is not None:
        raise StoreError(
            f"{path} is a finished store already; open it, or choose another path",
            code="E-STORE-FINISHED",
        )
    layout = lay_out(shapes, shard_records)
    with StoreWriter(path, identity, layout) as writer:
        for shard in writer.pending:
            with ShardTransaction(path, identity, shard_records, shard, libraries={}) as files:
                rows = [
                    _append(files, identity, shard, position, read(image_id))
                    for position, image_id in enumerate(shard.ids)
                ]
                files.commit(tuple(rows))
        return writer.finish()


def _append(
    files: ShardTransaction,
    identity: Identity,
    shard: Shard,
    position: int,
    grid: np.ndarray | None,
) -> IndexRow:
    image_id, shape = shard.ids[position], str(shard.shape)
    row = shard.rows[position]
    if grid is None:
        status, reason = Status.MISSING, "no such file"
        return IndexRow(image_id, status, reason, shape, row, 0, 0, "", image_id, "")
    content = as_bytes(np.ascontiguousarray(grid, identity.numpy_dtype))
    encoded = {"grid": encode(identity.codec, content)}
    files.append(row - shard.first_row, encoded)
    check = checksum(encoded.values())
    return IndexRow(image_id, Status.OK, "", shape, row, 0, 0, "", image_id, check)
