"""What is wrong with a store: `clipfeat store verify`, in three depths."""

# pyarrow has no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false

import enum
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ...base.errors import CorruptStoreError, StoreError
from ...base.files import is_plain, oddity, read_at, sha256_file
from ...base.text import counted, is_url
from ..geometry import GridShape
from ..identity import Identity
from ..layout import (
    JOURNAL,
    ODD_REMEDY,
    SHARD_PATH,
    SIGNATURES,
    STORE_JSON,
    TABLES,
    TableName,
    has_content,
    table_file,
)
from ..lookup import LookupBuilder, Status, lookup_bytes
from ..metadata import is_written_canonically, store_digest
from ..quantise import SCALE_FILE
from ..shards import (
    ABSENT,
    CRC_BYTES,
    SHA_BYTES,
    ShardRow,
    as_bytes,
    check_files,
    check_shards,
    opened,
    read_index,
    read_record,
    shard_size_problem,
)
from ..store import FeatureStore
from ..tables import FROM_SOURCE, IndexRow, index_lines, table_size_problem
from ..writing.describe import document_names
from ..writing.journal import Journal

REPAIR = "type: clipfeat store repair"
COPY = "copy this file again from its source"
DESCRIBE = COPY + ", or type clipfeat store describe, which lists the documents as they are"
REDO = "type: clipfeat store repair, then the clipfeat extract command again; or " + COPY

Rows = dict[int, IndexRow]  # by position in the shard


class Depth(enum.StrEnum):
    """How much of a store is read."""

    QUICK = "quick"  # sizes and presence
    FULL = "full"  # every byte, against its sha256
    DEEP = "deep"  # every record as well: checksum, no NaN or Inf, status


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a store."""

    path: str  # relative to the store
    problem: str
    ids: tuple[str, ...]  # whose records it affects
    remedy: str

    def to_json(self) -> dict[str, Any]:
        """Return the problem for scripts; `shard` is null if another file is affected."""
        shard = self.path if SHARD_PATH.fullmatch(self.path) else None
        return {**asdict(self), "shard": shard}

    def text(self) -> str:
        """Return the problem as a line."""
        affected = f" ({counted(len(self.ids), 'record')})" if self.ids else ""
        return f"{self.path}: {self.problem}{affected}; {self.remedy}"


def verify(path: str | Path, depth: Depth = Depth.FULL) -> list[Problem]:
    """Return what is wrong with the store at `path`; nothing, if it is the one that was written.

    Checks that every file exists at its size, and that no other files do (quick). Hashes every file
    (sha256), compares the Zarr metadata with what the identity implies and the lookup with the
    index, and computes the digest again (full). Decodes every record (deep). Raises StoreError if
    there is no store at `path`, or one of another format version.

    Of a store behind a URL, files that do not belong are not found: nothing lists them.
    """
    depth = Depth(depth)
    if isinstance(path, str) and is_url(path):
        from .remote import verify_remote

        return verify_remote(path, depth)
    path = Path(path)
    try:
        store = FeatureStore.open(path)
        shards = store.shards
    except CorruptStoreError as error:
        return [error_problem(error, str(path.absolute()))]
    problems = list(_check_other_files(store))
    if depth == Depth.QUICK:
        problems += _check_presence(store)
        sizes = ((shard.path, shard_size_problem(path, shard)) for shard in shards)
        return problems + [_shard_problem(name, problem) for name, problem in sizes if problem]
    index = store.table_path("index").name
    problems += _check_tables(store)
    problems += _check_documents(store)
    problems += _check_zarr_metadata(store)
    broken = {
        shard.path: problem for shard, problem in check_files(path, shards, "verify") if problem
    }
    if all(problem.path != index for problem in problems):
        problems += check_index(store)
    ids: dict[str, tuple[str, ...]] = {}
    if all(problem.path != index for problem in problems):
        if depth == Depth.DEEP:
            broken.update(check_records(store, skip=set(broken)))
        ids = ids_by_shard(store, set(broken))
    return problems + [
        _shard_problem(name, problem, ids.get(name, ())) for name, problem in broken.items()
    ]


def _shard_problem(name: str, problem: str, ids: tuple[str, ...] = ()) -> Problem:
    return Problem(name, problem, ids, ODD_REMEDY.get(problem, REDO))


def _file_problems(path: Path, name: str, remedy: str) -> Iterator[Problem]:
    """Yield a problem if the file of this name is missing, or is not a plain file."""
    odd = oddity(path)
    if odd:
        yield Problem(name, odd, (), ODD_REMEDY[odd])
    elif not is_plain(path):
        yield Problem(name, "the file is missing", (), remedy)


def error_problem(error: Exception, location: str) -> Problem:
    """Return an error of reading as a problem of the file that its text names first."""
    name, problem = STORE_JSON, str(error)
    inside, colon, rest = problem.removeprefix(f"{location}/").partition(": ")
    if colon and inside != problem.partition(": ")[0]:
        name, problem = inside, rest
    odd = None if is_url(location) else oddity(Path(location) / name)
    if odd:
        return Problem(name, odd, (), ODD_REMEDY[odd])
    return Problem(name, problem.removesuffix(f"; {FROM_SOURCE}"), (), COPY)


def _check_other_files(store: FeatureStore) -> Iterator[Problem]:
    """Yield the files that neither the packing list nor the format mentions."""
    journal = Journal(store.path)
    if journal.folder.is_dir() or journal.folder.is_symlink():
        yield from _check_journal(store, journal)
    known = {STORE_JSON, *store.zarr_metadata()}
    known.update(store.table_path(table).name for table in TABLES)
    known.update(shard.path for shard in store.shards)
    known.update(document_names(store.path))
    known.update(SIGNATURES)
    if store.scale is not None:
        known.add(SCALE_FILE)
    for path in sorted(store.path.rglob("*")):
        name = path.relative_to(store.path).as_posix()
        is_file = path.is_symlink() or not path.is_dir()
        folder, _, below = name.partition("/")
        is_journals = folder == JOURNAL and (journal.owns(below) if below else path.is_symlink())
        if is_file and name not in known and not is_journals:
            yield Problem(name, "does not belong to the store", (), "delete it")


def _check_journal(store: FeatureStore, journal: Journal) -> Iterator[Problem]:
    if journal.folder.is_symlink():
        yield Problem(JOURNAL, "is a symbolic link", (), "remove it: a store contains no links")
        return
    names = [path.name for path in journal.folder.iterdir()]
    if names and not any(map(journal.owns, names)):
        return  # the files of a person, each of which is a problem of its own
    try:
        is_update = journal.updates(store.digest)
    except StoreError:
        is_update = False  # without a readable plan no run can continue it
    problem = "a run that was killed after it had finished the store has left a journal"
    if is_update:
        problem = "an extraction that adds to the store was interrupted, or is running"
    remedy = "run the clipfeat extract command again to finish it, or: clipfeat store repair"
    yield Problem(JOURNAL, problem, (), remedy)


def _check_presence(store: FeatureStore) -> Iterator[Problem]:
    """Yield the tables and zarr.json files that are missing."""
    for name in [*(store.table_path(table).name for table in TABLES), *store.zarr_metadata()]:
        yield from _file_problems(store.path / name, name, REPAIR if "/" in name else COPY)


def _check_tables(store: FeatureStore) -> Iterator[Problem]:
    """Hash the tables, and compare the bytes of store.json with those of its content."""
    if not is_written_canonically(store.path):
        yield Problem(STORE_JSON, "is not the canonical form of its content", (), COPY)
    for table in TABLES:
        path = store.table_path(table)
        remedy = REPAIR if table == "lookup" else COPY
        problems = list(_file_problems(path, path.name, remedy))
        if not problems and table == "index":
            too_large = table_size_problem(path, store.metadata.id_count)
            problems = [Problem(path.name, too_large, (), COPY)] if too_large else []
        yield from problems
        if not problems and sha256_file(path) != store.metadata.tables[table]:
            yield Problem(path.name, "sha256 is not the one in store.json", (), remedy)


def _check_documents(store: FeatureStore) -> Iterator[Problem]:
    """Hash the documents that store.json lists; others may lie there too."""
    for name, sha256 in store.metadata.documents.items():
        path = store.path / name
        problems = list(_file_problems(path, name, DESCRIBE))
        yield from problems
        if not problems and sha256_file(path) != sha256:
            yield Problem(name, "sha256 is not the one in store.json", (), DESCRIBE)


def _check_zarr_metadata(store: FeatureStore) -> Iterator[Problem]:
    """Compare each zarr.json with the one that the metadata of the store implies."""
    for name, content in store.zarr_metadata().items():
        odd = oddity(store.path / name)
        if odd:
            yield Problem(name, odd, (), ODD_REMEDY[odd])
        elif not has_content(store.path / name, content):
            yield Problem(name, "is not what store.json implies", (), REPAIR)


def check_index(store: FeatureStore) -> Iterator[Problem]:
    """Compare what follows from the index with store.json, the lookup and the digest."""
    lookup = LookupBuilder(map(str, store.grid_shapes), store.identity.recipe)
    counts: Counter[str] = Counter()
    coverage = _Coverage(store)

    def observed_lines() -> Iterator[bytes]:
        for batch in store.index_batches():
            lookup.add(batch)
            counts.update(batch.column("status").to_pylist())
            coverage.add(batch)
            yield index_lines(batch)

    try:
        digest = store_digest(store.identity, store.shards, observed_lines())
    except CorruptStoreError as error:
        yield error_problem(error, store.location)
        return
    except (StoreError, ValueError, KeyError, OverflowError) as error:
        yield Problem(table_name(store, "index"), f"a row is invalid: {error}", (), COPY)
        return
    if digest != store.digest:
        problem = f"digest is {store.digest}, but the tables give {digest}"
        yield Problem(STORE_JSON, problem, (), f"copy {STORE_JSON} and the tables again")
    if {s: n for s, n in store.metadata.counts.items() if n} != counts:
        yield Problem(STORE_JSON, "counts are not those of the index", (), COPY)
    if store.metadata.areas != lookup.areas:
        yield Problem(STORE_JSON, "areas are not those of the index and the recipe", (), COPY)
    expected = hashlib.sha256(lookup_bytes(lookup.columns())).hexdigest()
    if expected != store.metadata.tables["lookup"]:
        yield Problem(table_name(store, "lookup"), "is not that of the index", (), REPAIR)
    yield from coverage.problems()


def table_name(store: FeatureStore, table: TableName) -> str:
    """Return the name of the file of a table."""
    return table_file(table, store.metadata.generation)


NO_ROWS = np.zeros(0, bool)  # of a shard that is not on the packing list


class _Coverage:
    """Checks that each id has its own row, in a shard that is on the packing list."""

    def __init__(self, store: FeatureStore):
        self._index = table_name(store, "index")
        self._lengths = store.metadata.grid_shapes
        self._shard_records = store.metadata.shard_records
        self._taken: dict[tuple[str, int], np.ndarray] = {}  # by shape and first row
        self._without_row: list[str] = []  # ids
        self._ends = dict.fromkeys(self._lengths, 0)
        arrays = Counter((s.shape, s.first_row, s.records) for s in store.shards)
        for (shape, first_row, records), n in arrays.items():
            self._ends[shape] = max(self._ends[shape], first_row + records)
            if n == len(store.identity.arrays):
                self._taken[shape, first_row] = np.zeros(records, bool)

    def add(self, rows: pa.RecordBatch) -> None:
        """Mark the rows of some ids as taken."""
        row = rows.column("row").to_numpy()
        position = row % self._shard_records
        shards = zip(rows.column("shape").to_pylist(), (row - position).tolist(), strict=True)
        numbers_in: dict[tuple[str, int], list[int]] = defaultdict(list)
        for number, shard in enumerate(shards):
            numbers_in[shard].append(number)
        for shard, numbers in numbers_in.items():
            taken = self._taken.get(shard, NO_ROWS)
            has_row = np.zeros(len(numbers), bool)
            positions, first = np.unique(position[numbers], return_index=True)
            inside = positions < len(taken)
            has_row[first[inside]] = ~taken[positions[inside]]
            taken[positions[inside]] = True
            others = (numbers[k] for k in np.flatnonzero(~has_row))
            self._without_row += (rows.column("image_id")[number].as_py() for number in others)

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong once all ids were added."""
        if self._without_row:
            problem = "ids do not have their own row in a shard of the packing list"
            yield Problem(self._index, problem, tuple(self._without_row), COPY)
        if self._ends != self._lengths:
            yield Problem(STORE_JSON, "grid_shapes are not those of the packing list", (), COPY)


def ids_by_shard(store: FeatureStore, paths: set[str]) -> dict[str, tuple[str, ...]]:
    """Return the ids whose records are in each shard file of `paths`."""
    shard_records = store.metadata.shard_records
    at: dict[tuple[str, int], list[str]] = defaultdict(list)
    for shard in store.shards:
        if shard.path in paths:
            at[shard.shape, shard.first_row // shard_records].append(shard.path)
    ids: dict[str, list[str]] = {path: [] for path in paths}
    if paths:
        for row in store.index:
            for path in at.get((row.shape, row.row // shard_records), ()):
                ids[path].append(row.image_id)
    return {path: tuple(some) for path, some in ids.items()}


def check_records(store: FeatureStore, skip: set[str]) -> Iterator[tuple[str, str]]:
    """Yield (path, problem) for each shard with a record that is not as the index says.

    Every record is decoded, its checksum verified and its numbers checked; each thread holds one.
    The shards of `skip` are omitted.
    """
    rows = rows_by_shard(store)

    def find_problem(shard: ShardRow) -> str | None:
        path = f"{store.path}/{shard.path}"
        return record_problem(store, path, shard, rows[shard.shape, shard.first_row])

    shards = [shard for shard in store.shards if shard.path not in skip]
    for shard, problem in check_shards(shards, find_problem, "decode"):
        if problem:
            yield shard.path, problem


def rows_by_shard(store: FeatureStore) -> dict[tuple[str, int], Rows]:
    """Return the index rows of each shard, by (grid shape, first row)."""
    rows: dict[tuple[str, int], Rows] = defaultdict(dict)
    for row in store.index:
        position = row.row % store.metadata.shard_records
        rows[row.shape, row.row - position][position] = row
    return rows


def record_problem(store: FeatureStore, path: str, shard: ShardRow, rows: Rows) -> str | None:
    """Return the first thing that is wrong with the records of a shard, whose file is `path`."""
    identity = store.identity
    name = shard.path.split("/")[-2]
    array = identity.array(name, GridShape.parse(shard.shape))
    record = np.empty(math.prod(array.shape), array.dtype)
    try:
        with opened(path) as descriptor:
            index = read_index(descriptor, store.metadata.shard_records)
            for position, (offset, length) in enumerate(index.tolist()):
                row = rows.get(position)
                if row is None:  # a gap; an id may have had its record before
                    continue
                is_ok = row.status == Status.OK
                if is_ok != (offset != ABSENT):
                    state = "absent" if offset == ABSENT else "present"
                    return f"record {position} is {state}, but it is {row.status} in the index"
                if is_ok:
                    check = _hash_of(row.checksum, CRC_BYTES, identity, name)
                    entry = (offset, length)
                    out = as_bytes(record)
                    read_record(descriptor, entry, identity.codec, check, out, verify=True)
                    if not _has_sha256(descriptor, entry, row, identity, name):
                        return f"record {position} ({row.image_id}) is not that of record_sha256"
                    if not np.isfinite(record).all():
                        return f"record {position} ({row.image_id}) holds NaN or Inf"
    except CorruptStoreError as error:
        return str(error)
    return None


def _has_sha256(
    descriptor: int, entry: tuple[int, int], row: IndexRow, identity: Identity, array: str
) -> bool:
    """Return whether the bytes of a record are those whose sha256 the index has."""
    offset, length = entry
    digest = hashlib.sha256(read_at(descriptor, length, offset)).digest()
    return digest[:SHA_BYTES] == _hash_of(row.record_sha256, SHA_BYTES, identity, array)


def _hash_of(digits: str, size: int, identity: Identity, array: str) -> bytes:
    """Return the bytes of one array among the hex digits of all, `size` bytes each."""
    start = 2 * size * identity.arrays.index(array)
    return bytes.fromhex(digits[start : start + 2 * size])
