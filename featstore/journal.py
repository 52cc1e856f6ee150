"""The journal of an unfinished store: who writes it, what it was planned as, what is done."""

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..base.files import fsync_folder, write_atomically
from .errors import StoreError
from .format import JOURNAL, IndexRow, ShardRow, canonical_json


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


class Journal:
    """The folder `journal/` of a store being written.

    `plan.json` says what the store will be; `lock` is held by the one process that may add to
    it; `<shard>.json` is a receipt; temporary files of shards in hand lie here too, and go
    with the folder when the store is finished.
    """

    def __init__(self, store: Path):
        self.folder = store / JOURNAL
        self._lock: int | None = None

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

    def lock(self) -> None:
        """Become the only writer, or raise StoreError naming who is.

        The lock is the kernel's (flock): it ends with its process, however that ends.
        """
        path = self.folder / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace")
            os.close(descriptor)
            raise StoreError(
                f"{self.folder.parent} is being written by {holder or 'another process'}; "
                f"wait for it, or choose another --out"
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        self._lock = descriptor

    def release(self) -> None:
        """Let another writer in."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def plan(self) -> dict[str, Any] | None:
        """Return what the store was planned as, or None before `write_plan`."""
        path = self.folder / "plan.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def write_plan(self, plan: dict[str, Any]) -> None:
        write_atomically(self.folder / "plan.json", canonical_json(plan))

    def temporary(self, name: str) -> Path:
        """Return a name for a file in the making; two processes never share one."""
        return self.folder / f"{name}.{os.getpid()}.tmp"

    def write_receipt(self, receipt: Receipt) -> None:
        write_atomically(self.folder / f"{receipt.shard:08}.json", receipt.to_json())

    def receipts(self) -> Iterator[Receipt]:
        """Yield the receipts so far whose files are there at full size, in shard order."""
        for path in sorted(self.folder.glob("[0-9]*.json")):
            receipt = Receipt.from_json(path.read_bytes())
            if all(self._is_whole(file) for file in receipt.files):
                yield receipt

    def _is_whole(self, file: ShardRow) -> bool:
        path = self.folder.parent / file.path
        return path.exists() and path.stat().st_size == file.bytes

    def remove(self) -> None:
        """Remove the journal, once the store is finished."""
        shutil.rmtree(self.folder)
