"""The one way to make a store of others: walk over their records, shard by shard, in parallel."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types, and those of dask are partial.

from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
from tqdm import tqdm

from ...base.errors import CorruptStoreError, StoreError, StoreUsageError, UsageError
from ...base.files import free_bytes, require_folder
from ...base.interruption import Stopped, interrupt
from ...base.machine import usable_cores
from ...base.parquet import rows_of
from ...base.text import counted
from ..audit.contents import table_name
from ..audit.verify import verify
from ..files import LocalFiles
from ..geometry import GridShape
from ..identity import DerivedFrom, Identity
from ..layout import ZARR_GROUP, Grids, Ids, Shard, lay_out
from ..lookup import Status
from ..metadata import MAX_RECORD_BYTES, About, store_digest
from ..quantise import Scale
from ..shards import RecordHashes
from ..store import FeatureStore
from ..tables import IndexRow, index_lines
from ..writing.commit import complete_commit, merge_libraries
from ..writing.merge import merged
from ..writing.receipts import check_libraries, fits_index
from ..writing.run import finished_store
from ..writing.writer import ShardTransaction, StoreWriter, encode_record
from .stored import Encoded, LocalRecords, StoredRecords, decoded

PARENT = "parent"  # column beside those of the index: the number of the store a row comes from
TASKS_PER_CORE = 16  # that dask gets at a time, so that the rows of no more shards are in memory
KEPT_TEXTS = ("licence", "source_licence", "citation", "homepage")  # of `About`

Item = TypeVar("Item")
Result = TypeVar("Result")
Record = dict[str, np.ndarray]  # the arrays of a record, with the numbers that are on disk


def derived_identity(
    parent: FeatureStore, operation: str, settings: dict[str, Any], **changes: Any
) -> Identity:
    """Return the identity of a store that is made from `parent`, with `changes` to its fields."""
    origin = DerivedFrom(parent.digest, operation, settings)
    return msgspec.structs.replace(parent.identity, **changes, derived_from=origin)


class OriginRow(NamedTuple):
    """A row of the index of one of the parents."""

    parent: int
    row: IndexRow


def keep_all(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Return the rows of an index as they are."""
    return rows


@dataclass(frozen=True)
class Origins:
    """The records that a new store is made of: those of its parents that `choose` keeps.

    If several parents have an id, the first one's record counts. All grids of the new store have
    the grid shape `shape` if it is given, and otherwise the shapes that they have.
    """

    parents: tuple[FeatureStore, ...]
    choose: Callable[[pa.RecordBatch], pa.RecordBatch] = keep_all  # from rows of the index
    shape: GridShape | None = None

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows, sorted by id, with the column PARENT.

        Raises CorruptStoreError for a row that no writer writes.
        """
        streams = [_parent_rows(number, store) for number, store in enumerate(self.parents)]
        for batch in merged(streams):
            yield self.choose(batch)

    @cached_property
    def grids(self) -> Grids:
        """The ids of the new store with their grid shapes."""
        ids: list[pa.Array] = []
        numbers = [np.zeros(0, int)]
        known: dict[str, int] = {}  # a number for each grid shape
        for batch in self.rows():
            shapes = batch.column("shape").dictionary_encode()
            of_batch = [known.setdefault(s, len(known)) for s in shapes.dictionary.to_pylist()]
            numbers.append(np.array(of_batch, int)[shapes.indices.to_numpy()])
            ids.append(batch.column("image_id").cast(pa.large_string()))
        column = Ids(pa.concat_arrays([pa.array([], pa.large_string()), *ids]))
        number = np.concatenate(numbers)
        if self.shape is not None:
            return Grids(column, (self.shape,), np.zeros_like(number))
        return Grids(column, tuple(map(GridShape.parse, known)), number)

    def shards(self, shard_records: int) -> "Iterator[tuple[GridShape, int, list[OriginRow]]]":
        """Yield (grid shape, index, rows) of each shard of the new store, as `lay_out` cuts them."""
        held: defaultdict[GridShape, list[OriginRow]] = defaultdict(list)
        done: Counter[GridShape] = Counter()
        for batch in self.rows():
            for *row, parent in rows_of(batch):
                origin = OriginRow(parent, IndexRow._make(row))
                shape = self.shape or GridShape.parse(origin.row.shape)
                held[shape].append(origin)
                if len(held[shape]) == shard_records:
                    yield shape, done[shape], held.pop(shape)
                    done[shape] += 1
        for shape, rows in held.items():
            yield shape, done[shape], rows


def _parent_rows(number: int, store: FeatureStore) -> Iterator[pa.RecordBatch]:
    arrays = len(store.identity.arrays)
    for batch in store.index_batches():
        if not fits_index(batch, arrays):
            raise CorruptStoreError(
                f"{store.files.shown(table_name(store, 'index'))}: holds a row that no writer writes; "
                f"type: clipfeat store verify {store.location}",
                code="E-TABLE-ROW",
            )
        yield batch.append_column(PARENT, pa.array(np.full(len(batch), number)))


@dataclass(frozen=True)
class Derivation:
    """A store to make of others.

    `change` returns the arrays of a new record, from its row in the parent's index and its arrays
    there; None: the bytes of records are copied unchanged.
    """

    origins: Origins
    identity: Identity
    shard_records: int
    change: Callable[[IndexRow, Record], Record] | None = None
    scale: Scale | None = None  # of a new store of uint8

    @property
    def operation(self) -> str:
        """What is done, as the identity names it."""
        assert self.identity.derived_from is not None
        return self.identity.derived_from.operation


def derive(derivation: Derivation, out: Path) -> FeatureStore:
    """Make a store of others at `out`, or continue; return it.

    Every record is proven by its sha256 in the parent's index, and the index by the parent's digest.
    At the end the sha256 of every file of the new store is checked. In memory are a record and the
    rows of TASKS_PER_CORE shards for each core, and about 100 bytes for each id; of a parent behind
    a URL also what is received ahead. Raises UsageError if nothing is chosen, StoreUsageError if
    something else is at `out` or the disk is too small, StoreError if a server fails,
    CorruptStoreError for a parent whose bytes have changed.
    """
    store = finished_store(out, derivation.identity)
    if store is None:
        if not len(derivation.origins.grids.ids):
            raise UsageError("no image id is left: choose others", code="E-DERIVE-EMPTY")
        for parent in derivation.origins.parents:
            _check_digest(parent)
        _check_sizes(derivation)
        _check_space(derivation, out)
        store = _write(derivation, out)
    else:
        complete_commit(store)  # of a process that was killed
    problems = verify(out)
    if problems:
        raise CorruptStoreError(
            f"{out} has {counted(len(problems), 'problem')}: {problems[0].text()}; or remove the store "
            f"and run the same command again",
            code="E-DERIVE-VERIFY",
        )
    return store


def check_out(out: Path, parents: Iterable[FeatureStore]) -> None:
    """Raise UsageError if `out` is one of the parents or inside one, or cannot be made."""
    for files in (parent.files for parent in parents):
        if isinstance(files, LocalFiles) and out.resolve().is_relative_to(files.path.resolve()):
            raise UsageError(
                f"{out} is the store {files.path} or inside it; choose another folder",
                code="E-DERIVE-OUT",
            )
    if not out.exists():
        require_folder(out, "the new store")


def in_parallel(
    call: Callable[[Item], Result],
    items: Iterable[Item],
    at_end: Callable[[], object] = lambda: None,
) -> Iterator[Result]:
    """Yield the result of each item in order; dask runs the calls in a thread for each core.

    What takes time (zstd, sha256, numpy, the disk) does not hold the interpreter's lock. After an
    error, and in the end, `at_end` is called; then it waits for the calls that have begun. Ctrl-C
    also ends what these wait for.
    """
    from dask.base import compute
    from dask.delayed import delayed

    cores, remaining = usable_cores(), iter(items)
    with ThreadPoolExecutor(cores) as pool:
        try:
            while some := list(islice(remaining, cores * TASKS_PER_CORE)):
                tasks = [delayed(partial(call, item))() for item in some]
                yield from compute(*tasks, scheduler="threads", pool=pool)
        except KeyboardInterrupt:
            at_end()  # first, so that no call begins to wait again
            interrupt()
            raise
        finally:
            at_end()


def _check_digest(store: FeatureStore) -> None:
    """Raise CorruptStoreError unless the tables of a store are those of its digest."""
    lines = map(index_lines, store.index_batches())
    if store_digest(store.identity, store.shards, lines) != store.digest:
        raise CorruptStoreError(
            f"{store.location}: its tables do not give its digest; copy it again from its source",
            code="E-STORE-DIGEST",
        )


def _check_sizes(derivation: Derivation) -> None:
    """Raise UsageError if a grid would be larger than readers accept."""
    for shape in derivation.origins.grids.shapes:
        size = derivation.identity.array("grid", shape).bytes
        if size > MAX_RECORD_BYTES:
            raise UsageError(
                f"a {shape} grid would have {size:,} bytes; a store holds grids of at most "
                f"{MAX_RECORD_BYTES:,}; choose a smaller grid or dtype",
                code="E-DERIVE-SIZE",
            )


def _check_space(derivation: Derivation, out: Path) -> None:
    """Raise StoreUsageError if the new store will probably not fit on the disk.

    The size is estimated: as compressible as the parents, or not compressed with codec none.
    """
    grids, parents = derivation.origins.grids, derivation.origins.parents
    counts = np.bincount(grids.numbers, minlength=len(grids.shapes)).tolist()
    numbers = sum(
        n * derivation.identity.record_bytes(shape)
        for n, shape in zip(counts, grids.shapes, strict=True)
    )
    shards = [(parent, shard) for parent in parents for shard in parent.shards]
    stored = sum(shard.bytes for _, shard in shards)
    decoded = sum(
        shard.records * parent.identity.record_bytes(GridShape.parse(shard.shape))
        for parent, shard in shards
        if "/grid/" in shard.path
    )
    ratio = 1.0 if derivation.identity.codec == "none" else stored / max(decoded, 1)
    written = sum(path.lstat().st_size for path in (out / ZARR_GROUP).rglob("c.*"))
    needed, free = int(numbers * ratio) - written, free_bytes(out)
    if needed > free:
        raise StoreUsageError(
            f"{out}: about {needed:,} bytes will be written, and {free:,} bytes are free; "
            f"choose another disk",
            code="E-DERIVE-SPACE",
        )


def _write(derivation: Derivation, out: Path) -> FeatureStore:
    """Write the shards that are not written yet, each a task of its own, and commit."""
    origins, identity = derivation.origins, derivation.identity
    layout = lay_out(origins.grids, derivation.shard_records)
    write_one = _ShardTask(derivation, out)
    with (
        StoreWriter(
            out, identity, layout, scale=derivation.scale, about=_kept_texts(origins.parents)
        ) as writer,
        tqdm(
            total=len(origins.grids.ids), desc=derivation.operation, unit="image", disable=None
        ) as bar,
    ):
        pending = {(shard.shape, shard.index): shard for shard in writer.pending}
        bar.update(bar.total - sum(len(shard.ids) for shard in writer.pending))
        tasks = (
            (pending[shape, index], rows)
            for shape, index, rows in origins.shards(derivation.shard_records)
            if (shape, index) in pending
        )
        for _ in in_parallel(partial(write_one, bar), tasks, write_one.stop):
            pass
        return writer.commit()


def _kept_texts(parents: tuple[FeatureStore, ...]) -> About:
    """Return what is said about the parents and holds for a store made from them, too."""
    texts = {name: {getattr(p.metadata.about, name) for p in parents} for name in KEPT_TEXTS}
    return About(**{name: values.pop() for name, values in texts.items() if len(values) == 1})


class _ShardTask:
    """Writes one shard of the new store; called in several threads at once."""

    def __init__(self, derivation: Derivation, out: Path):
        parents = derivation.origins.parents
        self._derivation = derivation
        self._out = out
        self._records = [_records_of(parent) for parent in parents]
        self._stopped = Event()
        self._libraries = merge_libraries(parent.metadata.libraries for parent in parents)
        try:
            check_libraries(self._libraries)
        except ValueError as error:
            raise StoreError(f"{parents[0].location}: {error}", code="E-DERIVE-LIBRARIES") from None

    def stop(self) -> None:
        """End the calls that have begun before their next record."""
        self._stopped.set()

    def __call__(self, bar: "tqdm[Any]", task: tuple[Shard, list[OriginRow]]) -> None:
        """Write a shard whose records have these rows in the parents."""
        shard, origins = task
        derivation = self._derivation
        written: list[IndexRow] = []
        with (
            ExitStack() as stack,
            ShardTransaction(
                self._out, derivation.identity, derivation.shard_records, shard, self._libraries
            ) as files,
        ):
            records = [stack.enter_context(closing(some)) for some in self._stored(origins)]
            for origin, row in zip(origins, shard.rows, strict=True):
                if self._stopped.is_set():
                    raise Stopped
                hashes = RecordHashes()
                if origin.row.status == Status.OK:
                    encoded = next(records[origin.parent])
                    record, hashes = self._new_record(origin, encoded, shard.shape)
                    files.append(row - shard.first_row, record)
                place = {"shape": str(shard.shape), "row": row}
                written.append(origin.row._replace(**place, **hashes._asdict()))
                with bar.get_lock():
                    bar.update()
            files.commit(tuple(written))

    def _stored(self, origins: list[OriginRow]) -> Iterator[Generator[Encoded]]:
        """Yield for each parent its records among these, in their order, as they are there."""
        for parent, records in enumerate(self._records):
            rows = [origin.row for origin in origins if origin.parent == parent]
            yield records.read([row for row in rows if row.status == Status.OK])

    def _new_record(
        self, origin: OriginRow, encoded: Encoded, shape: GridShape
    ) -> tuple[Encoded, RecordHashes]:
        """Return the arrays of a record as they will be on disk."""
        parent, row = origin
        change = self._derivation.change
        if change is None:
            return encoded, RecordHashes(row.checksum, row.record_sha256)
        identity = self._records[parent].identity
        record = decoded(identity, GridShape.parse(row.shape), encoded)
        encoded = encode_record(self._derivation.identity, shape, change(row, record))
        return encoded, RecordHashes.of(encoded.values())


def _records_of(store: FeatureStore) -> StoredRecords:
    """Return what reads the records of a parent, wherever it is."""
    if isinstance(store.files, LocalFiles):
        return LocalRecords(store)
    from .received import ReceivedRecords  # here: it imports urllib3

    return ReceivedRecords(store)
