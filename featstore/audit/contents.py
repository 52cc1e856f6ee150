"""What a store is compared with, wherever it is: problems, the index, and the records of a shard."""

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
from ...base.files import oddity, read_at
from ...base.jsonio import parse_json
from ...base.text import counted, is_url
from ..geometry import GridShape
from ..identity import Identity
from ..layout import ODD_REMEDY, SHARD_PATH, STORE_JSON, TableName, table_file
from ..lookup import LookupBuilder, Status, lookup_bytes
from ..metadata import store_digest
from ..shards import (
    ABSENT,
    CRC_BYTES,
    SHA_BYTES,
    ShardRow,
    as_bytes,
    opened,
    read_index,
    read_record,
)
from ..store import FeatureStore
from ..tables import FROM_SOURCE, IndexRow, index_lines

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


def croissant_problem(content: bytes, sha256: str) -> str | None:
    """Return what is wrong with a croissant.json beside a store.json with this sha256.

    store.json cannot list it, because it has the sha256 of store.json itself.
    """
    try:
        files: Any = parse_json(content)["distribution"]
        hashes = [file.get("sha256") for file in files if file.get("name") == STORE_JSON]
    except (ValueError, TypeError, KeyError, AttributeError):
        return "is not a Croissant description"
    if any(each != sha256 for each in hashes):
        return f"describes another {STORE_JSON} (sha256)"
    return None


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
