"""The journal of a store in the making: what it was planned as, and what is done."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...base.files import TEMPORARY, fsync_folder, open_plain, write_atomically
from ..disk.codecs import CRC_BYTES
from ..disk.store_json import MAX_SHARD_RECORDS
from ..errors import StoreError
from ..format import JOURNAL, IndexRow, ShardRow, Status, canonical_json
from ..layout import Shard

# What reading a file of the journal raises if it is not one that a writer has left.
NOT_JSON = (OSError, ValueError, KeyError, TypeError, RecursionError)
PLAN_KEYS = {
    "identity": (dict,),
    "shard_records": (int,),
    "layout": (str,),
    "parent": (str, type(None)),
    "again": (list,),
}


@dataclass(frozen=True)
class Receipt:
    """Proof that a shard is down: its files with their hashes, and what became of each id."""

    shard: int
    files: tuple[ShardRow, ...]
    records: tuple[IndexRow, ...]

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
        )

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


def _read_json(path: Path) -> Any:
    with open(open_plain(path), "rb") as file:  # noqa: PTH123 - a descriptor
        return json.loads(file.read())


def _checked_plan(plan: Any) -> dict[str, Any]:
    """Return the plan, raising one of NOT_JSON unless its values are those that one has."""
    for key, kinds in PLAN_KEYS.items():
        if type(plan[key]) not in kinds:
            raise ValueError(f"{key} is {plan[key]!r:.80}")
    if not 1 <= plan["shard_records"] <= MAX_SHARD_RECORDS:
        raise ValueError(f"shard_records is {plan['shard_records']}")
    for place in plan["again"]:
        if [type(value) for value in place] != [str, int]:
            raise ValueError(f"again holds {place!r:.80}")
    return {key: plan[key] for key in PLAN_KEYS}


class Journal:
    """The folder `journal/` of a store being written or added to.

    `plan.json` says what is being written; `lock` names the one process that may; `<shard>.json`
    is a receipt; temporary files of shards in hand lie here too, and go with the folder when
    the store is finished.
    """

    def __init__(self, store: Path):
        self.folder = store / JOURNAL
        self.lock_path = self.folder / "lock"

    def create(self) -> None:
        """Make the folder, and the store's with it.

        A link is refused: what lies in a journal is removed, and it may lead anywhere.
        """
        self._refuse_link()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.folder.parent, self.folder.parent.parent):
                fsync_folder(folder)
        except OSError as error:
            raise StoreError(
                f"cannot write {self.folder}: {error.strerror}; choose another --out"
            ) from None

    def _refuse_link(self) -> None:
        if self.folder.is_symlink():
            raise StoreError(f"{self.folder} is a link; a store holds no links")

    def plan(self) -> dict[str, Any] | None:
        """Return what is being written, or None before `write_plan`."""
        self._refuse_link()
        path = self.folder / "plan.json"
        if not path.exists():
            return None
        try:
            return _checked_plan(_read_json(path))
        except NOT_JSON:
            raise StoreError(f"{path} is no plan of this clipfeat; choose another --out") from None

    def write_plan(self, plan: dict[str, Any]) -> None:
        write_atomically(self.folder / "plan.json", canonical_json(plan))

    def temporary(self, name: str) -> Path:
        """Return a name for a file in the making; two processes never share one."""
        return self.folder / f"{name}.{os.getpid()}{TEMPORARY}"

    def write_receipt(self, receipt: Receipt) -> None:
        write_atomically(self._receipt_path(receipt.shard), receipt.to_json())

    def receipt(self, shard: Shard, arrays: tuple[str, ...]) -> Receipt | None:
        """Return the receipt of a shard, None if there is none or it is of another plan."""
        try:
            receipt = Receipt.from_json(_read_json(self._receipt_path(shard.number)))
        except NOT_JSON:
            return None
        return receipt if receipt.is_for(shard, arrays) else None

    def receipts(
        self, shards: tuple[Shard, ...], arrays: tuple[str, ...]
    ) -> Iterator[tuple[Shard, Receipt]]:
        """Yield the shards that have a receipt, with it."""
        for shard in shards:
            receipt = self.receipt(shard, arrays)
            if receipt is not None:
                yield shard, receipt

    def _receipt_path(self, shard: int) -> Path:
        return self.folder / f"{shard:08}.json"

    def clear(self) -> None:
        """Remove everything but the lock: another plan's receipts, files in the making."""
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != self.lock_path:
                path.unlink()

    def clear_temporaries(self) -> None:
        """Remove the files in the making of a process that was killed."""
        for path in self.folder.glob(f"*{TEMPORARY}"):
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the journal, once nothing is in the making any more."""
        shutil.rmtree(self.folder)
