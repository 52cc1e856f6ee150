"""The journal of a store that is being written: its plan, and a receipt of each written shard."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

import contextlib
import errno
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
from ...base.parquet import MAX_TEXT
from ..geometry import GridShape
from ..layout import JOURNAL, Ids, Part, Shard, check_folder
from ..lookup import Status
from ..metadata import MAX_IDS, Count, Sha256, ShardRecords, is_sha256
from ..shards import CRC_BYTES, ShardRow
from ..tables import HASHES, INDEX_SCHEMA, IndexRow, index_batch
from .lock import LOCK, MAX_HOLDER_BYTES

PLAN = "plan.json"
NUMBER = re.compile(r"[0-9]{8,12}")  # of a shard, in the names of its files
RECEIPT = re.compile(rf"{NUMBER.pattern}\.receipt")
SHARD_TEMPORARY = re.compile(rf"{NUMBER.pattern}\.[a-z]+\.[0-9a-f]{{16}}{re.escape(TEMPORARY)}")
MAX_PLAN_BYTES = 1 << 26  # three million shards that are written again
MAX_RECEIPT_BYTES = 1 << 29
MAX_LIBRARIES = 32  # that one process names
MAX_LIBRARY_TEXT = 100  # characters of a name or a version
CHECKED_ROWS = 1 << 12  # of receipts whose values are checked together
STATUSES = pa.array([status.value for status in Status], pa.string())
RECORD_DIGITS = {
    "checksum": 2 * CRC_BYTES
}  # of columns that a record fills, for each of its arrays


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


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Proof that a shard was written: its files with their hashes, and the index rows of its ids."""

    shard: int  # its number in the plan
    files: tuple[ShardRow, ...]  # grid first
    columns: tuple[tuple[bytes, ...], ...]  # of its rows of the index: the buffers of Arrow
    libraries: dict[str, str]  # of the process that wrote it: name to version

    def __post_init__(self) -> None:
        check_libraries(self.libraries)

    @classmethod
    def of(
        cls,
        shard: int,
        files: Iterable[ShardRow],
        rows: Iterable[IndexRow],
        libraries: Mapping[str, str],
    ) -> "Receipt":
        """Return the receipt of a shard with these rows of the index."""
        columns = tuple(
            tuple(buffer.to_pybytes() for buffer in column.buffers()[1:])  # without null values
            for column in index_batch(rows).columns
        )
        return cls(shard, tuple(files), columns, dict(libraries))

    def rows(self) -> pa.RecordBatch:
        """Return its rows of the index, raising ValueError for buffers that are not such rows."""
        rows = max(0, len(self.columns[0][0]) // 4 - 1)  # where texts begin: one number more
        arrays = [
            pa.Array.from_buffers(kind, rows, [None, *map(pa.py_buffer, buffers)])
            for kind, buffers in zip(INDEX_SCHEMA.types, self.columns, strict=True)
        ]
        batch = pa.RecordBatch.from_arrays(arrays, schema=INDEX_SCHEMA)
        batch.validate(full=True)
        return batch

    def is_of(self, shard: Shard, arrays: tuple[str, ...]) -> bool:
        """Return whether its files are those of `shard`; its rows are not looked at."""
        place = (str(shard.shape), shard.first_row, shard.records)
        return (
            self.shard == shard.number
            and [(file.path, *file[3:]) for file in self.files]
            == [(shard.path(array), *place) for array in arrays]
            and all(0 <= file.bytes < 1 << 63 and is_sha256(file.sha256) for file in self.files)
        )

    def described(self, rows: pa.RecordBatch, shard_records: int) -> Shard | None:
        """Return the shard with these rows of the index, None if no shard can have them."""
        if not self.files:
            return None
        _, _, _, text, first_row, records = self.files[0]
        try:
            shape = GridShape.parse(text)
        except StoreError:
            return None
        numbers = rows.column("row").to_numpy()
        end = first_row + len(numbers)
        if (
            not 0 <= first_row < MAX_IDS
            or first_row % shard_records
            or not 1 <= records <= shard_records
            or (np.diff(numbers) < 1).any()
            or (len(numbers) and not first_row <= numbers[0] <= numbers[-1] < first_row + records)
        ):
            return None
        places: Sequence[int] = range(first_row, end)
        if len(numbers) and numbers[-1] >= end:  # there are gaps
            places = tuple(numbers.tolist())
        ids, index = Ids(rows.column("image_id")), first_row // shard_records
        return Shard(self.shard, shape, index, first_row, records, ids, places)

    def to_bytes(self) -> bytes:
        """Return the bytes of the receipt; raises StoreError if they are more than readers take."""
        content = msgspec.msgpack.encode(self)
        limit = max_receipt_bytes(len(self.rows()))
        if len(content) > limit:
            raise StoreError(
                f"the receipt of shard {self.shard} would have {len(content):,} bytes, of "
                f"{limit:,} at most; choose smaller shards",
                code="E-RECEIPT-SIZE",
            )
        return content


class Written(NamedTuple):
    """Some shards that are written, as their receipts prove."""

    shards: list[Shard]
    receipts: list[Receipt]  # of these
    rows: pa.RecordBatch  # of the index, of all of these


def _written(
    found: Iterable[tuple[Shard, Receipt, pa.RecordBatch]], arrays: tuple[str, ...]
) -> Iterator[Written]:
    """Yield those of the shards that have the receipt and the rows; CHECKED_ROWS at a time."""
    held: list[tuple[Shard, Receipt, pa.RecordBatch]] = []
    for shard, receipt, rows in found:
        if receipt.is_of(shard, arrays) and len(rows) == len(shard.ids):
            held.append((shard, receipt, rows))
            if sum(len(rows) for _, _, rows in held) >= CHECKED_ROWS:
                yield _fitting(held, len(arrays))
                held = []
    if held:
        yield _fitting(held, len(arrays))


def _fitting(several: list[tuple[Shard, Receipt, pa.RecordBatch]], arrays: int) -> Written:
    """Return those of which every row is that of its id, with values that the index can have."""
    shards = [shard for shard, _, _ in several]
    lengths = [len(shard.ids) for shard in shards]
    rows = pa.concat_batches([rows for _, _, rows in several])
    ids, shapes = rows.column("image_id"), pa.array([str(shard.shape) for shard in shards])
    expected = {
        "image_id": pa.concat_arrays([shard.ids.column for shard in shards]).cast(pa.string()),
        "shape": shapes.take(pa.array(np.repeat(np.arange(len(shards)), lengths))),
        "row": pa.array(np.fromiter(chain.from_iterable(s.rows for s in shards), np.int64)),
    }
    fits = _fits_index(rows, arrays)
    for name, column in expected.items():
        same = pc.call_function("equal", [rows.column(name), column])
        fits &= same.to_numpy(zero_copy_only=False)
    ends = np.cumsum(lengths)
    refused = set(np.searchsorted(ends, np.flatnonzero(~fits), side="right").tolist())
    kept = [number for number in range(len(several)) if number not in refused]
    return Written(
        # Their ids share one column, without the rest of the receipts.
        [replace(shards[k], ids=Ids(ids[ends[k] - lengths[k] : ends[k]])) for k in kept],
        [several[k][1] for k in kept],
        pa.concat_batches([several[k][2] for k in kept]) if refused and kept else rows,
    )


def _fits_index(rows: pa.RecordBatch, arrays: int) -> np.ndarray:
    """Return (row,) bool: whether the index of a store with so many arrays can have this row."""
    status = rows.column("status")
    has_record = pc.call_function("equal", [status, Status.OK.value]).to_numpy(zero_copy_only=False)
    fits = pc.call_function("is_in", [status], pc.SetLookupOptions(STATUSES))
    fits = fits.to_numpy(zero_copy_only=False)
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        if not pa.types.is_string(column.type):
            fits &= column.to_numpy() >= 0
            continue
        lengths = pc.call_function("binary_length", [column]).to_numpy()
        fits &= lengths <= MAX_TEXT
        if name in RECORD_DIGITS:
            fits &= lengths == RECORD_DIGITS[name] * arrays * has_record
        if name in HASHES:
            options = pc.MatchSubstringOptions(HASHES[name])
            matches = pc.call_function("match_substring_regex", [column], options)
            fits &= matches.to_numpy(zero_copy_only=False)
    return fits


def max_receipt_bytes(records: int) -> int:
    """Return the largest size of a receipt of so many records, in bytes.

    Three texts of a record have at most MAX_TEXT bytes each, everything else has a few hundred.
    """
    return min(MAX_RECEIPT_BYTES, (1 << 20) + (records << 14))


def check_libraries(libraries: Mapping[str, Any]) -> None:
    """Raise ValueError unless these are names and versions of libraries that a receipt can hold."""
    texts: list[Any] = [*libraries, *libraries.values()]
    if len(libraries) > MAX_LIBRARIES or not all(
        isinstance(text, str) and 1 <= len(text) <= MAX_LIBRARY_TEXT and text.isprintable()
        for text in texts
    ):
        raise ValueError(
            f"expected at most {MAX_LIBRARIES} libraries, names and versions of 1 to "
            f"{MAX_LIBRARY_TEXT} printable characters; got {libraries!r:.200}"
        )


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
                f"or choose another --out",
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
                f"--out",
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

    def write_receipt(self, receipt: Receipt) -> None:
        """Write a receipt, which makes its shard done."""
        write_atomically(self.receipt_path(receipt.shard), receipt.to_bytes())

    def written(self, shards: Iterable[Shard], arrays: tuple[str, ...]) -> Iterator[Written]:
        """Yield those of `shards` that have a receipt, in their order."""
        read = ((shard, self._read_receipt(shard.number, len(shard.ids))) for shard in shards)
        return _written(((shard, *found) for shard, found in read if found is not None), arrays)

    def described(self, plan: Plan, arrays: tuple[str, ...]) -> Iterator[Written]:
        """Yield the shards that receipts describe, in the order of their numbers.

        For a reader that knows nothing but the journal.
        """
        names = {path.name for path in self.folder.glob("*.receipt")}
        numbers = {int(name.partition(".")[0]) for name in names if RECEIPT.fullmatch(name)}
        known = sorted(number for number in numbers if number < plan.shards)
        read = (self._read_receipt(number, plan.shard_records) for number in known)
        found = ((each[0].described(each[1], plan.shard_records), *each) for each in read if each)
        return _written(((shard, *each) for shard, *each in found if shard is not None), arrays)

    def _read_receipt(self, number: int, records: int) -> tuple[Receipt, pa.RecordBatch] | None:
        """Return the receipt of a shard of at most so many records, with its rows of the index.

        None if no writer has left it.
        """
        try:
            content = read_bytes(self.receipt_path(number), max_receipt_bytes(records))
            receipt = msgspec.msgpack.decode(content, type=Receipt)
            return (receipt, receipt.rows()) if receipt.shard == number else None
        except (OSError, ValueError, IndexError):
            return None

    def owns(self, name: str) -> bool:
        """Return whether a file of this name in the journal is a writer's."""
        return (
            name in (LOCK, PLAN)
            or RECEIPT.fullmatch(name) is not None
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
