"""Open a store and read records by image id, in any order, at the speed of memory."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

import math
from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from unicodedata import normalize

import numpy as np
import pyarrow as pa

from ..base.errors import CorruptStoreError, MissingRecordError, StoreError
from ..base.parquet import rows_of
from ..base.text import counted, is_url, printable
from .files import LocalFiles, StoreFiles
from .geometry import Area, GridShape
from .layout import TableName, table_file
from .lookup import (
    NORMAL_FORMS,
    STATUSES,
    ImageId,
    Places,
    Status,
    area_of,
    id_text,
    id_texts,
    status_of,
)
from .metadata import StoreMetadata, zarr_metadata_files
from .reading import BufferPool, Convert, FeatureBatch, WantedRecord, check_out, last_bytes
from .shards import CRC_BYTES, ShardRow
from .sizes import COLUMNS, ImageSizes
from .tables import IndexRow, index_rows, read_index

if TYPE_CHECKING:
    from xarray import Dataset
    from zarr import Group

MAX_REASONS = 1 << 16  # of ids without a record, kept in memory for messages
EXAMPLE_ROWS = 1000  # of the index, searched for an example of an id


class FeatureStore:
    """A finished store, open for reading, in a folder or behind a URL.

    Opening reads store.json and the lookup, or maps it where it is large. Of a store behind a URL
    it reads store.json alone; the rest is fetched when it is used, and cached (docs/sharing.md).
    Such a store raises StoreError (E-REMOTE-...) where the server fails. Safe to share
    between threads, to inherit by fork and to send to a spawned process: no file stays open
    between reads, and a child starts threads of its own. They end with the object.

    Image ids are texts. A whole number, Python's or numpy's, is looked up as its decimal text;
    anything else is a TypeError. Unicode's normal forms NFC and NFD of an id are the same id,
    unless the store has both.
    """

    def __init__(self, files: StoreFiles, metadata: StoreMetadata, *, verify: bool):
        """Use `FeatureStore.open`."""
        self.files = files
        self.location = files.location  # absolute path or URL, for people and for opening it again
        self.metadata = metadata
        self.identity = metadata.identity
        self.digest = metadata.digest
        self.grid_shapes = tuple(map(GridShape.parse, metadata.grid_shapes))  # sorted
        self._sizes = np.array(self.grid_shapes, np.int64).reshape(-1, 2)  # rows, cols
        self._lengths = np.array(list(metadata.grid_shapes.values()))
        self._areas = tuple(map(Area.parse, metadata.areas))
        self._dtype = self.identity.numpy_dtype
        self._stored_dtype = self.identity.stored_dtype
        self._is_first = self.identity.order == "channels_first"
        self._shard_records = metadata.shard_records
        self._verify = verify
        self._reader = files.reader(metadata, verify=verify)
        self._lookup = files.lookup(metadata)
        self._memory = BufferPool()
        self.scale = files.scale(metadata)  # of a store of uint8, None for others

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = True) -> "FeatureStore":
        """Return the store at `path`, a folder or a URL: https, http, hf, s3, gs or az.

        With `verify=False` the checksums of raw records (codec `none`) are not computed, for
        bytes that are known to be good; those of zstd records always are.

        Raises StoreError if there is no store, if it is unfinished or of another format
        version, CorruptStoreError if its tables are not what was written.
        """
        files = _files_at(path)
        metadata = files.metadata()
        try:
            return cls(files, metadata, verify=verify)
        except CorruptStoreError:
            newer = files.metadata()
            if newer.generation == metadata.generation:
                raise
            return cls(files, newer, verify=verify)  # an update completed in this very moment

    def __reduce__(self) -> tuple[Any, ...]:
        if isinstance(self.files, LocalFiles):
            return partial(FeatureStore.open, verify=self._verify), (self.path,)
        # A worker reads the same store, whatever the URL has by then.
        return partial(FeatureStore, verify=self._verify), (self.files, self.metadata)

    @property
    def path(self) -> Path:
        """The folder of a store on this machine; raises StoreError (E-STORE-URL) for another."""
        if isinstance(self.files, LocalFiles):
            return self.files.path
        raise StoreError(
            f"{self.location}: this needs a store on this machine; "
            f"copy it: clipfeat store pull {self.location} DIR",
            code="E-STORE-URL",
        )

    def table_path(self, table: TableName) -> Path:
        """Return the file of "index", "shards" or "lookup", of a store on this machine."""
        return self.path / table_file(table, self.metadata.generation)

    def index_batches(self, *names: str) -> Iterator[pa.RecordBatch]:
        """Return the rows of `index` as columns: all, or those called `names`, image_id first."""
        metadata = self.metadata
        path, sha256 = self.files.table("index", metadata), metadata.tables["index"]
        shown = self._table_name("index")
        return read_index(path, sha256, metadata.id_count, names, shown=shown)

    def _table_name(self, table: TableName) -> str:
        """Return what people read as the name of a table."""
        return self.files.shown(table_file(table, self.metadata.generation))

    @property
    def index(self) -> Iterator[IndexRow]:
        """The row of every image id, with or without a record, sorted by id; read at each use."""
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
        return tuple(self.files.shards(self.metadata))

    @property
    def dim(self) -> int:
        """Channels of a cell."""
        return self.identity.dim

    def __repr__(self) -> str:
        return (
            f"<FeatureStore {printable(self.location)}: {counted(len(self), 'record')}, "
            f"dim {self.dim}, {self.identity.dtype}, {self.identity.codec}, "
            f"digest {self.digest[:16]}...>"
        )

    def __len__(self) -> int:
        return self.metadata.counts[Status.OK]

    def __bool__(self) -> bool:
        """Return True, for a store without any record too."""
        return True

    def __iter__(self) -> Iterator[str]:
        """Iterate over the ids that have a record, in the order of `ids`."""
        return iter(self.ids)

    def __contains__(self, image_id: ImageId) -> bool:
        """Return whether an id has a record."""
        return status_of(self._lookup.find_one(id_text(image_id))[0]) == 0

    def statuses(self, ids: Iterable[ImageId]) -> list[Status | None]:
        """Return the status of each id, None for one that the store does not know."""
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
        out = self._as_stored(grid.reshape(-1, self.dim), is_first=False)
        record = WantedRecord(str(shape), shard, position, checksum, out)
        self._reader.read("grid", self._stored_dtype, [record], self._convert)
        return grid

    @cached_property
    def _convert(self) -> Convert | None:
        """From the numbers of a grid as stored to its values; None where they are the same."""
        if self.scale is None:
            return None
        return partial(self.scale.dequantise, axis=0 if self._is_first else 1)

    def _as_stored(self, grid: np.ndarray, *, is_first: bool) -> np.ndarray:
        """Return a view of a grid (cell, dim), or with channels first, in the order on disk."""
        return grid if self._is_first == is_first else grid.T

    def mask(self, image_id: ImageId) -> np.ndarray:
        """Return which cells of one image's grid hold pixels of it: (row, col) bool.

        False where the recipe has padded the image. Raises as `store[image_id]` does.
        """
        shape, area, _, _ = self._find_one(image_id)
        return np.ones(shape, bool) if area is None else area.mask(shape)

    def masks(self, ids: Iterable[ImageId]) -> np.ndarray:
        """Return the mask of each id as `read` does, without reading records: (image, cell) bool.

        Raises MissingRecordError for an id without a record.
        """
        places = self._find(ids)
        counts = self._sizes[places.shape].prod(axis=1)
        mask = np.arange(counts.max(initial=0)) < counts[:, None]
        self._mask_padding(mask, places)
        return mask

    def _find_one(self, image_id: ImageId) -> tuple[GridShape, Area | None, int, int]:
        """Return grid shape, real area, row and check of a record."""
        text = id_text(image_id)
        state, number, row, check = self._lookup.find_one(text)
        if status_of(state):
            self._raise_missing(text, state)
        if number >= len(self.grid_shapes):
            raise self._bad_place("an unknown grid shape")
        if row >= self._lengths[number]:
            raise self._bad_place("a row beyond its array")
        shape = self.grid_shapes[number]
        return shape, self._area(area_of(state), shape) if state else None, row, check

    def _area(self, number: int, shape: GridShape) -> Area | None:
        """Return a real area by its number, None for the whole grid."""
        if not number:
            return None
        if number > len(self._areas):
            raise self._bad_place("an unknown area")
        area = self._areas[number - 1]
        if not area.lies_in(shape):
            raise self._bad_place(f"the area {area} in a {shape} grid")
        return area

    def read(
        self,
        ids: Iterable[ImageId],
        out: np.ndarray | None = None,
        *,
        channels_first: bool = False,
        raw: bool = False,
    ) -> FeatureBatch:
        """Return the records of `ids`, in that order, padded to the largest grid among them.

        With `channels_first`, features are (image, dim, cell). This is how a store whose order is
        channels_first has them on disk, and spares turning them. With `raw`, those of a store of
        uint8 are the numbers that it has on disk (see `scale`), and not float16.

        `out`, of the shape and the dtype of the features, receives them if it is given, which
        spares the kernel from clearing new memory; it may have more cells than the largest grid.
        Every record's checksum is verified; a record named twice is read once. Raises
        MissingRecordError for an id without a record, CorruptStoreError for bytes that have
        changed, ValueError for an `out` that does not fit.
        """
        places = self._find(ids)
        grid_shapes = self._sizes[places.shape]
        counts = grid_shapes.prod(axis=1)
        images, cells = len(counts), int(counts.max(initial=0))
        dtype = self._stored_dtype if raw else self._dtype
        shape = (images, self.dim, cells) if channels_first else (images, cells, self.dim)
        if out is None:
            out = self._memory.take(math.prod(shape) * dtype.itemsize).view(dtype).reshape(shape)
        axis = 2 if channels_first else 1
        check_out(out, shape, axis, dtype)
        mask = np.arange(out.shape[axis]) < counts[:, None]
        by_cell = out.swapaxes(1, 2) if channels_first else out  # (image, cell, dim)
        if not mask.all():
            for record, n in zip(by_cell, counts, strict=True):
                record[n:] = 0
        self._mask_padding(mask, places)
        turned = by_cell.swapaxes(1, 2) if self._is_first else by_cell  # as on disk
        real = [(slice(None), slice(n)) if self._is_first else slice(n) for n in counts.tolist()]
        outs = [record[part] for record, part in zip(turned, real, strict=True)]
        convert = None if raw else self._convert
        self._reader.fill(
            "grid", self._stored_dtype, places, last_bytes(places, "grid"), outs, convert
        )
        return FeatureBatch(out, mask, grid_shapes, **self._read_beside(places, out.shape[axis]))

    def pooled(self, ids: Iterable[ImageId]) -> np.ndarray:
        """Return the pooled vectors of `ids`, in that order, without their grids: (image, dim).

        Raises as `read` does, and StoreError where the store has no pooled vectors.
        """
        if self.identity.pooled_dim is None:
            raise StoreError(
                f"{self.location} has no pooled vectors: it was extracted without them; "
                f"extract a store with clipfeat extract --pooled",
                code="E-STORE-NO-POOLED",
            )
        places = self._find(ids)
        cells = int(self._sizes[places.shape].prod(axis=1).max(initial=0))
        return self._read_beside(places, cells)["pooled"]

    def _read_beside(self, places: Places, cells: int) -> dict[str, np.ndarray]:
        """Return the arrays beside the grids, {name: (image, ...)}, with regions padded to `cells`.

        The lookup has one check for all of them: the exclusive or of their last bytes on disk.
        """
        names = self.identity.arrays[1:]
        beside: dict[str, np.ndarray] = {}
        if not names:
            return beside
        counts = self._sizes[places.shape].prod(axis=1).tolist()
        wanted = last_bytes(places, "beside")
        together = np.zeros((len(counts), CRC_BYTES), np.uint8)
        for name in names:
            array = self.identity.array(name, GridShape(cells, 1))
            values = np.zeros((len(counts), *array.shape), array.dtype)
            outs = list(values)
            if name != "pooled":
                outs = [record[:n] for record, n in zip(outs, counts, strict=True)]
            if len(names) == 1:
                self._reader.fill(name, array.dtype, places, wanted, outs)
            else:
                last = np.zeros_like(together)
                self._reader.fill(name, array.dtype, places, None, outs, last=last)
                together ^= last
            beside[name] = values
        if len(names) > 1 and (bad := (together != wanted).any(axis=1)).any():
            row = int(places.row[np.flatnonzero(bad)[0]])
            raise CorruptStoreError(
                f"{self.location}: {', '.join(names)} of row {row} are those of another image, or "
                f"have changed; type: clipfeat store verify {self.location}",
                code="E-SHARD-DATA",
            )
        return beside

    def shapes(self, ids: Iterable[ImageId]) -> np.ndarray:
        """Return the grid shape of each id: (image, 2) int64, rows and cols.

        Raises MissingRecordError for an id without a record.
        """
        return self._sizes[self._find(ids).shape]

    def image_sizes(self, ids: Iterable[ImageId]) -> np.ndarray:
        """Return the size of the source image of each id: (image, 2) int64, width and height.

        0 where they are not known, as of some imported features. The first use reads the index.
        Raises MissingRecordError for an id without a record.
        """
        sizes, found = self._image_sizes.find(self._find(ids))
        if not found.all():
            raise self._bad_place("a row that the index does not have")
        return sizes.astype(np.int64)

    @cached_property
    def _image_sizes(self) -> ImageSizes:
        return ImageSizes.of(self.grid_shapes, self.index_batches(*COLUMNS))

    def shard_numbers(self, ids: Iterable[ImageId]) -> np.ndarray:
        """Return the number of the shard that has the record of each id: (image,) int64.

        Shards are numbered from 0 over all grid shapes, those of one shape beside each other.
        Raises MissingRecordError for an id without a record.
        """
        places = self._find(ids)
        counts = -(-self._lengths // self._shard_records)
        return (np.cumsum(counts) - counts)[places.shape] + places.row // self._shard_records

    def fetch(self, ids: Iterable[ImageId]) -> None:
        """Fetch the records of `ids` into the cache with few requests, if the store is behind a URL.

        For ids that are read later, and most of the records of their shards: what lies between
        them may be fetched too. Raises as `read` does, but does not verify checksums.
        """
        places = self._find(ids)
        for name in self.identity.arrays:
            self._reader.fetch(name, places)

    def zarr_metadata(self) -> dict[str, bytes]:
        """Return {path relative to the store: bytes} of every zarr.json it must have."""
        return zarr_metadata_files(self.identity, self.metadata.grid_shapes, self._shard_records)

    def zarr(self) -> "Group":
        """Return the store as a zarr group, read-only: `store.zarr()["14x14/grid"]`.

        Its arrays are `<grid shape>/grid` (record, row, col, dim) and, where the store has pooled
        vectors, `<grid shape>/pooled` (record, dim). The index says which record belongs to which
        id: `IndexRow.shape` and `IndexRow.row`. A row without a record reads as zeros. Writing
        raises an error of zarr's. Raises CorruptStoreError if a zarr.json has changed, and for a
        shard that is missing, of another size or a link.
        """
        from .arrays import open_group

        return open_group(self.path, self.zarr_metadata(), self.shards)

    def to_xarray(self, grid_shape: GridShape | str | None = None) -> "Dataset":
        """Return the records of one grid shape as an xarray Dataset, which reads them when used.

        Variables are `grid` (record, row, col, dim), `mask` (record, row, col) bool, True where a
        cell holds pixels of the image, and where the store has pooled vectors `pooled` (record,
        pooled_dim). The coordinate `image_id` (record) names each record; ids without one are
        left out. `grid_shape` may be omitted if the store has only one. Ids and the mask are in
        memory: about 100 bytes, and a byte for each cell of a record. For dask arrays of whole
        shards call `.chunk(record=store.metadata.shard_records)`.

        Raises UsageError if xarray is not installed, StoreError for an unknown grid shape,
        CorruptStoreError as `zarr` does.
        """
        from .arrays import choose_shape, open_dataset, records_of_shape

        shape = choose_shape(self.path, self.grid_shapes, grid_shape)
        index = self.index_batches("image_id", "status", "shape", "row")
        ids, rows = records_of_shape(index, shape)
        dataset = open_dataset(self.zarr(), shape, ids, rows, self.masks(ids))
        return dataset.assign_attrs(digest=self.digest)

    def _find(self, ids: Iterable[ImageId]) -> Places:
        """Return the places of the records of `ids`; raise for the first id without one."""
        texts = id_texts(ids)
        places = self._lookup.find(texts)
        if places.state.any():
            missing = np.flatnonzero(status_of(places.state))
            if missing.size:
                first = int(missing[0])
                self._raise_missing(texts[first], int(places.state[first]))
        if texts and places.shape.max() >= len(self.grid_shapes):
            raise self._bad_place("an unknown grid shape")
        if (places.row >= self._lengths[places.shape]).any():
            raise self._bad_place("a row beyond its array")
        return places

    def _mask_padding(self, mask: np.ndarray, places: Places) -> None:
        """Make `mask` False in the cells that hold no pixel of an image."""
        for k in np.flatnonzero(places.state).tolist():
            shape = self.grid_shapes[places.shape[k]]
            area = self._area(area_of(int(places.state[k])), shape)
            if area is not None:
                mask[k, : shape.cells] = area.mask(shape).ravel()

    def _bad_place(self, place: str) -> CorruptStoreError:
        return CorruptStoreError(
            f"{self._table_name('lookup')} refers to {place}; "
            f"type: clipfeat store verify {self.location}",
            code="E-LOOKUP-PLACE",
        )

    def _raise_missing(self, image_id: str, state: int) -> NoReturn:
        """Raise MissingRecordError that says why an id has no record."""
        if state < 0:
            shown, example = _quoted(image_id, self._example)
            like = f"; ids here look like {example}" if self._example else ""
            raise MissingRecordError(
                f"{self.location} has no image id {shown}{like}", code="E-STORE-NO-ID"
            )
        if status_of(state) >= len(STATUSES):
            raise self._bad_place("an unknown status")
        forms = (image_id, *(normalize(form, image_id) for form in NORMAL_FORMS))
        known = (self._reasons.get(form) for form in forms)
        status = STATUSES[status_of(state)]
        unknown = f"for its reason type: clipfeat store ls {self.location} --status {status}"
        raise MissingRecordError(
            f"image id {image_id!r:.100} has no record in {self.location}: "
            f"{status}, {next(filter(None, known), unknown)}",
            code="E-STORE-NO-RECORD",
        )

    @cached_property
    def _example(self) -> str:
        """An id that has a record, for messages; "" if none of the first rows has one."""
        rows = islice(self._statuses(), EXAMPLE_ROWS)
        return next((image_id for image_id, status, _ in rows if status == Status.OK), "")

    @cached_property
    def _reasons(self) -> dict[str, str]:
        """Why ids have no record, for messages: of the first MAX_REASONS such ids."""
        without_record = (row for row in self._statuses() if row[1] != Status.OK)
        return {image_id: reason for image_id, _, reason in islice(without_record, MAX_REASONS)}


def _files_at(path: str | Path) -> StoreFiles:
    """Return the parts of the store at a path or a URL."""
    if isinstance(path, str) and is_url(path):
        from .remote import RemoteFiles

        return RemoteFiles.open(path)
    return LocalFiles(Path(path))


def _quoted(image_id: str, example: str) -> tuple[str, str]:
    """Return two ids as an error shows them: different texts, even if they look the same.

    >>> _quoted("b", "a"), _quoted("\\u00e9", "e\\u0301")
    (("'b'", "'a'"), ("'\\\\xe9'", "'e\\\\u0301'"))
    """
    look_alike = normalize("NFC", image_id) == normalize("NFC", example)
    show = ascii if look_alike else repr
    return show(image_id)[:100], show(example)[:100]
