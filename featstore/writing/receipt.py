"""The receipt of a shard: proof that it is down, and what became of each id."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from ...base.parquet import MAX_TEXT
from ..disk.codecs import CRC_BYTES
from ..disk.lookup import SHAPE_BIT
from ..format import GridShape, IndexRow, ShardRow, Status, canonical_json, is_sha256
from ..layout import Shard
from .libraries import checked_libraries

# What reading a file of the journal raises if it is not one that a writer has left.
NOT_JSON = (OSError, ValueError, KeyError, TypeError, RecursionError)


MAX_RECEIPT_BYTES = 1 << 29
IMAGE_ID, SHAPE, ROW = map(IndexRow._fields.index, ("image_id", "shape", "row"))
STATUSES = {status.value for status in Status}
SHA256_DIGITS = 64
MOST_BYTES = 4  # of a character in UTF-8
HEX = re.compile("[0-9a-f]*")


def max_receipt_bytes(records: int) -> int:
    """Return how large the receipt of a shard of so many records may be.

    The texts of a record are of at most MAX_TEXT bytes each; JSON makes six of one at most.
    """
    return min(MAX_RECEIPT_BYTES, (1 << 20) + (records << 17))


@dataclass(frozen=True)
class Receipt:
    """Proof that a shard is down: its files with their hashes, and what became of each id."""

    shard: int
    files: tuple[ShardRow, ...]
    columns: tuple[tuple[Any, ...], ...]  # of index.parquet, a value for each id
    libraries: Mapping[str, str]  # of the process that wrote it: name to version

    @classmethod
    def of(
        cls,
        shard: int,
        files: tuple[ShardRow, ...],
        records: tuple[IndexRow, ...],
        libraries: Mapping[str, str],
    ) -> Self:
        """Return the receipt of a shard of these records, its rows of the index."""
        columns = tuple(zip(*records, strict=True)) or ((),) * len(IndexRow._fields)
        return cls(shard, files, columns, libraries)

    def to_json(self) -> bytes:
        return canonical_json(
            {
                "shard": self.shard,
                "files": self.files,
                "records": list(zip(*self.columns, strict=True)),
                "libraries": dict(self.libraries),
            }
        )

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Return the receipt that `to_json` gave; any other value raises one of NOT_JSON."""
        files = zip(*_columns(value["files"], ShardRow), strict=True)
        return cls(
            value["shard"],
            tuple(map(ShardRow._make, files)),
            _columns(value["records"], IndexRow),
            checked_libraries(value["libraries"]),
        )

    @property
    def records(self) -> Iterator[IndexRow]:
        """The rows of the index."""
        return map(IndexRow._make, zip(*self.columns, strict=True))

    @property
    def ids(self) -> tuple[str, ...]:
        return self.columns[IMAGE_ID]

    def described(self, shard_records: int, arrays: tuple[str, ...]) -> Shard:
        """Return the shard that this is the receipt of, as far as it says itself.

        Raises ValueError or StoreError for a receipt that no shard can have.
        """
        if not self.files:
            raise ValueError("no files")
        _, _, _, shape, first_row, records = self.files[0]
        rows = self.columns[ROW]
        index, remainder = divmod(first_row, shard_records)
        parsed = GridShape.parse(shape)
        shard = Shard(self.shard, parsed, index, first_row, records, self.ids, rows)
        within = 0 <= first_row < 1 << SHAPE_BIT and 1 <= records <= shard_records
        ends = (first_row - 1, *rows, first_row + records)
        if remainder or not within or any(a >= b for a, b in pairwise(ends)):
            raise ValueError("rows outside of the shard")
        if not self.is_for(shard, arrays):
            raise ValueError("files or rows of another shard")
        return shard

    def is_for(self, shard: Shard, arrays: tuple[str, ...]) -> bool:
        """Return whether this is the receipt of `shard`, and not of another plan."""
        shape = str(shard.shape)
        place = (shape, shard.first_row, shard.records)
        return (
            type(self.shard) is int
            and self.shard == shard.number
            and [(file.path, file[3:]) for file in self.files]
            == [(shard.path(array), place) for array in arrays]
            and (self.ids, self.columns[ROW]) == (shard.ids, tuple(shard.rows))
            and set(self.columns[SHAPE]) <= {shape}
            and all(0 <= file.bytes < 1 << 63 and is_sha256(file.sha256) for file in self.files)
            and _are_possible(self.columns, len(arrays))
        )


def _columns(rows: Any, kind: type[IndexRow] | type[ShardRow]) -> tuple[tuple[Any, ...], ...]:
    """Return rows as columns, raising ValueError or TypeError for values of other types."""
    kinds = list(kind.__annotations__.values())
    columns = tuple(zip(*rows, strict=True)) or ((),) * len(kinds)
    for column, wanted in zip(columns, kinds, strict=True):
        if not {wanted}.issuperset(map(type, column)):
            raise ValueError(f"not the values of a {kind.__name__}")
    return columns


def _are_possible(columns: tuple[tuple[Any, ...], ...], arrays: int) -> bool:
    """Return whether rows of a receipt can stand in an index of a store of so many arrays."""
    _, statuses, _, _, _, widths, heights, hashes, _, checks = columns
    sides = (*widths, *heights)
    expected = {Status.OK.value: 2 * CRC_BYTES * arrays}
    return (
        all(_is_text(column) for column in columns if column and isinstance(column[0], str))
        and STATUSES.issuperset(statuses)
        and (not sides or 0 <= min(sides) <= max(sides) < 1 << 31)
        and {0, SHA256_DIGITS}.issuperset(map(len, hashes))
        and HEX.fullmatch("".join(hashes) + "".join(checks)) is not None
        and list(map(len, checks)) == [expected.get(status, 0) for status in statuses]
    )


def _is_text(column: tuple[str, ...]) -> bool:
    """Return whether a table can hold these texts."""
    try:
        "".join(column).encode()
    except UnicodeEncodeError:
        return False
    if MOST_BYTES * max(map(len, column)) <= MAX_TEXT:
        return True
    return max(len(text.encode()) for text in column) <= MAX_TEXT
