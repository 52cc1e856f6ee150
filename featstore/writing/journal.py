"""The journal of a store that is being written: its plan, and a receipt of each written shard."""

import contextlib
import errno
import os
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ...base.errors import StoreError, reason_of
from ...base.files import (
    TEMPORARY,
    atomic_file,
    fsync_folder,
    is_temporary,
    read_bytes,
    remove_plain,
    temporary_name,
    write_atomically,
)
from ...base.jsonio import as_struct, canonical_json, parse_json
from ..identity import Sha256
from ..layout import JOURNAL, PLAN, Part, Shard, check_folder
from ..metadata import Count, ShardRecords
from .lock import LOCK, MAX_HOLDER_BYTES
from .receipts import Receipt, Written, max_receipt_bytes, written_shards

NUMBER = re.compile(r"[0-9]{8,12}")  # of a shard, in the names of its files
RECEIPT = re.compile(rf"{NUMBER.pattern}\.receipt")
SHARD_TEMPORARY = re.compile(rf"{NUMBER.pattern}\.[a-z]+\.[0-9a-f]{{16}}{re.escape(TEMPORARY)}")
PARTIAL = re.compile(rf"{NUMBER.pattern}\.partial")
MAX_PLAN_BYTES = 1 << 26  # three million shards that are written again


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run writes, as plan.json contains it; a run continues only an equal plan."""

    identity: dict[str, Any]  # of the store, as JSON
    shard_records: ShardRecords
    layout: Sha256  # fingerprint of the layout
    parent: Sha256 | None  # digest of the store that is updated
    again: tuple[tuple[str, int], ...]  # grid shape and index of shards that are written again
    shards: Count  # to write
    ids: Count  # in these shards

    def to_json(self) -> bytes:
        """Return the bytes of plan.json; raises StoreError if they are more than readers take."""
        content = canonical_json(msgspec.structs.asdict(self))
        if len(content) > MAX_PLAN_BYTES:
            raise StoreError(
                f"the plan to write {len(self.again):,} shards again would have {len(content):,} "
                f"bytes, of {MAX_PLAN_BYTES:,} at most; copy some of the lost shards from their "
                f"source",
                code="E-PLAN-SIZE",
            )
        return content


class Journal:
    """The folder `journal/` of a store that is being written or updated.

    `plan.json` contains what is being written; `lock` names the one process that may write, or
    `part-3-of-16.lock` one of several; `<shard>.receipt` is a receipt. Temporary files of shards lie
    here too. The folder is removed once the store is finished. Without a plan there is no receipt.
    """

    def __init__(self, store: Path):
        self.folder = store / JOURNAL
        self._lock_path = self.folder / LOCK
        self._plan_path = self.folder / PLAN

    def create(self) -> None:
        """Make the folder, and the store's with it.

        Raises CorruptStoreError for a link: files in a journal are removed, and it may lead
        anywhere. Raises StoreError if the folder cannot be made.
        """
        check_folder(self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.folder.parent, self.folder.parent.parent):
                fsync_folder(folder)
        except OSError as error:
            raise StoreError(
                f"cannot write {self.folder}: {reason_of(error)}; make its folder writable, "
                f"or choose another folder",
                code="E-STORE-WRITE",
            ) from None

    def plan(self) -> Plan | None:
        """Return what is being written, or None before there is a plan.

        Raises StoreError for a file that is not a plan.
        """
        check_folder(self.folder)
        return self._read_plan() if os.path.lexists(self._plan_path) else None

    def updates(self, digest: str) -> bool:
        """Return whether it is of an update of the store with this digest, running or interrupted.

        Otherwise it was left by a run that was killed after it had committed this store.
        """
        plan = self.plan()
        return plan is not None and plan.parent == digest

    def _read_plan(self) -> Plan:
        path = self._plan_path
        try:
            return as_struct(parse_json(read_bytes(path, MAX_PLAN_BYTES)), Plan)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} is not a plan of this clipfeat ({reason_of(error):.200}); choose another "
                f"folder",
                code="E-PLAN-INVALID",
            ) from None

    def write_plan(self, plan: Plan) -> None:
        """Write a plan in the place of any other."""
        write_atomically(self._plan_path, plan.to_json())

    def write_first_plan(self, plan: Plan) -> Plan:
        """Write a plan unless there is one; return that in the journal: of two at once one wins."""
        content = plan.to_json()
        if not os.path.lexists(self._plan_path):
            with (
                contextlib.suppress(FileExistsError),
                atomic_file(self._plan_path, replace=False) as file,
            ):
                file.write(content)
        return self._read_plan()

    def holder(self) -> bytes:
        """Return the text of the lock of the whole store; OSError if there is none."""
        return read_bytes(self._lock_path, MAX_HOLDER_BYTES)

    def temporary(self, name: str) -> Path:
        """Return a new name for a temporary file; two processes never share one."""
        return self.folder / temporary_name(name)

    def receipt_path(self, shard: int) -> Path:
        """Return the file of the receipt of a shard."""
        return self.folder / f"{shard:08}.receipt"

    def partial_path(self, number: int) -> Path:
        """Return what was received so far of the file in this row of the packing list, from 0."""
        return self.folder / f"{number:08}.partial"

    def write_receipt(self, receipt: Receipt) -> None:
        """Write a receipt, which makes its shard done."""
        write_atomically(self.receipt_path(receipt.shard), receipt.to_bytes())

    def written(
        self, shards: Iterable[Shard], shard_records: int, arrays: tuple[str, ...]
    ) -> Iterator[Written]:
        """Yield those of `shards` that have a receipt, in their order."""
        read = ((self._read_receipt(shard.number, len(shard.ids)), shard) for shard in shards)
        found = ((receipt, shard) for receipt, shard in read if receipt)
        return written_shards(found, shard_records, arrays)

    def described(self, plan: Plan, arrays: tuple[str, ...]) -> Iterator[Written]:
        """Yield the shards that receipts describe, in the order of their numbers.

        For a reader that knows nothing but the journal.
        """
        names = {path.name for path in self.folder.glob("*.receipt")}
        numbers = {int(name.partition(".")[0]) for name in names if RECEIPT.fullmatch(name)}
        known = sorted(number for number in numbers if number < plan.shards)
        read = (self._read_receipt(number, plan.shard_records) for number in known)
        found = ((receipt, None) for receipt in read if receipt)
        return written_shards(found, plan.shard_records, arrays)

    def _read_receipt(self, number: int, records: int) -> Receipt | None:
        """Return the receipt of a shard of at most so many records, None if no writer has left it.

        What its columns hold is not checked yet.
        """
        try:
            content = read_bytes(self.receipt_path(number), max_receipt_bytes(records))
            receipt = msgspec.msgpack.decode(content, type=Receipt)
        except (OSError, ValueError):
            return None
        return receipt if receipt.shard == number and receipt.has_whole_columns() else None

    def owns(self, name: str) -> bool:
        """Return whether a file of this name in the journal is a writer's."""
        return (
            name in (LOCK, PLAN)
            or RECEIPT.fullmatch(name) is not None
            or PARTIAL.fullmatch(name) is not None
            or Part.of_lock(name) is not None
            or _is_temporary(name)
        )

    def clear(self) -> None:
        """Remove the plan, receipts, temporary files and locks of parts; only `lock` stays.

        Files with other names stay too: a person has put them there. The plan is removed last, so
        that receipts that a killed process leaves here still have their plan.
        """
        for path in self.folder.iterdir():
            if path.name not in (LOCK, PLAN) and self.owns(path.name):
                remove_plain(path)
        remove_plain(self._plan_path)

    def clear_temporaries(self, shards: Container[int] | None = None) -> None:
        """Remove the temporary files of a process that was killed, or only those of `shards`."""
        for path in self.folder.glob(f"*{TEMPORARY}"):
            number = path.name.lstrip(".").split(".")[0]
            is_of_these = shards is None or (NUMBER.fullmatch(number) and int(number) in shards)
            if is_of_these and _is_temporary(path.name):
                remove_plain(path)

    def remove(self) -> None:
        """Remove the journal.

        Its lock is removed last. A process that comes at this very moment finds a journal without
        a plan, and keeps the folder.
        """
        self.clear()
        remove_plain(self._lock_path)
        try:
            self.folder.rmdir()
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise


def _is_temporary(name: str) -> bool:
    return is_temporary(name) or SHARD_TEMPORARY.fullmatch(name) is not None
