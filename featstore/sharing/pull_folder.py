"""The folder that a pull writes to: what may be in it, and the plan of the pull in its journal."""

import os
from pathlib import Path

from ...base.errors import StoreError
from ...base.files import read_bytes, write_atomically
from ...base.jsonio import canonical_json
from ..layout import JOURNAL, PLAN, STORE_JSON
from ..metadata import read_metadata
from ..writing.commit import remove_leftovers
from ..writing.lock import StoreLock

MAX_PLAN_BYTES = 1 << 10  # of a pull


def is_finished(path: Path, digest: str) -> bool:
    """Return whether the store is there; StoreError if another one is."""
    if not os.path.lexists(path / STORE_JSON):
        return False
    stored = read_metadata(path)
    if stored.digest != digest:
        raise StoreError(
            f"{path} is another store, with the digest {stored.digest}; the one to pull has "
            f"{digest}; choose another folder",
            code="E-PULL-OTHER",
        )
    return True


def check_unfinished(path: Path) -> None:
    """Raise StoreError if `path` has files, and is not an unfinished store."""
    names = {file.name for file in path.iterdir()} if path.is_dir() else set[str]()
    if names and (JOURNAL not in names or (names != {JOURNAL} and not _plan_text(path))):
        raise StoreError(
            f"{path} has files that no pull has written; choose another folder, or empty this one",
            code="E-PULL-TARGET",
        )


def _plan_text(path: Path) -> bytes:
    """Return the plan in the journal of a store; nothing if there is none that a pull has written."""
    try:
        return read_bytes(path / JOURNAL / PLAN, MAX_PLAN_BYTES)
    except OSError:
        return b""


def write_plan(path: Path, digest: str) -> None:
    """Write what is being pulled into the journal, unless it is there; StoreError for another plan.

    It is not a plan that writers read, so `clipfeat extract` refuses the folder.
    """
    content = canonical_json({"pull": digest})
    plan = path / JOURNAL / PLAN
    if os.path.lexists(plan) and _plan_text(path) != content:
        raise StoreError(
            f"{path} is another store, which is not finished: its {JOURNAL}/{PLAN} is not that of the "
            f"digest {digest}; if the store at the URL has been updated, remove the folder and pull "
            f"again",
            code="E-PULL-PLAN",
        )
    if not os.path.lexists(plan):
        write_atomically(plan, content)


def remove_journal(path: Path, digest: str) -> None:
    """Remove the journal of a pull that was killed after its last step; not that of an update."""
    if _is_ours(path, digest):
        with StoreLock(path):
            if _is_ours(path, digest):
                remove_leftovers(path)


def _is_ours(path: Path, digest: str) -> bool:
    """Return whether the journal has the plan of a pull, or has lost it: it is removed first."""
    journal = path / JOURNAL
    if journal.is_symlink():
        return False
    is_removed = journal.is_dir() and not os.path.lexists(journal / PLAN)
    return is_removed or _plan_text(path) == canonical_json({"pull": digest})
