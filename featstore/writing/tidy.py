"""Remove what is needed no more: by a finished store, or by a run that is given up."""

import contextlib
from pathlib import Path

from ...base.files import fsync_folder, remove_plain, remove_temporaries
from ..format import TABLES, is_table_file
from ..store import FeatureStore
from .journal import Journal
from .run import Run
from .store_lock import StoreLock


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
