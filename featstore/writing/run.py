"""Who may write a store: one process all of it, or several a part each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from ...base.errors import StoreError
from ...base.files import fsync_folder
from ..checks import check_files, check_folders, check_plain
from ..format import (
    STORE_JSON,
    TABLES,
    ZARR_GROUP,
    GridShape,
    Identity,
    IndexRow,
    ShardRow,
    Status,
    differences,
    table_file,
)
from ..layout import Layout, Part, Shard, is_written_again
from ..metadata import metadata_files
from ..shards import ShardWriter
from ..store import FeatureStore
from .journal import Journal, Receipt, checked_libraries
from .lock import WriterLock


class StoreLock:
    """The right to write a store alone, or as one of its parts.

    Whoever writes all of a store, finishes or repairs it holds `lock`; a part holds a file of its
    own, `part-3-of-16.lock`. Each first takes its own lock, which others can see from then on, and
    only then looks whether a rival holds theirs: for `lock` every part is a rival, for a part
    `lock` and all parts of another number of parts. Of two rivals the one that looks last sees the
    other, so that never both go on; if they came at the same instant, it may be that neither does.

    That holds between hosts whether or not the file system passes flock on: the text of a lock
    is on the disk before its holder looks at another. What needs flock between hosts is that
    two processes take the same lock at the same instant. Two that write one part so do no harm:
    names of files in the making are never the same; each shard and each receipt is that of
    one or of the other, whole; and where their bits differ, finishing hashes a shard that is not
    the one of its receipt, and asks for that part again.

    A process that dies takes its flock with it, and its text counts for nothing on its own host.
    One who holds `lock`, and has looked, may remove the locks of parts with the journal: nobody
    holds one, but somebody may be about to. Such a one finds `lock` held; or free again, and its
    own lock without a name, and begins once more.
    """

    def __init__(self, journal: Journal, part: Part | None = None):
        self._journal = journal
        self._part = part
        self._own = self._lock_of(part)

    def acquire(self, *, break_lock: bool = False) -> tuple[str, ...]:
        """Get the right, or raise StoreError naming who has it; return who had it and is gone.

        `break_lock` takes the locks of processes on other hosts, and never that of a living
        process on this one.
        """
        while True:
            gone = [self._own.acquire(break_lock=break_lock)]
            try:
                for rival in self._rivals():
                    gone.append(self._lock_of(rival).check_free(break_lock=break_lock))
            except BaseException:
                self._own.release()
                raise
            if self._own.is_held():
                return tuple(holder for holder in gone if holder is not None)
            self._own.release()

    def is_held(self) -> bool:
        """Return whether the right is still ours: another host may have broken it."""
        return self._own.is_held()

    def release(self) -> None:
        """Let others in."""
        self._own.release()

    def check_held(self) -> None:
        """Raise StoreError if another process has broken the lock."""
        if not self.is_held():
            raise StoreError(
                f"{self._journal.store}: another process has broken the lock; it writes now"
            )

    def _lock_of(self, part: Part | None) -> WriterLock:
        store = self._journal.store
        if part is None:
            return WriterLock(self._journal.lock_path, str(store))
        return WriterLock(self._journal.folder / part.lock_name, f"part {part} of {store}")

    def _rivals(self) -> list[Part | None]:
        """Return the parts that must not be written meanwhile; None stands for the whole."""
        parts = self._journal.parts()
        if self._part is None:
            return [*parts]
        return [None, *(part for part in parts if part.of != self._part.of)]


class ShardTransaction:
    """One shard in the making: leaving the block without `commit` leaves nothing behind.

    `libraries` are the versions of what touches pixels in this process, {name: version}. They
    are recorded in the receipt and at last in store.json, and are no part of the digest.
    """

    def __init__(
        self,
        store: Path,
        identity: Identity,
        shard_records: int,
        shard: Shard,
        libraries: Mapping[str, str],
    ):
        check_folders(store, [str(shard.shape)], identity.arrays)
        self._journal = Journal(store)
        self._journal.refuse_link()
        self._shard = shard
        self._libraries = checked_libraries(dict(libraries))
        self._files: dict[str, ShardWriter] = {}
        try:
            for array in identity.arrays:
                temporary = self._journal.temporary(f"{shard.number:08}.{array}")
                self._files[array] = ShardWriter(store, temporary, shard, array, shard_records)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop what was not committed."""
        for file in self._files.values():
            file.close()

    def append(self, position: int, encoded: Mapping[str, bytes]) -> None:
        """Write the encoded arrays of the record at `position` in the shard, in that order."""
        for array, file in self._files.items():
            file.append(position, encoded[array])

    def commit(self, records: tuple[IndexRow, ...]) -> Receipt:
        """Give the files their names, then write the receipt, which makes the shard done."""
        files = tuple(file.commit() for file in self._files.values())
        receipt = Receipt.of(self._shard.number, files, records, self._libraries)
        self._journal.write_receipt(receipt)
        return receipt


@dataclass(frozen=True)
class Run:
    """The shards of a layout, and the store that they make."""

    path: Path
    identity: Identity
    layout: Layout
    parent: FeatureStore | None  # the finished store that is added to

    @property
    def journal(self) -> Journal:
        return Journal(self.path)

    def plan(self) -> dict[str, Any]:
        """Return what plan.json says of this run."""
        shards = self.layout.shards
        return {
            "identity": self.identity.to_json(),
            "shard_records": self.layout.shard_records,
            "layout": self.layout.fingerprint(),
            "parent": self.parent.digest if self.parent else None,
            "again": [[str(s.shape), s.index] for s in shards if self.is_in_parent(s)],
            "shards": len(shards),
            "ids": sum(len(shard.ids) for shard in shards),
        }

    def check_plan(self, stored: dict[str, Any], plan: dict[str, Any]) -> None:
        """Raise StoreError unless the plan in the journal is the one of this run."""
        if stored == plan:
            return
        there, asked = (
            {**p["identity"], "shard_records": p["shard_records"]} for p in (stored, plan)
        )
        what = "; ".join(differences(there, asked)) or "it was planned for other images"
        raise StoreError(
            f"{self.path} is unfinished and was begun otherwise: {what}. "
            f"Finish it as it was begun, or choose another --out"
        )

    def is_overtaken(self) -> bool:
        """Return whether the store was finished by someone else since it was looked at."""
        digest = None
        if (self.path / STORE_JSON).exists():
            digest = FeatureStore.open(self.path).digest
        return digest != (self.parent.digest if self.parent else None)

    def overtaken(self) -> StoreError:
        return StoreError(f"{self.path} has just been finished by another process; type it again")

    def lengths(self) -> dict[str, int]:
        """Return the length of the arrays of each grid shape, sorted by rows, then cols."""
        lengths = {**(self.parent.card["grid_shapes"] if self.parent else {})}
        for shape, length in self.layout.records.items():
            lengths[str(shape)] = max(length, lengths.get(str(shape), 0))
        return {str(shape): lengths[str(shape)] for shape in sorted(map(GridShape.parse, lengths))}

    def metadata(self) -> dict[str, bytes]:
        """Return {path relative to the store: bytes} of every zarr.json that the store will have."""
        records = {GridShape.parse(shape): n for shape, n in self.lengths().items()}
        return metadata_files(self.identity, records, self.layout.shard_records)

    def tables(self) -> dict[str, Path]:
        """Return the file of each table that the run writes."""
        generation = self.parent.card["generation"] + 1 if self.parent else 0
        return {table: self.path / table_file(table, generation) for table in TABLES}

    def check_places(self) -> None:
        """Raise CorruptStoreError if something stands in the place of what will be written.

        To be called before anything is written: a store from elsewhere may link to anywhere, and
        a link that a person made is not replaced by a file.
        """
        arrays, shards = self.identity.arrays, self.layout.shards
        check_folders(self.path, self.lengths(), arrays)
        check_plain([self.path / shard.path(array) for shard in shards for array in arrays])
        check_plain([self.journal.receipt_path(shard.number) for shard in shards])
        check_plain([*self.tables().values(), self.path / STORE_JSON])
        check_plain([self.path / name for name in self.metadata()])

    def folders(self) -> list[Path]:
        """Return the folders of the features, inner ones first."""
        group = self.path / ZARR_GROUP
        shapes = [group / shape for shape in self.lengths()]
        return [*(s / array for s in shapes for array in self.identity.arrays), *shapes, group]

    def make_folders(self) -> None:
        """Make the folders of the arrays; any number of processes may at once."""
        group = self.path / ZARR_GROUP
        for shape in self.layout.records:
            for array in self.identity.arrays:
                (group / str(shape) / array).mkdir(parents=True, exist_ok=True)
            fsync_folder(group / str(shape))
        fsync_folder(group)
        fsync_folder(self.path)

    def is_in_parent(self, shard: Shard) -> bool:
        """Return whether a shard is one of the parent's, written again."""
        parent = self.parent
        return parent is not None and is_written_again(shard, parent.card["grid_shapes"])

    def receipts(self, shards: tuple[Shard, ...]) -> Iterator[tuple[Shard, Receipt]]:
        """Yield those of `shards` that have a receipt, with it."""
        return self.journal.receipts(shards, self.identity.arrays)

    def rows(self, shards: tuple[Shard, ...]) -> Iterator[IndexRow]:
        """Yield what became of every id of those of `shards` that are down."""
        for _, receipt in self.receipts(shards):
            yield from receipt.records

    def pending(self, shards: tuple[Shard, ...]) -> tuple[Shard, ...]:
        """Return those of `shards` to write; those down already are read again to be sure."""
        done = {shard.number: receipt.files for shard, receipt in self.receipts(shards)}
        whole = done.keys() - self.changed(done)
        return tuple(shard for shard in shards if shard.number not in whole)

    def changed(self, done: Mapping[int, tuple[ShardRow, ...]]) -> set[int]:
        """Return the numbers of the shards whose files are not those of their receipts."""
        numbers = {file: number for number, files in done.items() for file in files}
        checked = check_files(self.path, list(numbers), "check")
        return {numbers[file] for file, problem in checked if problem}

    def is_in_vain(self) -> bool:
        """Return whether all is written and not one record came of it.

        A shard of the parent that was written again counts, and so does an id that is new to it,
        or whose record is replaced, since its file is another one and cannot be used: the store
        says from then on what became of them.
        """
        if any(row.status == Status.OK for row in self.rows(self.layout.shards)):
            return False
        if self.parent is None:
            return True
        tried = {image_id for shard in self.layout.shards for image_id in shard.ids}
        refused = (row.image_id for row in self.parent.index if row.status != Status.OK)
        tried.difference_update(refused)
        return not tried and not any(map(self.is_in_parent, self.layout.shards))
