"""Which versions of which libraries have touched the pixels of a store."""

import contextlib
import errno
import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from ...base.errors import StoreError
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
from ...base.jsonio import parse_json
from ...base.parquet import MAX_TEXT
from ..checks import check_folder
from ..format import JOURNAL, GridShape, IndexRow, ShardRow, Status, canonical_json, is_sha256
from ..layout import Part, Shard
from ..lookup import SHAPE_BIT
from ..metadata import MAX_SHARD_RECORDS
from ..shards import CRC_BYTES
from .lock import MAX_HOLDER_BYTES

MAX_LIBRARIES = 32  # that one process names
MAX_LIBRARIES_TEXT = 100  # characters of a name or a version
JOINED = ", "  # between versions, where several processes had different ones


def checked_libraries(value: Any) -> dict[str, str]:
    """Return {name: version} as it was given, raising ValueError for anything else."""
    if type(value) is not dict or len(value) > MAX_LIBRARIES:
        raise ValueError(f"expected at most {MAX_LIBRARIES} libraries")
    for text in (*value, *value.values()):
        if (
            type(text) is not str
            or not 1 <= len(text) <= MAX_LIBRARIES_TEXT
            or not text.isprintable()
        ):
            raise ValueError(f"{text!r:.80} is no name or version of a library")
    return value


def merge_libraries(several: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return every library with its version; with all of its versions, if there are several.

    >>> merge_libraries([{"torch": "2.7", "pillow": "11"}, {"torch": "2.6"}, {"torch": "2.6, 2.7"}])
    {'pillow': '11', 'torch': '2.6, 2.7'}
    """
    versions: dict[str, set[str]] = {}
    for libraries in several:
        for name, version in libraries.items():
            versions.setdefault(name, set()).update(version.split(JOINED))
    return {name: JOINED.join(sorted(versions[name])) for name in sorted(versions)}


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


LOCK, PLAN = "lock", "plan.json"
NUMBER = re.compile(r"[0-9]{8,12}")  # of a shard, in the names of its files
RECEIPT = re.compile(rf"{NUMBER.pattern}\.json")
IN_HAND = re.compile(rf"{NUMBER.pattern}\.[a-z]+\.[0-9a-f]{{16}}{re.escape(TEMPORARY)}")
MAX_PLAN_BYTES = 1 << 26  # three million shards that are written again
PLAN_KEYS = {
    "identity": (dict,),
    "shard_records": (int,),
    "layout": (str,),
    "parent": (str, type(None)),
    "again": (list,),
    "shards": (int,),
    "ids": (int,),
}


def _checked_plan(plan: Any) -> dict[str, Any]:
    """Return the plan, raising one of NOT_JSON unless its values are those that one has."""
    for key, kinds in PLAN_KEYS.items():
        if type(plan[key]) not in kinds:
            raise ValueError(f"{key} is {plan[key]!r:.80}")
    if not 1 <= plan["shard_records"] <= MAX_SHARD_RECORDS:
        raise ValueError(f"shard_records is {plan['shard_records']}")
    if not all(map(is_sha256, (plan["layout"], plan["parent"] or plan["layout"]))):
        raise ValueError("layout and parent must be hashes")
    for key in ("shards", "ids"):
        if not 0 <= plan[key] < 1 << SHAPE_BIT:
            raise ValueError(f"{key} is {plan[key]}")
    for place in plan["again"]:
        if [type(value) for value in place] != [str, int]:
            raise ValueError(f"again holds {place!r:.80}")
    return {key: plan[key] for key in PLAN_KEYS}


def _plan_bytes(plan: dict[str, Any]) -> bytes:
    content = canonical_json(plan)
    if len(content) > MAX_PLAN_BYTES:
        raise StoreError(
            f"the plan to write {len(plan['again']):,} shards again would have {len(content):,} "
            f"bytes, of {MAX_PLAN_BYTES:,} at most; copy some of the lost shards from their source",
            code="E-STORE-PLAN",
        )
    return content


class Journal:
    """The folder `journal/` of a store being written or added to.

    `plan.json` says what is being written; `lock` names the one process that may, or one
    `part-3-of-16.lock` each of several; `<shard>.json` is a receipt; temporary files of shards
    in hand lie here too, and go with the folder when the store is finished. Without a plan
    there is no receipt.
    """

    def __init__(self, store: Path):
        self.store = store
        self.folder = store / JOURNAL
        self.lock_path = self.folder / LOCK
        self._plan_path = self.folder / PLAN

    def create(self) -> None:
        """Make the folder, and the store's with it.

        A link is refused: what lies in a journal is removed, and it may lead anywhere.
        """
        self.refuse_link()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.folder.parent, self.folder.parent.parent):
                fsync_folder(folder)
        except OSError as error:
            raise StoreError(
                f"cannot write {self.folder}: {error.strerror}; make its folder writable, "
                f"or choose another --out"
            ) from None

    def refuse_link(self) -> None:
        """Raise CorruptStoreError if the journal is a link, or a file."""
        check_folder(self.folder)

    def plan(self) -> dict[str, Any] | None:
        """Return what is being written, or None before `write_plan`."""
        self.refuse_link()
        return self._read_plan() if os.path.lexists(self._plan_path) else None

    def _read_plan(self) -> dict[str, Any]:
        path = self._plan_path
        try:
            return _checked_plan(parse_json(read_bytes(path, MAX_PLAN_BYTES)))
        except NOT_JSON:
            raise StoreError(
                f"{path} is not a plan of this clipfeat; choose another --out"
            ) from None

    def holder(self) -> bytes:
        """Return the text of the lock of the whole store; OSError where there is none."""
        return read_bytes(self.lock_path, MAX_HOLDER_BYTES)

    def write_plan(self, plan: dict[str, Any]) -> None:
        """Write a plan, raising StoreError for one that readers would not take."""
        write_atomically(self._plan_path, _plan_bytes(plan))

    def settle_plan(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Return the plan that counts: `plan`, unless there is one; of two at once one wins."""
        content = _plan_bytes(plan)
        if not os.path.lexists(self._plan_path):
            with (
                contextlib.suppress(FileExistsError),
                atomic_file(self._plan_path, replace=False) as file,
            ):
                file.write(content)
        return self._read_plan()

    def parts(self) -> list[Part]:
        """Return the parts that are, or have been, written by a process each."""
        parts = (Part.of_lock(path.name) for path in self.folder.iterdir())
        return sorted(part for part in parts if part is not None)

    def temporary(self, name: str) -> Path:
        """Return a name for a file in the making; two processes never share one."""
        return self.folder / temporary_name(name)

    def write_receipt(self, receipt: Receipt) -> None:
        """Write a receipt, raising StoreError for one that readers would not take."""
        content, most = receipt.to_json(), max_receipt_bytes(len(receipt.ids))
        if len(content) > most:
            raise StoreError(
                f"the receipt of shard {receipt.shard} would have {len(content):,} bytes, of "
                f"{most:,} at most; choose smaller shards",
                code="E-STORE-RECEIPT",
            )
        write_atomically(self.receipt_path(receipt.shard), content)

    def receipt(self, shard: Shard, arrays: tuple[str, ...]) -> Receipt | None:
        """Return the receipt of a shard, None if there is none or it is of another plan."""
        try:
            receipt = self._read_receipt(shard.number, len(shard.ids))
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

    def described(
        self, number: int, shard_records: int, arrays: tuple[str, ...]
    ) -> tuple[Shard, tuple[ShardRow, ...]] | None:
        """Return the shard that a receipt describes, and its files; None if there is none such."""
        try:
            receipt = self._read_receipt(number, shard_records)
            shard = receipt.described(shard_records, arrays)
        except (*NOT_JSON, StoreError):
            return None
        return (shard, receipt.files) if shard.number == number else None

    def _read_receipt(self, number: int, records: int) -> Receipt:
        """Return a receipt of at most so many records, raising one of NOT_JSON if it is none."""
        path = self.receipt_path(number)
        return Receipt.from_json(parse_json(read_bytes(path, max_receipt_bytes(records))))

    def numbers(self) -> list[int]:
        """Return the shards for which there is a file that should be their receipt."""
        names = {path.name for path in self.folder.glob("*.json")}
        numbers = {int(stem) for stem in (name[:-5] for name in names) if NUMBER.fullmatch(stem)}
        return sorted(number for number in numbers if self.receipt_path(number).name in names)

    def receipt_path(self, shard: int) -> Path:
        """Return the file of the receipt of a shard."""
        return self.folder / f"{shard:08}.json"

    def owns(self, name: str) -> bool:
        """Return whether a file of this name in the journal is a writer's."""
        return (
            name in (LOCK, PLAN)
            or RECEIPT.fullmatch(name) is not None
            or Part.of_lock(name) is not None
            or _is_in_the_making(name)
        )

    def clear(self) -> None:
        """Remove what writers have left but the lock: another plan's receipts, files in the making.

        What somebody else put there stays. The plan goes last: what is left by one who was
        killed here is known for that plan's.
        """
        for path in self.folder.iterdir():
            if path.name not in (LOCK, PLAN) and self.owns(path.name):
                remove_plain(path)
        remove_plain(self._plan_path)

    def clear_temporaries(self, shards: Container[int] | None = None) -> None:
        """Remove the files in the making of a process that was killed, or those of `shards`."""
        for path in self.folder.glob(f"*{TEMPORARY}"):
            number = path.name.lstrip(".").split(".")[0]
            is_of_these = shards is None or (NUMBER.fullmatch(number) and int(number) in shards)
            if is_of_these and _is_in_the_making(path.name):
                remove_plain(path)

    def remove(self) -> None:
        """Remove the journal, once nothing is in the making any more.

        Its lock goes last. Should another process come at this very moment, it finds a journal
        in which nothing is planned, and the folder stays to it.
        """
        self.clear()
        remove_plain(self.lock_path)
        try:
            self.folder.rmdir()
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise


def _is_in_the_making(name: str) -> bool:
    return is_temporary(name) or IN_HAND.fullmatch(name) is not None
