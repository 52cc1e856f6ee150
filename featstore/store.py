"""Open a store and read records by image id, in any order, at the speed of memory."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa

from ..base.errors import CorruptStoreError, MissingRecordError, StoreError
from ..base.parquet import rows_of
from ..base.text import is_url, printable
from .checks import check_folders, check_shards
from .format import (
    JOURNAL,
    NORMAL_FORMS,
    STORE_JSON,
    GridShape,
    Identity,
    ImageId,
    IndexRow,
    ShardRow,
    Status,
    id_text,
    id_texts,
    in_normal_form,
    quoted,
    table_file,
)
from .geometry import Area
from .layout import shard_path
from .lookup import SHAPE_BIT, STATUSES, Lookup, Places, area_of, status_of
from .metadata import metadata_files, read_card
from .reading import BufferPool, ThreadsOfObject
from .shards import (
    ABSENT,
    CRC_BYTES,
    Buffer,
    Index,
    as_bytes,
    index_bytes,
    opened,
    read_index,
    read_record,
)
from .tables import index_rows, most_shards, read_shards
from .tables import read_index as read_index_table

INLINE_BYTES = 1 << 18  # batches below are read sooner than threads have taken them up
SPANS_A_THREAD = 4  # parts that a batch is cut into for each thread, so that all end together
INDEX_CACHE_BYTES = 64 << 20  # of shard indexes kept in memory
MAX_REASONS = 1 << 16  # of refused ids, kept in memory for messages
EXAMPLE_ROWS = 1000  # of the index, among which an example of an id is looked for


@dataclass(frozen=True)
class FeatureBatch:
    """The records of the ids asked for, in that order."""

    features: np.ndarray  # (image, cell, dim), dtype of the store, zeros behind a smaller grid
    mask: np.ndarray  # (image, cell) bool, True where a cell holds pixels of the image
    grid_shapes: np.ndarray  # (image, 2) int64: rows, cols
    pooled: np.ndarray | None  # (image, dim), where the store has pooled vectors


class _Wanted(NamedTuple):
    """One record to read."""

    shape: str
    shard: int  # index in the array
    position: int  # in the shard
    check: bytes  # the last bytes of the record on disk
    out: Buffer  # where its bytes go


class FeatureStore:
    """A finished store, open for reading.

    Opening reads store.json and the look-up, or maps it where it is large. Safe to share
    between threads, to inherit by fork and to send to a spawned process: no file stays open
    between reads, and a child starts threads of its own. They end with the object.

    Image ids are texts. A whole number, Python's or numpy's, is looked up as its decimal text;
    anything else is a TypeError. Unicode's normal forms NFC and NFD of an id are the same id,
    unless the store has both.
    """

    def __init__(self, path: Path, card: dict[str, Any], *, verify: bool):
        """Use `FeatureStore.open`."""
        self.path = path.absolute()  # the working directory may be another one later
        self.card = card
        self.identity = Identity.from_json(card["identity"])
        self.digest: str = card["digest"]
        self.grid_shapes = tuple(sorted(map(GridShape.parse, card["grid_shapes"])))
        self._names = tuple(map(str, self.grid_shapes))
        self._sizes = np.array(self.grid_shapes, np.int64).reshape(-1, 2)  # rows, cols
        self._areas = tuple(map(Area.parse, card.get("areas", [])))
        self._dtype = self.identity.numpy_dtype
        self._verify = verify
        self._memory = BufferPool()
        self._threads = ThreadsOfObject()
        self._shard_records: int = card["shard_records"]
        check_folders(self.path, card["grid_shapes"], self.identity.arrays)
        ids = sum(card["counts"].values())
        self._lookup = Lookup(self.table_path("lookup"), ids, card["tables"]["lookup"])
        self._lengths = np.array([card["grid_shapes"][str(s)] for s in self.grid_shapes])
        cached = max(16, INDEX_CACHE_BYTES // index_bytes(self._shard_records))
        # Not a method of this object, which would then live until the garbage collector comes.
        self._shard_index: Callable[[str], Index] = lru_cache(cached)(
            partial(_load_index, self._shard_records)
        )

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> "FeatureStore":
        """Return the store at `path`.

        With `verify=False` the checksums of raw records (codec `none`) are not computed, for
        bytes that are known to be good; those of zstd records always are.

        Raises StoreError if there is no store, if it is unfinished or of another format
        version, CorruptStoreError if its tables are not what was written.
        """
        if isinstance(path, str) and is_url(path):
            raise StoreError(
                f"{printable(path)}: stores are not read over the network yet; copy it to this machine",
                code="E-STORE-URL",
            )
        path = Path(path)
        if not (path / STORE_JSON).is_file():
            if (path / JOURNAL).is_dir():
                raise StoreError(
                    f"{path} is unfinished: it has no {STORE_JSON}; "
                    f"run the same clipfeat extract command again to finish it"
                )
            what = "is no feature store" if path.exists() else "does not exist"
            raise StoreError(f"{path} {what}: expected a folder that holds {STORE_JSON}")
        card = read_card(path)
        try:
            return cls(path, card, verify=verify)
        except CorruptStoreError:
            newer = read_card(path)
            if newer["generation"] == card["generation"]:
                raise
            return cls(path, newer, verify=verify)  # it was added to in this very moment

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(FeatureStore.open, verify=self._verify), (self.path,)

    def table_path(self, table: str) -> Path:
        """Return the file of "index", "shards" or "lookup"."""
        return self.path / table_file(table, self.card["generation"])

    def index_batches(self, *names: str) -> Iterator[pa.RecordBatch]:
        """Return the rows of `index` as columns: all, or those called `names`, image_id first."""
        ids, sha256 = sum(self.card["counts"].values()), self.card["tables"]["index"]
        return read_index_table(self.table_path("index"), sha256, ids, names)

    @property
    def index(self) -> Iterator[IndexRow]:
        """The row of every image id asked for, sorted by id, read anew each time."""
        return index_rows(self.index_batches())

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The ids that have a record, sorted; the first use reads the index."""
        return tuple(image_id for image_id, status, _ in self._statuses() if status == Status.OK)

    def _statuses(self) -> Iterator[tuple[str, str, str]]:
        """Yield (image id, status, reason) of every row of the index."""
        for batch in self.index_batches("image_id", "status", "reason"):
            yield from rows_of(batch)

    @cached_property
    def shards(self) -> tuple[ShardRow, ...]:
        """The packing list, sorted by path."""
        path = self.table_path("shards")
        lengths = self.card["grid_shapes"]
        most = most_shards(lengths, self._shard_records, self.identity)
        shards = read_shards(path, self.card["tables"]["shards"], most)
        check_shards(path, shards, lengths, self._shard_records, self.identity)
        return tuple(shards)

    @property
    def dim(self) -> int:
        """Channels of a cell."""
        return self.identity.dim

    def __len__(self) -> int:
        return self.card["counts"][Status.OK]

    def __bool__(self) -> bool:
        """Return True: a store in which no id has a record is a store all the same."""
        return True

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids that have a record, as `ids` has them."""
        return iter(self.ids)

    def __contains__(self, image_id: ImageId) -> bool:
        """Return whether an id has a record."""
        return status_of(self._lookup.find_one(id_text(image_id))[0]) == 0

    def statuses(self, ids: Iterable[ImageId]) -> list[Status | None]:
        """Return what became of each id, None for one that the store does not know."""
        numbers = status_of(self._lookup.find(id_texts(ids)).state).tolist()
        return [STATUSES[n] if n < len(STATUSES) else None for n in numbers]

    def __getitem__(self, image_id: ImageId) -> np.ndarray:
        """Return the grid of one image: (row, col, dim), in the store's dtype.

        Raises MissingRecordError (a KeyError) for an id that has no record.
        """
        shape, _, row, check = self._find_one(image_id)
        grid = np.empty((*shape, self.dim), self._dtype)
        shard, position = divmod(row, self._shard_records)
        checksum = check.to_bytes(8, "little")[:CRC_BYTES]
        self._read_span("grid", [_Wanted(str(shape), shard, position, checksum, as_bytes(grid))])
        return grid

    def mask(self, image_id: ImageId) -> np.ndarray:
        """Return which cells of one image's grid hold pixels of it: (row, col) bool.

        False where the recipe has padded the image. Raises as `store[image_id]` does.
        """
        shape, area, _, _ = self._find_one(image_id)
        return np.ones(shape, bool) if area is None else area.mask(shape)

    def _find_one(self, image_id: ImageId) -> tuple[GridShape, Area | None, int, int]:
        """Return grid shape, real area, row and check of a record."""
        text = id_text(image_id)
        state, number, row, check = self._lookup.find_one(text)
        if status_of(state):
            self._refuse(text, state)
        if number >= len(self.grid_shapes):
            raise self._misplaced("a grid shape too many")
        if row >= self._lengths[number]:
            raise self._misplaced("a row beyond its array")
        shape = self.grid_shapes[number]
        return shape, self._area(area_of(state), shape) if state else None, row, check

    def _area(self, number: int, shape: GridShape) -> Area | None:
        """Return a real area by its number, None for the whole grid."""
        if not number:
            return None
        if number > len(self._areas):
            raise self._misplaced("an area too many")
        area = self._areas[number - 1]
        if not area.lies_in(shape):
            raise self._misplaced(f"the area {area} in a {shape} grid")
        return area

    def read(self, ids: Iterable[ImageId], out: np.ndarray | None = None) -> FeatureBatch:
        """Return the records of `ids`, in that order, padded to the largest grid among them.

        `out`, of shape (image, cell, dim) and the store's dtype, takes the features where it
        is given, which spares the kernel from clearing new memory; it may have more cells than
        the largest grid. Every record's checksum is verified; a record asked for twice is read
        once. Raises MissingRecordError for an id without a record, CorruptStoreError for bytes
        that have changed, ValueError for an `out` that does not fit.
        """
        places = self._find(ids)
        grid_shapes = self._sizes[places.shape]
        counts = grid_shapes.prod(axis=1)
        cells = int(counts.max(initial=0))
        identity = self.identity
        if out is None:
            size = len(counts) * cells * identity.dim * self._dtype.itemsize
            memory = self._memory.take(size).view(self._dtype)
            out = memory.reshape(len(counts), cells, identity.dim)
        self._check_out(out, len(counts), cells)
        mask = np.arange(out.shape[1]) < counts[:, None]
        if not mask.all():
            for record, n in zip(out, counts, strict=True):
                record[n:] = 0
        self._mask_padding(mask, places)
        self._fill("grid", places, out)
        pooled = None if identity.pooled_dim is None else self._pooled(places, identity.pooled_dim)
        return FeatureBatch(out, mask, grid_shapes, pooled)

    def pooled(self, ids: Iterable[ImageId]) -> np.ndarray:
        """Return the pooled vectors of `ids`, in that order, without their grids: (image, dim).

        Raises as `read` does, and StoreError where the store has no pooled vectors.
        """
        if self.identity.pooled_dim is None:
            raise StoreError(f"{self.path} has no pooled vectors: it was extracted without any")
        return self._pooled(self._find(ids), self.identity.pooled_dim)

    def _pooled(self, places: Places, dim: int) -> np.ndarray:
        vectors = np.empty((len(places.row), dim), self._dtype)
        self._fill("pooled", places, vectors)
        return vectors

    def _check_out(self, out: np.ndarray, images: int, cells: int) -> None:
        """Raise ValueError unless `out` can take the records."""
        fits = out.ndim == 3 and (out.shape[0], out.shape[2]) == (images, self.dim)
        if not fits or out.shape[1] < cells or out.dtype != self._dtype:
            raise ValueError(
                f"out: expected {self.identity.dtype} of ({images}, {cells} or more, {self.dim}); "
                f"got {out.dtype} of {out.shape}"
            )
        if not (out.flags.c_contiguous and out.flags.writeable):
            raise ValueError("out: expected an array that is C-contiguous and writeable")

    def shapes(self, ids: Iterable[ImageId]) -> np.ndarray:
        """Return the grid shape of each id: (image, 2) int64, rows and cols.

        Raises MissingRecordError for an id without a record.
        """
        return self._sizes[self._find(ids).shape]

    def zarr_metadata(self) -> dict[str, bytes]:
        """Return {path relative to the store: bytes} of every zarr.json it must have."""
        records = {shape: self.card["grid_shapes"][str(shape)] for shape in self.grid_shapes}
        return metadata_files(self.identity, records, self._shard_records)

    def _find(self, ids: Iterable[ImageId]) -> Places:
        """Return where the records of `ids` lie, raising for the first that has none."""
        texts = id_texts(ids)
        places = self._lookup.find(texts)
        if places.state.any():
            refused = np.flatnonzero(status_of(places.state))
            if refused.size:
                first = int(refused[0])
                self._refuse(texts[first], int(places.state[first]))
        if texts and places.shape.max() >= len(self.grid_shapes):
            raise self._misplaced("a grid shape too many")
        if (places.row >= self._lengths[places.shape]).any():
            raise self._misplaced("a row beyond its array")
        return places

    def _mask_padding(self, mask: np.ndarray, places: Places) -> None:
        """Make `mask` False in the cells that hold no pixel of an image."""
        for k in np.flatnonzero(places.state).tolist():
            shape = self.grid_shapes[places.shape[k]]
            area = self._area(area_of(int(places.state[k])), shape)
            if area is not None:
                mask[k, : shape.cells] = area.mask(shape).ravel()

    def _misplaced(self, what: str) -> CorruptStoreError:
        return CorruptStoreError(f"{self.table_path('lookup')} names {what}")

    def _refuse(self, image_id: str, state: int) -> NoReturn:
        """Raise MissingRecordError, saying what became of the id."""
        if state < 0:
            asked, example = quoted(image_id, self._example)
            like = f"; ids here look like {example}" if self._example else ""
            raise MissingRecordError(
                f"{self.path} has no image id {asked}{like}", code="E-STORE-NO-ID"
            )
        if status_of(state) >= len(STATUSES):
            raise self._misplaced("a status too many")
        forms = (image_id, *(in_normal_form(form, image_id) for form in NORMAL_FORMS))
        known = (self._reasons.get(form) for form in forms)
        status = STATUSES[status_of(state)]
        unknown = f"for its reason type: clipfeat store ls {self.path} --status {status}"
        raise MissingRecordError(
            f"image id {image_id!r:.100} has no record in {self.path}: "
            f"{status}, {next(filter(None, known), unknown)}",
            code="E-STORE-NO-RECORD",
        )

    @cached_property
    def _example(self) -> str:
        """An id that has a record, for messages; "" if there is none near the beginning."""
        rows = islice(self._statuses(), EXAMPLE_ROWS)
        return next((image_id for image_id, status, _ in rows if status == Status.OK), "")

    @cached_property
    def _reasons(self) -> dict[str, str]:
        """Why ids have no record, for messages: of the first MAX_REASONS such ids."""
        refused = (row for row in self._statuses() if row[1] != Status.OK)
        return {image_id: reason for image_id, _, reason in islice(refused, MAX_REASONS)}

    def _fill(self, array: str, places: Places, out: np.ndarray) -> None:
        """Read the records of one array into `out`, each once, in the order of the files."""
        place = places.shape << SHAPE_BIT | places.row
        _, firsts, inverse = np.unique(place, return_index=True, return_inverse=True)
        checks = places.check.astype("<u8").view(np.uint8).reshape(-1, 8)
        checks = checks[:, :CRC_BYTES] if array == "grid" else checks[:, CRC_BYTES:]
        check = np.ascontiguousarray(checks).view(f"V{CRC_BYTES}")[firsts, 0].tolist()
        numbers, rows = places.shape[firsts].tolist(), places.row[firsts].tolist()
        wanted = []
        for k, n, row, last in zip(firsts.tolist(), numbers, rows, check, strict=True):
            shape, cells = self._names[n], self.grid_shapes[n].cells
            record = out[k, :cells] if array == "grid" else out[k]
            number, position = divmod(row, self._shard_records)
            wanted.append(_Wanted(shape, number, position, last, as_bytes(record)))
        self._read_all(array, wanted)
        for k in np.flatnonzero(firsts[inverse] != np.arange(len(inverse))):
            out[k] = out[firsts[inverse[k]]]

    def _read_all(self, array: str, wanted: list[_Wanted]) -> None:
        """Read records with as many threads as there are cores, where there is work for them."""
        size = sum(record.out.size for record in wanted)
        if size < INLINE_BYTES or min(len(wanted), self._threads.count()) < 2:
            self._read_span(array, wanted)
            return
        size = -(-len(wanted) // (self._threads.count() * SPANS_A_THREAD))
        spans = [wanted[start : start + size] for start in range(0, len(wanted), size)]
        self._threads.run(partial(self._read_span, array), spans)

    def _read_span(self, array: str, wanted: list[_Wanted]) -> None:
        """Read records that lie in the order of the files, opening each file once."""
        for (shape, number), records in groupby(wanted, key=lambda w: (w.shape, w.shard)):
            path = f"{self.path}/{shard_path(shape, array, number)}"
            try:
                index = self._shard_index(path)
                with opened(path) as descriptor:
                    for record in records:
                        self._read_one(descriptor, index, record)
            except CorruptStoreError as error:
                raise CorruptStoreError(
                    f"{path}: {error}; type: clipfeat store verify {self.path}", code=error.code
                ) from None

    def _read_one(self, descriptor: int, index: Index, record: _Wanted) -> None:
        offset, length = index[record.position].tolist()
        try:
            if offset == ABSENT:
                raise CorruptStoreError("is absent, though its id is ok")
            read_record(
                descriptor,
                (offset, length),
                self.identity.codec,
                record.check,
                record.out,
                verify=self._verify,
            )
        except CorruptStoreError as error:
            raise CorruptStoreError(f"record {record.position}: {error}") from None


def _load_index(shard_records: int, path: str) -> Index:
    with opened(path) as descriptor:
        return read_index(descriptor, shard_records)
