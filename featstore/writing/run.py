"""One run: what is written to which store, and how much of it is down."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.files import fsync_folder
from ..disk.checks import check_folders, check_plain
from ..disk.hashing import check_files
from ..disk.zarr_metadata import metadata_files
from ..errors import StoreError
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
from ..layout import Layout, Shard, is_written_again
from ..store import FeatureStore
from .journal import Journal
from .receipt import Receipt


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
