"""The receipt of a shard: proof that it is down, and what became of each id."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...base.files import open_plain
from ..disk.codecs import CRC_BYTES
from ..disk.lookup import SHAPE_BIT
from ..format import GridShape, IndexRow, ShardRow, Status, canonical_json
from ..layout import Shard
from .libraries import checked_libraries

# What reading a file of the journal raises if it is not one that a writer has left.
NOT_JSON = (OSError, ValueError, KeyError, TypeError, RecursionError)


def read_json(path: Path) -> Any:
    """Return what a file of the journal says, raising one of NOT_JSON if it is no plain JSON file."""
    with open(open_plain(path), "rb") as file:  # noqa: PTH123 - a descriptor
        return json.loads(file.read())


@dataclass(frozen=True)
class Receipt:
    """Proof that a shard is down: its files with their hashes, and what became of each id."""

    shard: int
    files: tuple[ShardRow, ...]
    records: tuple[IndexRow, ...]
    libraries: Mapping[str, str]  # of the process that wrote it: name to version

    def to_json(self) -> bytes:
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, value: Any) -> "Receipt":
        """Return the receipt that `to_json` gave; any other value raises one of NOT_JSON."""
        for kind, rows in ((ShardRow, value["files"]), (IndexRow, value["records"])):
            kinds = list(kind.__annotations__.values())
            if any([type(item) for item in row] != kinds for row in rows):
                raise ValueError(f"not the values of a {kind.__name__}")
        return cls(
            value["shard"],
            tuple(ShardRow(*row) for row in value["files"]),
            tuple(IndexRow(*row) for row in value["records"]),
            checked_libraries(value["libraries"]),
        )

    def described(self, shard_records: int, arrays: tuple[str, ...]) -> Shard:
        """Return the shard that this is the receipt of, as far as it says itself.

        Raises ValueError or StoreError for a receipt that no shard can have.
        """
        if not self.files:
            raise ValueError("no files")
        _, _, _, shape, first_row, records = self.files[0]
        rows = tuple(row.row for row in self.records)
        index, remainder = divmod(first_row, shard_records)
        shard = Shard(
            self.shard,
            GridShape.parse(shape),
            index,
            first_row,
            records,
            tuple(row.image_id for row in self.records),
            rows,
        )
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
        planned = [(i, shape, row) for i, row in zip(shard.ids, shard.rows, strict=True)]
        place = (shape, shard.first_row, shard.records)
        return (
            type(self.shard) is int
            and self.shard == shard.number
            and [(file.path, file[3:]) for file in self.files]
            == [(shard.path(array), place) for array in arrays]
            and [(row.image_id, row.shape, row.row) for row in self.records] == planned
            and all(0 <= file.bytes < 1 << 63 for file in self.files)
            and all(_is_possible(row, arrays) for row in self.records)
        )


def _is_possible(row: IndexRow, arrays: tuple[str, ...]) -> bool:
    """Return whether a row of a receipt can stand in an index."""
    try:
        for text in row:
            if isinstance(text, str):
                text.encode()
        checks = len(arrays) * CRC_BYTES if Status(row.status) == Status.OK else 0
        return len(bytes.fromhex(row.checksum)) == checks and all(
            0 <= side < 1 << 31 for side in (row.width, row.height)
        )
    except ValueError:
        return False
