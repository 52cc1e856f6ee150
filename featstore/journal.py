"""The journal of a store in the making: what it was planned as, and what is done."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..base.files import fsync_folder, write_atomically
from .errors import StoreError
from .format import JOURNAL, IndexRow, ShardRow, canonical_json
from .layout import Shard

TEMPORARY = ".tmp"


@dataclass(frozen=True)
class Receipt:
    """Proof that a shard is down: its files with their hashes, and what became of each id."""

    shard: int
    files: tuple[ShardRow, ...]
    records: tuple[IndexRow, ...]

    def to_json(self) -> bytes:
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, content: bytes) -> "Receipt":
        value = json.loads(content)
        return cls(
            value["shard"],
            tuple(ShardRow(*row) for row in value["files"]),
            tuple(IndexRow(*row) for row in value["records"]),
        )

    def is_for(self, shard: Shard, arrays: tuple[str, ...]) -> bool:
        """Return whether this is the receipt of `shard`, and not of another plan."""
        shape = str(shard.shape)
        planned = [(i, shape, row) for i, row in zip(shard.ids, shard.rows, strict=True)]
        return (
            self.shard == shard.number
            and [file.path for file in self.files] == [shard.path(array) for array in arrays]
            and [(row.image_id, row.shape, row.row) for row in self.records] == planned
        )


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
        """Make the folder, and the store's with it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.folder.parent, self.folder.parent.parent):
                fsync_folder(folder)
        except OSError as error:
            raise StoreError(
                f"cannot write {self.folder}: {error.strerror}; choose another --out"
            ) from None

    def plan(self) -> dict[str, Any] | None:
        """Return what is being written, or None before `write_plan`."""
        path = self.folder / "plan.json"
        if not path.exists():
            return None
        try:
            plan = json.loads(path.read_bytes())
            return {key: plan[key] for key in ("identity", "shard_records", "layout", "parent",
                                               "again")}  # fmt: skip
        except (ValueError, KeyError, TypeError):
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
            receipt = Receipt.from_json(self._receipt_path(shard.number).read_bytes())
        except (FileNotFoundError, ValueError, KeyError, TypeError):
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
            if path != self.lock_path:
                path.unlink()

    def clear_temporaries(self) -> None:
        """Remove the files in the making of a process that was killed."""
        for path in self.folder.glob(f"*{TEMPORARY}"):
            path.unlink()

    def remove(self) -> None:
        """Remove the journal, once nothing is in the making any more."""
        shutil.rmtree(self.folder)
