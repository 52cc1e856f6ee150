"""Remove what is broken in a store, so that the next extraction writes just that again."""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.files import is_temporary, oddity, remove_plain, sha256_file, write_atomically
from ..layout import (
    JOURNAL,
    SHARD_PATH,
    STORE_JSON,
    TABLES,
    ZARR_GROUP,
    ZARR_JSON,
    check_plain,
    is_table_file,
    table_file,
)
from ..lookup import LookupBuilder, lookup_bytes, lookup_size
from ..metadata import read_metadata
from ..store import FeatureStore
from ..tables import read_index
from ..writing.journal import Journal
from ..writing.lock import StoreLock
from .contents import Depth, Problem
from .verify import verify


@dataclass(frozen=True)
class Repair:
    """What was done about the problems of a store."""

    mended: tuple[str, ...]  # files that were written again, or removed as a writer's leftovers
    dropped: tuple[Problem, ...]  # shards whose file was removed: extract again
    left: tuple[Problem, ...]  # what no repair can mend

    def to_json(self) -> dict[str, Any]:
        """Return the same for scripts."""
        return {
            "mended": list(self.mended),
            "dropped": [problem.to_json() for problem in self.dropped],
            "left": [problem.to_json() for problem in self.left],
        }


def repair(path: str | Path, depth: Depth = Depth.FULL, *, break_lock: bool = False) -> Repair:
    """Remove broken shards and what an interrupted update left; rewrite what can be derived.

    The zarr.json files are derived from store.json, and the lookup from the index. The other
    records stay readable. Raises StoreError if there is no store, or if it is being written.
    """
    path, depth = Path(path), Depth(depth)
    if not (path / STORE_JSON).is_file():
        FeatureStore.open(path)  # raises an error that says what is there instead
    journal = Journal(path)
    journal.create()
    with StoreLock(path, break_lock=break_lock):
        try:
            mended = _mend_lookup(path)
            problems = [problem for problem in verify(path, depth) if problem.path != JOURNAL]
            return _mend(path, mended, problems)
        finally:
            journal.remove()  # while no other process writes: the next writer makes its own


def _mend_lookup(path: Path) -> list[str]:
    """Write the lookup again if it has changed: without it the store cannot be opened."""
    metadata = read_metadata(path)
    name = table_file("lookup", metadata.generation)
    lookup = path / name
    check_plain([lookup])
    ids = metadata.id_count
    has_size = lookup.exists() and lookup.stat().st_size == lookup_size(ids)
    if has_size and sha256_file(lookup) == metadata.tables["lookup"]:
        return []
    builder = LookupBuilder(metadata.grid_shapes, metadata.identity.recipe)
    index = path / table_file("index", metadata.generation)
    for batch in read_index(index, metadata.tables["index"], ids):
        builder.add(batch)
    write_atomically(lookup, lookup_bytes(builder.columns()))
    return [name]


def _mend(path: Path, mended: list[str], problems: list[Problem]) -> Repair:
    """Solve each problem, or leave it to a person; `mended` are files that were written before."""
    store = FeatureStore.open(path)
    metadata = store.zarr_metadata()
    shards = {shard.path for shard in store.shards}
    tables = {store.table_path(table).name for table in TABLES}
    dropped: list[Problem] = []
    left: list[Problem] = []
    for problem in problems:
        file = path / problem.path
        if oddity(file):
            left.append(problem)  # a link, a folder or a device, which no writer makes
        elif problem.path in shards:
            remove_plain(file)
            dropped.append(problem)
        elif problem.path in metadata:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, metadata[problem.path])
            mended.append(problem.path)
        elif problem.path not in tables and _is_leftover(problem.path):
            remove_plain(file)
            mended.append(problem.path)
        else:
            left.append(problem)
    return Repair(tuple(mended), tuple(dropped), tuple(left))


def _is_leftover(name: str) -> bool:
    """Return whether a file that does not belong to the store was left by a writer."""
    folders, _, last = name.rpartition("/")
    is_unfinished = is_temporary(last) and folders.split("/")[0] in ("", ZARR_GROUP)
    is_zarrs = any(pattern.fullmatch(name) for pattern in (SHARD_PATH, ZARR_JSON))
    return is_unfinished or is_zarrs or is_table_file(name)
