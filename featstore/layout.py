"""Which record goes into which row of which shard: a pure function of ids and grid shapes."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Self

from ..base.errors import UsageError
from .format import ZARR_GROUP, GridShape, canonical_json

NOTHING: Mapping[GridShape, int] = MappingProxyType({})


@dataclass(frozen=True)
class Shard:
    """One file of `grid` records, and its like of `pooled` vectors: what one task writes.

    ::

        rows of 14x14/grid   0 ... 127 | 128 ... 255 | 256 ... 300
        shard index               0    |      1      |      2        (the last is short)
    """

    number: int  # among the shards of one run; names the receipt
    shape: GridShape
    index: int  # in the arrays of this shape
    first_row: int
    records: int  # rows that it covers, gaps included
    ids: tuple[str, ...]
    rows: Sequence[int]  # of the ids; a row that no id has is a gap

    def path(self, array: str) -> str:
        """Return the shard's file of `array` ("grid" or "pooled"), relative to the store."""
        return shard_path(self.shape, array, self.index)


@dataclass(frozen=True)
class Layout:
    """The shards that one run writes, of `shard_records` records each."""

    shard_records: int
    shards: tuple[Shard, ...]

    @property
    def records(self) -> dict[GridShape, int]:
        """Return the length that the arrays of each grid shape need."""
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
            digest.update(canonical_json([*place, shard.ids, rows]))
        return digest.hexdigest()


def is_written_again(shard: Shard, lengths: Mapping[str, int]) -> bool:
    """Return whether a shard lies in arrays that have these lengths, {grid shape: rows}, already."""
    return shard.first_row < lengths.get(str(shard.shape), 0)


def shard_path(shape: GridShape | str, array: str, index: int) -> str:
    """Return where shard `index` of an array lies, relative to the store."""
    zeros = ".0.0.0" if array == "grid" else ".0"
    return f"{ZARR_GROUP}/{shape}/{array}/c.{index}{zeros}"


def lay_out(
    shapes: Mapping[str, GridShape],
    shard_records: int,
    taken: Mapping[GridShape, int] = NOTHING,
    again: tuple[Shard, ...] = (),
) -> Layout:
    """Return the layout of `{image_id: grid shape}`: by shape, then ids sorted, then cut.

    It depends on nothing else, neither on devices nor on what is already written. In a store
    that is added to, `taken` rows of a shape are: new ones start in a shard of their own. The
    shards of `again` are written once more, where they are.
    """
    by_shape: dict[GridShape, list[str]] = {}
    for image_id in sorted(shapes):
        by_shape.setdefault(shapes[image_id], []).append(image_id)
    shards = [replace(shard, number=number) for number, shard in enumerate(again)]
    for shape in sorted(by_shape):
        ids = by_shape[shape]
        first_index = -(-taken.get(shape, 0) // shard_records)
        for index, start in enumerate(range(0, len(ids), shard_records), first_index):
            some = tuple(ids[start : start + shard_records])
            first_row = index * shard_records
            rows = range(first_row, first_row + len(some))
            shards.append(Shard(len(shards), shape, index, first_row, len(some), some, rows))
    return Layout(shard_records, tuple(shards))


MAX_PARTS = 100_000
TEXT = re.compile(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})")
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
        match = TEXT.fullmatch(text)
        part = cls(*map(int, match.groups())) if match else None
        if part is None or not part.number <= part.of <= MAX_PARTS:
            raise UsageError(
                f"--shard-range must be K/N, part K of N, with K from 1 to N, like 3/16; "
                f"got {text!r:.80}"
            )
        return part

    def shards(self, count: int) -> range:
        """Return the numbers of this part's shards among `count`.

        The parts lie one after another, share no shard and leave none out; one has at most one
        shard more than another.

        >>> [list(Part(k, 3).shards(7)) for k in (1, 2, 3)]
        [[0, 1], [2, 3], [4, 5, 6]]
        """
        return range((self.number - 1) * count // self.of, self.number * count // self.of)

    @property
    def lock_name(self) -> str:
        """Return the file in the journal that says who writes this part."""
        return f"part-{self.number}-of-{self.of}.lock"

    @classmethod
    def of_lock(cls, name: str) -> Self | None:
        """Return the part whose lock a file of this name is, if it is one."""
        match = LOCK_NAME.fullmatch(name)
        return cls(*map(int, match.groups())) if match else None


def part_with(shard: int, count: int, of: int) -> Part:
    """Return which of `of` parts has shard number `shard` among `count`."""
    return Part(((shard + 1) * of - 1) // count + 1, of)
