"""Remove what a finished store needs no more."""

from pathlib import Path

from ...base.files import fsync_folder, remove_temporaries
from ..format import TABLES, is_table_file
from ..store import FeatureStore
from .journal import Journal
from .lock import WriterLock


def finish_tidying(store: FeatureStore, *, break_lock: bool = False) -> None:
    """Remove what a run has left that was killed after it had finished the store, if anything."""
    journal = Journal(store.path)
    if not journal.folder.is_dir():
        return
    plan = journal.plan()
    if plan is None or plan["parent"] != store.digest:
        lock = WriterLock(journal.lock_path)
        lock.acquire(break_lock=break_lock)
        try:
            tidy(store.path)
        finally:
            lock.release()


def tidy(path: Path) -> None:
    """Remove what a finished store needs no more: tables of an earlier generation, the journal.

    The journal goes last, so that a run killed here is known to have something left to remove.
    """
    current = FeatureStore.open(path)
    tables = {current.table_path(table) for table in TABLES}
    for file in path.iterdir():
        if is_table_file(file.name) and file not in tables:
            file.unlink()
    remove_temporaries(path)
    journal = Journal(path)
    if journal.folder.is_dir():
        journal.remove()
    fsync_folder(path)
