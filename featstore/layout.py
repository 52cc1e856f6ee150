"""Names of the files of a store, checks of what they are, and the row of each record in its shard.

Paths are relative to the store. The layout of a run is a pure function of ids and grid shapes.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..base.errors import CorruptStoreError, UsageError
from ..base.files import is_plain, oddity, read_bytes
from ..base.jsonio import canonical_json
from .geometry import GridShape

STORE_JSON = "store.json"
ZARR_GROUP = "features.zarr"
JOURNAL = "journal"
PLAN = "plan.json"  # in the journal

TableName = Literal["index", "shards", "lookup"]
TABLES: dict[TableName, str] = {"index": "parquet", "shards": "parquet", "lookup": "bin"}  # suffix
TABLE_FILE = re.compile(r"(index|shards)(\.[1-9][0-9]*)?\.parquet|lookup(\.[1-9][0-9]*)?\.bin")

NUMBER = "0|[1-9][0-9]{0,11}"
# The dimensions of a record of each array. A shard's key has a zero for each of them.
RECORD_DIMS = {"grid": 3, "pooled": 1, "boxes": 2, "classes": 1, "scores": 1}
ARRAY = "|".join(RECORD_DIMS)
SHARD_PATH = re.compile(
    rf"{re.escape(ZARR_GROUP)}/(?P<shape>[0-9]+x[0-9]+)/"
    rf"(?P<array>{ARRAY})/c\.(?P<number>{NUMBER})(\.0){{1,3}}"
)
ZARR_JSON = re.compile(rf"{re.escape(ZARR_GROUP)}/([0-9]+x[0-9]+/(({ARRAY})/)?|scale/)?zarr\.json")
# Files for people that a store may have; in the folder `documents` they have any plain name.
DOCUMENTS = "documents"
SIGNATURES = ("store.json.minisig", "store.json.sig")
CROISSANT = "croissant.json"  # has the sha256 of store.json, like a signature
DOCUMENT = re.compile(
    r"^(README\.md|LICENSE|CITATION\.cff|croissant\.json|documents/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99})\Z"
)
MAX_DOCUMENTS = 1000
MAX_DOCUMENT_BYTES = 1 << 30

ODD_REMEDY = {
    "is a symbolic link": "put the file or folder that it leads to in its place",
    "is a folder": "move it out of the store",
    "is a pipe or a device": "remove it",
}


def table_file(table: TableName, generation: int) -> str:
    """Return the file of a table; each update of a store writes its own beside the old ones.

    >>> table_file("index", 0), table_file("lookup", 2)
    ('index.parquet', 'lookup.2.bin')
    """
    return f"{table}{f'.{generation}' if generation else ''}.{TABLES[table]}"


def is_table_file(name: str) -> bool:
    """Return whether `name` is what `table_file` gives for some table and generation."""
    return TABLE_FILE.fullmatch(name) is not None


def shard_path(shape: GridShape | str, array: str, index: int) -> str:
    """Return the file of shard `index` of an array, one of RECORD_DIMS."""
    return f"{ZARR_GROUP}/{shape}/{array}/c.{index}{'.0' * RECORD_DIMS[array]}"


def check_folders(store: Path, shapes: Iterable[str], arrays: tuple[str, ...]) -> None:
    """Raise CorruptStoreError unless the folders of the store are folders: links lead anywhere."""
    folders = [ZARR_GROUP]
    for shape in shapes:
        folders += [f"{ZARR_GROUP}/{shape}"]
        folders += [f"{ZARR_GROUP}/{shape}/{array}" for array in arrays]
    for folder in folders:
        check_folder(store / folder)


def check_folder(path: Path) -> None:
    """Raise CorruptStoreError if something other than a folder exists at `path`."""
    odd = "is a file" if is_plain(path) else oddity(path)
    if odd and odd != "is a folder":
        raise _odd(path, f"{odd}; put the folder itself in its place")


def require_outside_stores(path: Path) -> None:
    """Raise UsageError if `path` is inside a store, where `clipfeat store verify` finds its files."""
    for folder in path.resolve().parents:
        if is_plain(folder / STORE_JSON):
            raise UsageError(
                f"{path} is inside the store {folder}; choose another folder",
                code="E-STORE-INSIDE",
            )


def check_plain(paths: Iterable[Path]) -> None:
    """Raise CorruptStoreError if something other than a plain file exists at one of `paths`."""
    for path in paths:
        odd = oddity(path)
        if odd:
            raise _odd(path, f"{odd}; {ODD_REMEDY[odd]}")


def has_content(path: Path, content: bytes) -> bool:
    """Return whether a plain file has this content; no more of it is read than that."""
    try:
        return read_bytes(path, len(content)) == content
    except OSError:
        return False


def _odd(path: Path, problem: str) -> CorruptStoreError:
    return CorruptStoreError(
        f"{path}: {problem}: a store holds only folders and plain files",
        code="E-STORE-LINK" if path.is_symlink() else "E-STORE-FILE",
    )


class Ids(Sequence[str]):
    """Ids in an Arrow column, or in a slice of one: a third of the memory of Python's texts."""

    def __init__(self, column: pa.Array):
        self.column: pa.Array = column  # of string or large_string: all may exceed 2 GiB

    @classmethod
    def of(cls, ids: Iterable[str]) -> Self:
        """Return `ids`, which must be UTF-8, in a column of their own."""
        return cls(pa.array(list(ids), pa.large_string()))

    def __len__(self) -> int:
        return len(self.column)

    def __iter__(self) -> Iterator[str]:
        return iter(self.column.to_pylist())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> "str | Self":
        if isinstance(index, slice):
            return type(self)(self.column[index])
        return self.column[index].as_py()

    def find(self, ids: pa.Array) -> np.ndarray:
        """Return the position of each of `ids`, -1 for one that is not here; both are sorted."""
        if not len(ids):
            return np.zeros(0, int)
        first, end = bisect_left(self, ids[0].as_py()), bisect_right(self, ids[-1].as_py())
        options = pc.SetLookupOptions(self.column[first:end])
        at = pc.call_function("index_in", [ids.cast(self.column.type)], options)
        return at.fill_null(-1 - first).to_numpy() + first

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ids) and self.column.equals(other.column.cast(self.column.type))

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).of, (list(self),)  # Arrow would send the whole column with a slice


@dataclass(frozen=True)
class Grids:
    """The grid shape of each id, by columns."""

    ids: Ids  # sorted, unique
    shapes: tuple[GridShape, ...]  # distinct
    numbers: np.ndarray  # (id,) of its shape among these

    @classmethod
    def of(cls, shapes: Mapping[str, GridShape]) -> Self:
        """Return `{image_id: grid shape}` as columns."""
        distinct = {shape: number for number, shape in enumerate(dict.fromkeys(shapes.values()))}
        ids = sorted(shapes)
        return cls(Ids.of(ids), tuple(distinct), np.array([distinct[shapes[i]] for i in ids], int))

    def subset(self, chosen: np.ndarray) -> Self:
        """Return those of which `chosen`, (id,) bool, is true."""
        ids = Ids(self.ids.column.filter(pa.array(chosen)))
        return type(self)(ids, self.shapes, self.numbers[chosen])


@dataclass(frozen=True)
class Shard:
    """One file of `grid` records, and the files of the other arrays beside it: one task writes all.

    ::

        rows of 14x14/grid   0 ... 127 | 128 ... 255 | 256 ... 300
        shard index               0    |      1      |      2        (the last is short)
    """

    number: int  # among the shards of one run; names the receipt
    shape: GridShape
    index: int  # in the arrays of this shape
    first_row: int
    records: int  # rows that it covers, gaps included
    ids: Ids
    rows: Sequence[int]  # of the ids; a row without an id is a gap

    def path(self, array: str) -> str:
        """Return the shard's file of `array`."""
        return shard_path(self.shape, array, self.index)

    def has_same_records(self, other: "Shard") -> bool:
        """Return whether both shards have the same ids in the same rows."""
        return self.ids == other.ids and list(self.rows) == list(other.rows)


@dataclass(frozen=True)
class Layout:
    """The shards that one run writes, of `shard_records` records each."""

    shard_records: int
    shards: tuple[Shard, ...]

    @property
    def records(self) -> dict[GridShape, int]:
        """The length that the arrays of each grid shape need."""
        lengths: dict[GridShape, int] = {}
        for shard in self.shards:
            end = shard.first_row + shard.records
            lengths[shard.shape] = max(end, lengths.get(shard.shape, 0))
        return lengths

    def fingerprint(self) -> str:
        """Return a sha256 that two layouts share only if they place the same ids alike."""
        digest = hashlib.sha256(canonical_json(self.shard_records))
        for shard in self.shards:
            rows = [row - shard.first_row for row in shard.rows]
            place = [str(shard.shape), shard.first_row, shard.records]
            digest.update(canonical_json([*place, list(shard.ids), rows]))
        return digest.hexdigest()


def is_written_again(shard: Shard, lengths: Mapping[str, int]) -> bool:
    """Return whether a shard is part of arrays that already have these lengths, {shape: rows}."""
    return shard.first_row < lengths.get(str(shard.shape), 0)


NOTHING: Mapping[GridShape, int] = MappingProxyType({})


def lay_out(
    grids: Grids,
    shard_records: int,
    taken: Mapping[GridShape, int] = NOTHING,
    again: tuple[Shard, ...] = (),
) -> Layout:
    """Return the layout of ids with their grid shapes: by shape, then ids sorted, then cut.

    It depends on nothing else, neither on devices nor on what is already written. For a store
    that is added to, `taken` are the rows that a shape already has: new rows start in a shard of
    their own. The shards of `again` are rewritten in their old place.
    """
    shards = [replace(shard, number=number) for number, shard in enumerate(again)]
    ids = grids.ids.column.take(pa.array(np.argsort(grids.numbers, kind="stable")))
    ends = np.cumsum(np.bincount(grids.numbers, minlength=len(grids.shapes))).tolist()
    for shape, begin, end in sorted(zip(grids.shapes, [0, *ends], ends, strict=False)):
        first_index = -(-taken.get(shape, 0) // shard_records)
        for index, start in enumerate(range(begin, end, shard_records), first_index):
            some = Ids(ids[start : min(start + shard_records, end)])
            first_row = index * shard_records
            rows = range(first_row, first_row + len(some))
            shards.append(Shard(len(shards), shape, index, first_row, len(some), some, rows))
    return Layout(shard_records, tuple(shards))


MAX_PARTS = 100_000
PART = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")
LOCK_NAME = re.compile(r"part-([1-9][0-9]{0,5})-of-([1-9][0-9]{0,5})\.lock")


@dataclass(frozen=True, order=True)
class Part:
    """One of `of` runs that together write all shards, counted from 1; its text is `3/16`."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the part that `text` names, raising UsageError unless it is like `3/16`."""
        match = PART.fullmatch(text)
        part = cls(*map(int, match.groups())) if match else None
        if part is None or not part.number <= part.of <= MAX_PARTS:
            raise UsageError(
                f"--shard-range must be K/N, part K of N, with K from 1 to N, like 3/16; "
                f"got {text!r:.80}",
                code="E-PLAN-PART",
            )
        return part

    def shards(self, count: int) -> range:
        """Return the numbers of this part's shards among `count`.

        The parts follow one another, share no shard and omit none; their sizes differ by at most
        one shard.

        >>> [list(Part(k, 3).shards(7)) for k in (1, 2, 3)]
        [[0, 1], [2, 3], [4, 5, 6]]
        """
        return range((self.number - 1) * count // self.of, self.number * count // self.of)

    @property
    def lock_name(self) -> str:
        """The file in the journal that says who writes this part."""
        return f"part-{self.number}-of-{self.of}.lock"

    @classmethod
    def of_lock(cls, name: str) -> Self | None:
        """Return the part whose lock file has this name, None for another file."""
        match = LOCK_NAME.fullmatch(name)
        return cls(*map(int, match.groups())) if match else None


def part_with(shard: int, count: int, of: int) -> Part:
    """Return which of `of` parts has shard number `shard` among `count`."""
    return Part(((shard + 1) * of - 1) // count + 1, of)
