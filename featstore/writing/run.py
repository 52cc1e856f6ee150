"""What a run writes into a store: its shards, its plan, its files, and what is already written."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from ...base.errors import StoreUsageError
from ...base.files import fsync_folder, require_folder, write_atomically
from ...base.parquet import rows_of
from ...base.text import counted
from ..geometry import GridShape
from ..identity import Identity
from ..layout import (
    JOURNAL,
    STORE_JSON,
    TABLES,
    ZARR_GROUP,
    Grids,
    Ids,
    Layout,
    Shard,
    TableName,
    check_folder,
    check_folders,
    check_plain,
    is_written_again,
    lay_out,
    require_outside_stores,
    table_file,
)
from ..lookup import Status
from ..metadata import About, differences, zarr_metadata_files
from ..quantise import SCALE_FILE, Scale
from ..shards import ShardRow, check_files, shard_size_problem
from ..store import FeatureStore
from ..tables import has_record
from .journal import Journal, Plan
from .receipts import Written

NO_TEXTS = About()


def check_place(path: Path) -> None:
    """Raise StoreUsageError unless `path` is free, empty, a store or an unfinished store."""
    empty = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if not (empty or (path / STORE_JSON).exists() or (path / JOURNAL).is_dir()):
        raise StoreUsageError(
            f"{path} exists and is not a feature store; choose another folder",
            code="E-STORE-OCCUPIED",
        )
    if not path.exists():
        require_folder(path, "--out")
        require_outside_stores(path)


def finished_store(path: Path, identity: Identity) -> FeatureStore | None:
    """Return the finished store at `path`, None if there is none or an unfinished one.

    Raises StoreUsageError if the store has another identity, or something else is at `path`.
    """
    check_place(path)
    if not (path / STORE_JSON).exists():
        return None
    store = FeatureStore.open(path)
    different = list(differences(store.identity.to_json(), identity.to_json()))
    if different:
        raise StoreUsageError(
            f"{path} exists: {'; '.join(different)}; choose another folder",
            code="E-STORE-OTHER",
        )
    return store


def shard_records_at(path: Path) -> int | None:
    """Return how many records a shard has in the store at `path`, finished or not."""
    if (path / STORE_JSON).exists():
        return FeatureStore.open(path).metadata.shard_records
    plan = Journal(path).plan()
    return None if plan is None else plan.shard_records


def update_layout(
    store: FeatureStore,
    grids: Grids,
    retry: Collection[str] = (),
    changed: Collection[str] = (),
) -> Layout:
    """Return the shards to write so that a finished store holds all ids of `grids`.

    First the shards that have lost a file, in their old places. Behind all rows of the store, new
    shards: of the ids that the store does not know, of those whose status is in `retry`, and of
    those in `changed`, to whose old records no id refers from then on. Raises StoreError if the
    store has an id that `grids` does not have.
    """
    shard_records: int = store.metadata.shard_records
    lost = _lost_shards(store)
    left_out: list[str] = []
    rows: dict[tuple[str, int], list[tuple[int, str]]] = {place: [] for place in lost}
    is_new = np.ones(len(grids.ids), bool)
    for batch in store.index_batches("image_id", "status", "shape", "row"):
        positions = grids.ids.find(batch.column("image_id")).tolist()
        for at, (image_id, status, shape, row) in zip(positions, rows_of(batch), strict=True):
            place = (shape, row // shard_records)
            if at < 0:
                left_out.append(image_id)
            elif place in rows:
                rows[place].append((row, image_id))
                is_new[at] = False
            else:
                is_new[at] = status in retry or image_id in changed
    if left_out:
        raise StoreUsageError(
            f"{store.path} exists and holds {counted(len(left_out), 'image')} that the manifest "
            f"does not have (such as {left_out[0]!r}); to add to it, pass all of its images and "
            f"the new ones, or choose another folder",
            code="E-STORE-IDS",
        )
    again: list[Shard] = []
    for (shape, index), held in sorted(rows.items()):  # nothing is held if all ids have moved
        held.sort()
        at, ids = tuple(row for row, _ in held), Ids.of(image_id for _, image_id in held)
        first_row, records = index * shard_records, lost[shape, index]
        again.append(Shard(0, GridShape.parse(shape), index, first_row, records, ids, at))
    taken = {shape: store.metadata.grid_shapes[str(shape)] for shape in store.grid_shapes}
    return lay_out(grids.subset(is_new), shard_records, taken, tuple(again))


def _lost_shards(store: FeatureStore) -> dict[tuple[str, int], int]:
    """Return {(grid shape, index): rows covered} of shards without a file of full size.

    An update that was interrupted continues with those that it began with.
    """
    places = {s: (s.shape, s.first_row // store.metadata.shard_records) for s in store.shards}
    plan = Journal(store.path).plan()
    if plan is not None and plan.parent == store.digest:
        again = set(plan.again)
        return {place: shard.records for shard, place in places.items() if place in again}
    return {
        place: shard.records
        for shard, place in places.items()
        if shard_size_problem(store.path, shard)
    }


@dataclass(frozen=True)
class Run:
    """The shards of a layout, and the store that they make, new or updated."""

    path: Path
    identity: Identity
    layout: Layout
    parent: FeatureStore | None  # the finished store that is updated
    scale: Scale | None = None  # of a new store of uint8
    about: About = NO_TEXTS  # of a new store

    @property
    def journal(self) -> Journal:
        return Journal(self.path)

    @property
    def parent_digest(self) -> str | None:
        return self.parent.digest if self.parent else None

    @cached_property
    def plan(self) -> Plan:
        """The plan of this run, as its journal contains it."""
        shards = self.layout.shards
        return Plan(
            identity=self.identity.to_json(),
            shard_records=self.layout.shard_records,
            layout=self.layout.fingerprint(),
            parent=self.parent_digest,
            again=tuple((str(s.shape), s.index) for s in shards if self.is_in_parent(s)),
            shards=len(shards),
            ids=sum(len(shard.ids) for shard in shards),
        )

    def check_plan(self, stored: Plan) -> None:
        """Raise StoreUsageError unless the plan in the journal is the one of this run."""
        if stored == self.plan:
            return
        begun, asked = (
            {**plan.identity, "shard_records": plan.shard_records} for plan in (stored, self.plan)
        )
        problem = "; ".join(differences(begun, asked)) or "it was planned for other images"
        raise StoreUsageError(
            f"{self.path} is unfinished and was begun with other options: {problem}. "
            f"Finish it as it was begun, or choose another folder",
            code="E-PLAN-OTHER",
        )

    def is_overtaken(self) -> bool:
        """Return whether another process has committed a store here since this run was planned."""
        digest = None
        if (self.path / STORE_JSON).exists():
            digest = FeatureStore.open(self.path).digest
        return digest != self.parent_digest

    def lengths(self) -> dict[str, int]:
        """Return the lengths of the arrays in records by grid shape, sorted by rows, then cols."""
        lengths = {**(self.parent.metadata.grid_shapes if self.parent else {})}
        for shape, length in self.layout.records.items():
            lengths[str(shape)] = max(length, lengths.get(str(shape), 0))
        return {str(shape): lengths[str(shape)] for shape in sorted(map(GridShape.parse, lengths))}

    def zarr_metadata(self) -> dict[str, bytes]:
        """Return {path relative to the store: bytes} of every zarr.json that the store will have."""
        return zarr_metadata_files(self.identity, self.lengths(), self.layout.shard_records)

    @property
    def generation(self) -> int:
        return self.parent.metadata.generation + 1 if self.parent else 0

    def tables(self) -> dict[TableName, Path]:
        """Return the file of each table that the run writes."""
        return {table: self.path / table_file(table, self.generation) for table in TABLES}

    def check_places(self) -> None:
        """Raise CorruptStoreError if something has the name of a file or a folder to write.

        To be called before anything is written: a store from elsewhere may link to anywhere, and
        a link that a person made is not replaced by a file.
        """
        arrays, shards = self.identity.arrays, self.layout.shards
        check_folders(self.path, self.lengths(), arrays)
        check_plain([self.path / shard.path(array) for shard in shards for array in arrays])
        check_plain([self.journal.receipt_path(shard.number) for shard in shards])
        check_plain([*self.tables().values(), self.path / STORE_JSON])
        check_plain([self.path / name for name in self.zarr_metadata()])
        check_folder((self.path / SCALE_FILE).parent)
        check_plain([self.path / SCALE_FILE])

    def folders(self) -> list[Path]:
        """Return the folders of the features, inner ones first."""
        group = self.path / ZARR_GROUP
        shapes = [group / shape for shape in self.lengths()]
        arrays = [shape / array for shape in shapes for array in self.identity.arrays]
        scale = [] if self.scale is None else [(self.path / SCALE_FILE).parent]
        return [*arrays, *scale, *shapes, group]

    def make_folders(self) -> None:
        """Make the folders of the arrays, and the scale; several processes may do so at once."""
        group = self.path / ZARR_GROUP
        for shape in self.layout.records:
            for array in self.identity.arrays:
                (group / str(shape) / array).mkdir(parents=True, exist_ok=True)
            fsync_folder(group / str(shape))
        if self.scale is not None:
            (self.path / SCALE_FILE).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / SCALE_FILE, self.scale.to_bytes())
        fsync_folder(group)
        fsync_folder(self.path)

    def is_in_parent(self, shard: Shard) -> bool:
        """Return whether a shard is one of the parent's, written again."""
        parent = self.parent
        return parent is not None and is_written_again(shard, parent.metadata.grid_shapes)

    def written(self, shards: Iterable[Shard]) -> Iterator[Written]:
        """Yield those of `shards` that have a receipt."""
        return self.journal.written(shards, self.layout.shard_records, self.identity.arrays)

    def rows(self, shards: Iterable[Shard]) -> Iterator[pa.RecordBatch]:
        """Yield the index rows of the ids of those of `shards` that are written."""
        return (written.rows for written in self.written(shards))

    def pending(self, shards: tuple[Shard, ...]) -> tuple[Shard, ...]:
        """Return those of `shards` to write; the files of the others are hashed to be sure."""
        written = {
            receipt.shard: receipt.files
            for some in self.written(shards)
            for receipt in some.receipts
        }
        done = written.keys() - self.changed(written)
        return tuple(shard for shard in shards if shard.number not in done)

    def changed(self, written: Mapping[int, tuple[ShardRow, ...]]) -> set[int]:
        """Return the numbers of the shards whose files are not those of their receipts."""
        numbers = {file: number for number, files in written.items() for file in files}
        checked = check_files(self.path, list(numbers), "check")
        return {numbers[file] for file, problem in checked if problem}

    def produced_no_records(self) -> bool:
        """Return whether a run that has written every shard would commit no new record at all.

        An update that has written a shard of the parent again counts as a result. So does an id
        that is new to the parent, or whose old record is replaced because its file has changed:
        the store then records the status of that id.
        """
        if any(has_record(rows).true_count for rows in self.rows(self.layout.shards)):
            return False
        if self.parent is None:
            return True
        tried = {image_id for shard in self.layout.shards for image_id in shard.ids}
        refused = (row.image_id for row in self.parent.index if row.status != Status.OK)
        tried.difference_update(refused)
        return not tried and not any(map(self.is_in_parent, self.layout.shards))
