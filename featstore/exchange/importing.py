"""Read the features of other programs into a store."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# tqdm and pyarrow have no types.

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import numpy as np

from ...base.errors import StoreError, StoreUsageError, UsageError, reason_of
from ...base.files import free_bytes
from ...base.interruption import Stopped
from ...base.parquet import MAX_TEXT
from ...base.text import counted, is_unicode, printable
from ..deriving.derive import in_parallel
from ..geometry import MAX_GRID_SIDE, GridShape
from ..identity import IMPORTED, Codec, FloatDtype, Identity
from ..layout import ZARR_GROUP, Grids, Layout, Shard, lay_out
from ..lookup import MAX_SHAPES, Status
from ..metadata import MAX_IDS, MAX_RECORD_BYTES, MAX_SHARD_RECORDS
from ..shards import RecordHashes
from ..store import FeatureStore
from ..tables import IndexRow, frequent_reasons, reasons_text, rows_without_record
from ..writing.commit import complete_commit
from ..writing.run import finished_store, shard_records_at
from ..writing.writer import SHARD_RECORDS, ShardTransaction, StoreWriter, encode_record
from .options import Sizes, read_sizes
from .progress import Progress
from .records import FeatureReader, Features, Item, status_of
from .source_files import source_hashes, stamps_of

ONE_CELL = GridShape(1, 1)  # planned for an item with a problem
EXAMPLES = 3  # of ids that a source has twice
LEAST_RATIO = 0.5  # of zstd, for the check of the disk


@dataclass(frozen=True)
class ImportReport:
    """The result of an import.

    Attributes:
        store: The finished store.
        refused: Rows of the index of ids without a record: status, reason, place in the source.
        images: Number of images that this call has read.
        seconds: It took to read and to write them.
        duplicates: How many items were left out since their id had come before.
        duplicate_ids: The first of these ids.
        boxes_outside: Number of images that this call has read with a box beyond the image.
    """

    store: FeatureStore
    refused: tuple[IndexRow, ...]
    images: int = 0
    seconds: float = 0.0
    duplicates: int = 0
    duplicate_ids: tuple[str, ...] = ()
    boxes_outside: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the report for scripts."""
        return {
            "store": self.store.location,
            "digest": self.store.digest,
            "counts": self.store.metadata.counts,
            "refused": frequent_reasons(self.refused, most=100),
            "images": self.images,
            "seconds": self.seconds,
            "duplicates": self.duplicates,
            "duplicate_ids": list(self.duplicate_ids),
            "boxes_outside": self.boxes_outside,
        }

    def text(self) -> str:
        """Return lines for a person."""
        store = self.store
        speed = f", {self.images / self.seconds:.1f} images/s" if self.images else ""
        digest = store.digest[:16]
        lines = [f"{store.location}: {counted(len(store), 'record')}{speed}, digest {digest}..."]
        if n := len(self.refused):
            lines.append(f"{counted(n, 'image')} gave no record: {reasons_text(self.refused)}")
        if self.duplicates:
            lines.append(duplicates_text(self.duplicates, self.duplicate_ids))
        if n := self.boxes_outside:
            lines.append(
                f"{counted(n, 'image')} with a box beyond the image, or of negative size: "
                "are width and height of the images exchanged?"
            )
        return "\n".join(lines)


def duplicates_text(count: int, examples: Sequence[str]) -> str:
    """Return how many items were left out since their id had come before."""
    named = ", ".join(printable(f"{image_id:.100}") for image_id in examples)
    return f"{counted(count, 'item')} left out, since the id came before (such as {named})"


@dataclass
class Scan:
    """The items of a source by id; of several with one id, the first without a problem."""

    items: dict[str, Item] = field(default_factory=dict[str, Item])
    duplicates: int = 0
    duplicate_ids: list[str] = field(default_factory=list[str])

    def add(self, item: Item) -> None:
        """Take an item, or count it as one whose id has come before."""
        first = self.items.get(item.image_id)
        if first is None:
            self.items[item.image_id] = item
            return
        if first.problem and not item.problem:
            self.items[item.image_id] = item
        self.duplicates += 1
        if len(self.duplicate_ids) < EXAMPLES:
            self.duplicate_ids.append(item.image_id)


def import_features(
    reader: FeatureReader,
    out: str | Path,
    *,
    dtype: FloatDtype | None = None,
    codec: Codec = "zstd",
    shard_size: int | None = None,
    sizes: Sizes | str | Path | None = None,
) -> ImportReport:
    """Read the features of `reader` into a store at `out`, or continue.

    `dtype` is by default that of the source, so that nothing is lost. `sizes`, a mapping or a file
    for `read_sizes`, gives the width and height of images in pixels where the source does not. A
    damaged item becomes a row of the index with the reason, and does not stop the rest. In memory
    are about 500 bytes for each image, and a record for each core.

    Raises UsageError for a source without items (E-IMPORT-EMPTY) or without one that can be read
    (E-IMPORT-NO-RECORDS), StoreError for one that changes meanwhile (E-IMPORT-CHANGED),
    StoreUsageError if something else is at `out` or the disk is too small.
    """
    out = Path(out)
    if isinstance(sizes, str | Path):
        sizes = read_sizes(sizes)
    if shard_size is not None and not 1 <= shard_size <= MAX_SHARD_RECORDS:
        raise UsageError(
            f"--shard-size must be from 1 to {MAX_SHARD_RECORDS:,}; got {shard_size}",
            code="E-SHARD-SIZE",
        )
    stamps = stamps_of(reader.files)
    identity = imported_identity(reader, dtype, codec)
    store = finished_store(out, identity)
    if store is not None:
        complete_commit(store)  # of a process that was killed
        return ImportReport(store, rows_without_record(store.index_batches()))
    scan = scan_items(reader, identity)
    if not scan.items:
        raise UsageError(
            f"{_names(reader.files)}: there are no features in {reader.format} here",
            code="E-IMPORT-EMPTY",
        )
    grids = Grids.of({image_id: item.shape for image_id, item in scan.items.items()})
    layout = lay_out(grids, shard_size or shard_records_at(out) or SHARD_RECORDS)
    _check_space(scan.items.values(), identity, out)
    return _write(_Source(reader, scan, sizes or {}, stamps), identity, layout, out)


def imported_identity(reader: FeatureReader, dtype: FloatDtype | None, codec: Codec) -> Identity:
    """Return the identity of a store of these features; hashes the files of the source."""
    hashes = source_hashes(reader.files)
    return Identity(
        backbone={"model": IMPORTED, "format": reader.format, **hashes},
        recipe={"name": reader.format, **reader.settings},
        precision=reader.dtype,
        dtype=dtype or reader.dtype,
        codec=codec,
        dim=reader.dim,
        pooled_dim=None,
        regions=reader.regions,
    )


def scan_items(reader: FeatureReader, identity: Identity) -> Scan:
    """Return all items of a source, those that no store can hold with a problem.

    Raises UsageError if they are too many, or have too many grid shapes.
    """
    scan = Scan()
    shapes: dict[GridShape, GridShape] = {}  # the same object for all items of one shape
    with Progress("scan", None) as progress:
        for found in progress.each(reader.items()):
            item = _possible(found, identity)
            scan.add(item._replace(shape=shapes.setdefault(item.shape, item.shape)))
            if len(scan.items) >= MAX_IDS or len(shapes) > MAX_SHAPES:
                raise UsageError(
                    f"{_names(reader.files)}: a store holds at most {MAX_IDS - 1:,} images of "
                    f"{MAX_SHAPES:,} grid shapes; import parts of the source",
                    code="E-IMPORT-SHAPES",
                )
    return scan


def _possible(item: Item, identity: Identity) -> Item:
    """Return an item as the store can have it: with an id that it can hold, and a possible shape."""
    image_id, problem = _escaped(item.image_id), item.problem
    if (size := len(image_id.encode())) > MAX_TEXT:
        image_id = image_id[: MAX_TEXT // 4]
        problem = f"its id has {size:,} bytes; a store holds at most {MAX_TEXT:,}"
    item = item._replace(image_id=image_id, source=_text(item.source), problem=_text(problem))
    if item.problem:
        return item._replace(shape=ONE_CELL)
    problem, shape = "", item.shape
    if not 1 <= min(shape) <= max(shape) <= MAX_GRID_SIDE:
        problem = f"a grid has 1 to {MAX_GRID_SIDE} rows and cols, not {shape}"
    elif identity.record_bytes(shape) > MAX_RECORD_BYTES:
        problem = f"a grid of {shape} is larger than {MAX_RECORD_BYTES:,} bytes"
    elif identity.regions and shape.cols != 1:
        problem = f"regions have one col, not {shape}"
    if problem:
        return item._replace(shape=ONE_CELL, problem=problem, status=Status.TOO_LARGE)
    return item


def _escaped(text: str) -> str:
    """Return a text with escapes for what is no Unicode."""
    return text if is_unicode(text) else text.encode(errors="backslashreplace").decode()


def _text(text: str) -> str:
    """Return a text for people that a store can hold."""
    return _escaped(text)[:300]


def _names(files: Sequence[Path]) -> str:
    """Return the name of a source for people."""
    return (
        f"{files[0]}" + (f" and {len(files) - 1:,} more" if len(files) > 1 else "") if files else ""
    )


def _check_space(items: Iterable[Item], identity: Identity, out: Path) -> None:
    """Raise StoreUsageError if the store will not fit on the disk, however well it compresses."""
    numbers = sum(identity.record_bytes(item.shape) for item in items if not item.problem)
    ratio = 1.0 if identity.codec == "none" else LEAST_RATIO
    written = sum(path.lstat().st_size for path in (out / ZARR_GROUP).rglob("c.*"))
    needed, free = int(numbers * ratio) - written, free_bytes(out)
    if needed > free:
        raise StoreUsageError(
            f"{out}: {needed:,} bytes or more will be written, and {free:,} bytes are free; "
            f"choose another disk",
            code="E-IMPORT-SPACE",
        )


class _Source(NamedTuple):
    """What is read, scanned."""

    reader: FeatureReader
    scan: Scan
    sizes: Sizes
    stamps: list[tuple[int, int]]  # of its files, before they were hashed


def _write(source: _Source, identity: Identity, layout: Layout, out: Path) -> ImportReport:
    """Write the shards that are not written yet, each a task of its own, and commit."""
    scan = source.scan
    write_one = _ShardTask(source, identity, layout.shard_records, out)
    started = time.monotonic()
    with StoreWriter(out, identity, layout) as writer:
        images, total = sum(len(shard.ids) for shard in writer.pending), len(scan.items)
        with Progress("import", total, done=total - images) as progress:
            for _ in in_parallel(partial(write_one, progress), writer.pending, write_one.stop):
                pass
        if stamps_of(source.reader.files) != source.stamps:
            writer.rollback()  # its records may not be of the bytes that the identity names
            raise StoreError(
                f"{_names(source.reader.files)} has changed while it was read, and nothing was kept; "
                f"run the same command again when it is complete",
                code="E-IMPORT-CHANGED",
            )
        if writer.produced_no_records():
            refused = rows_without_record(writer.rows())
            writer.rollback()
            raise StoreError(
                f"no image gave a record, no store was written: {reasons_text(refused)}",
                code="E-IMPORT-NO-RECORDS",
            )
        store = writer.commit()
    seconds = time.monotonic() - started
    refused = rows_without_record(store.index_batches())
    return ImportReport(
        store,
        refused,
        images,
        seconds,
        scan.duplicates,
        tuple(scan.duplicate_ids),
        len(write_one.boxes_outside),
    )


class _ShardTask:
    """Writes one shard of the new store; called in several threads at once."""

    def __init__(self, source: _Source, identity: Identity, shard_records: int, out: Path):
        self._source = source
        self._identity = identity
        self._shard_records = shard_records
        self._out = out
        self._stopped = Event()
        self.boxes_outside: list[str] = []  # ids of images

    def stop(self) -> None:
        """End the calls that have begun before their next record."""
        self._stopped.set()

    def __call__(self, progress: Progress, shard: Shard) -> None:
        """Write a shard."""
        rows: list[IndexRow] = []
        with ShardTransaction(
            self._out, self._identity, self._shard_records, shard, libraries={}
        ) as files:
            for image_id, row in zip(shard.ids, shard.rows, strict=True):
                if self._stopped.is_set():
                    raise Stopped
                item = self._source.scan.items[image_id]
                rows.append(self._write(files, shard, row, item))
                progress.add()
            files.commit(tuple(rows))

    def _write(self, files: ShardTransaction, shard: Shard, row: int, item: Item) -> IndexRow:
        """Append the record of an item if it has one; return its row of the index."""
        image_id, shape = item.image_id, shard.shape
        width, height = self._source.sizes.get(image_id, (0, 0))

        def without_record(status: Status, reason: str) -> IndexRow:
            place = (str(shape), row, width, height, "", item.source)
            return IndexRow(image_id, status, _text(reason), *place)

        if item.problem:
            return without_record(item.status, item.problem)
        try:
            features = self._source.reader.read(item)
            record = as_record(features, shape, self._identity)
        except (OSError, OverflowError, ValueError) as error:
            return without_record(status_of(error), reason_of(error))
        encoded = encode_record(self._identity, shape, record)
        files.append(row - shard.first_row, encoded)
        if features.width and features.height:
            width, height = features.width, features.height
        if width and features.has_box_beyond(width, height):
            self.boxes_outside.append(image_id)
        found = (features.source_sha256, item.source)
        hashes = RecordHashes.of(encoded.values())
        return IndexRow(image_id, Status.OK, "", str(shape), row, width, height, *found, *hashes)


def as_record(features: Features, shape: GridShape, identity: Identity) -> dict[str, np.ndarray]:
    """Return features as the arrays of a record, {name: array}, checked.

    Raises ValueError for another shape and for a number that is not finite, OverflowError for one
    that is finite, but not in the dtype of the store.
    """
    grid = features.grid
    if grid.shape != (*shape, identity.dim):
        raise ValueError(f"its features have the shape {grid.shape}, not {(*shape, identity.dim)}")
    _check_finite("features", grid)
    with np.errstate(over="ignore"):
        stored = grid.astype(identity.stored_dtype, copy=False)
    if stored.dtype.itemsize < grid.dtype.itemsize and not np.isfinite(stored).all():
        raise OverflowError(f"has a number beyond {identity.dtype}; import it as float32")
    record = {"grid": stored}
    for name in identity.regions:
        values: np.ndarray | None = getattr(features, name)
        wanted = identity.array(name, shape)
        if values is None or values.shape != wanted.shape:
            found = "none" if values is None else f"the shape {values.shape}"
            raise ValueError(f"its {name} must have the shape {wanted.shape}; there is {found}")
        _check_finite(name, values)
        record[name] = values.astype(wanted.dtype, copy=False)
        if name == "classes" and (record[name] != values).any():
            raise ValueError("a class is beyond 32 bits")
    return record


def _check_finite(name: str, values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"its {name} hold a number that is not finite (NaN or infinite)")
