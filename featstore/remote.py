"""A store behind a URL: its parts are fetched when they are used, checked by hash, and cached.

store.json has the sha256 of each table. The packing list has size and sha256 of each shard, which
give the place of its index, and the index the place of each record. A record is compared with its
checksum in the lookup, as on a disk. zarr.json files are not read.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..base.errors import CorruptStoreError, StoreError
from ..base.ranges import read_file, read_range, stream_file
from ..base.remote import RemoteFolder
from .cache import Cache
from .geometry import GridShape
from .identity import copy_blocks
from .layout import STORE_JSON, TableName, shard_path, table_file
from .lookup import Lookup, Places, lookup_size, read_lookup
from .metadata import MAX_STORE_JSON_BYTES, StoreMetadata, parse_metadata
from .quantise import SCALE_FILE, Scale, parse_scale, scale_bytes
from .reading import Convert, RecordReader, ThreadsOfObject, WantedRecord
from .record_hashes import HASH_COLUMNS, RecordHashTable
from .remote_indexes import OTHER_COPY, ShardIndexes
from .remote_lookup import IN_FLIGHT, RemoteLookup
from .shards import (
    ABSENT,
    Buffer,
    ShardRow,
    as_bytes,
    decode_record,
    too_long,
    zstd_bound,
)
from .spans import SPAN_BYTES, Place, Span, spans
from .tables import most_shards, most_table_bytes, read_index, read_shards

GAP_BYTES = 1 << 16  # between two records that are fetched with one request nevertheless
BULK_GAP_BYTES = SPAN_BYTES // 4  # the same, of records that are fetched before they are read
BULK_STREAMS = 8  # requests at the same time for those; reading has IN_FLIGHT beside them
MAX_HASHED = 1 << 21  # ids; the index of a store of more is not fetched to compare record_sha256


@dataclass(frozen=True)
class RemoteFiles:
    """The parts of a store behind a URL; it can be pickled, with everything that is pinned."""

    folder: RemoteFolder
    cache: Cache

    @classmethod
    def open(cls, url: str) -> "RemoteFiles":
        """Return the parts of the store at `url`, cached as the user's environment says."""
        return cls(RemoteFolder.open(url), Cache.of_user())

    @property
    def location(self) -> str:
        """The URL of the store, on the Hub with its commit."""
        return self.folder.location

    def metadata(self) -> StoreMetadata:
        """Return the content of store.json; raises StoreError if there is none."""
        try:
            content = self.store_json()
        except StoreError as error:
            if error.code != "E-REMOTE-ABSENT":
                raise
            raise StoreError(
                f"{self.location} is not a feature store: it has no {STORE_JSON}; pass the URL of "
                f"a store's folder",
                code="E-STORE-ABSENT",
            ) from None
        return parse_metadata(content, self.shown(STORE_JSON))

    def store_json(self) -> bytes:
        """Return store.json as the server has it now."""
        return read_file(self.folder.url(STORE_JSON), MAX_STORE_JSON_BYTES)

    def table(self, table: TableName, metadata: StoreMetadata) -> Path:
        """Return a file of the cache with a table's content, whose sha256 was compared."""
        rows = most_shards(metadata) if table == "shards" else metadata.id_count
        limit = lookup_size(rows) if table == "lookup" else most_table_bytes(rows)
        name = table_file(table, metadata.generation)
        try:
            return self.cache.file(
                metadata.tables[table],
                lambda: stream_file(self.folder.url(name), limit),
                self.shown(name),
            )
        except StoreError as error:
            if error.code != "E-REMOTE-ABSENT":
                raise
            raise StoreError(
                f"{error}; if the store has been added to, open it again", code=error.code
            ) from None

    def document(self, name: str, metadata: StoreMetadata, limit: int) -> Path:
        """Return a file of the cache with a document's content, whose sha256 was compared."""
        fetch = partial(stream_file, self.folder.url(name), limit)
        return self.cache.file(metadata.documents[name], fetch, self.shown(name))

    def shown(self, name: str) -> str:
        """Return the URL of a file, for people."""
        return f"{self.location}/{name}"

    def has_index(self, metadata: StoreMetadata) -> bool:
        """Return whether index.parquet is in the cache."""
        return self.cache.has(metadata.tables["index"])

    def index(self, metadata: StoreMetadata) -> Iterator[pa.RecordBatch]:
        """Yield the columns of the index that RecordHashTable needs."""
        shown = self.shown(table_file("index", metadata.generation))
        path, sha256 = self.table("index", metadata), metadata.tables["index"]
        return read_index(path, sha256, metadata.id_count, HASH_COLUMNS, shown=shown)

    def shards(self, metadata: StoreMetadata) -> list[ShardRow]:
        """Return the packing list."""
        shown = self.shown(table_file("shards", metadata.generation))
        return read_shards(self.table("shards", metadata), metadata, shown=shown)

    def lookup(self, metadata: StoreMetadata) -> RemoteLookup:
        """Return the ids; nothing is fetched before the first is looked up."""
        ids, name = metadata.id_count, table_file("lookup", metadata.generation)
        shown = self.shown(name)
        read = partial(read_range, self.folder.url(name), size=lookup_size(ids))

        def load() -> Lookup:
            path = self.table("lookup", metadata)
            content = read_lookup(path, ids, shown, OTHER_COPY)
            return Lookup(content, ids, metadata.tables["lookup"], shown, OTHER_COPY)

        return RemoteLookup(ids, shown, read, load)

    def scale(self, metadata: StoreMetadata) -> Scale | None:
        """Return the scale of a store of uint8, None for others."""
        identity = metadata.identity
        if identity.scale_sha256 is None:
            return None
        content = read_file(self.folder.url(SCALE_FILE), scale_bytes(identity.dim))
        return parse_scale(content, identity.dim, identity.scale_sha256, self.shown(SCALE_FILE))

    def reader(self, metadata: StoreMetadata, *, verify: bool) -> "RemoteReader":
        """Return what reads records."""
        return RemoteReader(self, metadata, verify=verify)


class _BadRecordError(CorruptStoreError):
    """A record is not the one that the store describes, or its shard's index is wrong."""

    def __init__(self, problem: str, code: str, shard: ShardRow):
        super().__init__(problem, code=code)
        self.shard = shard


class RemoteReader(RecordReader):
    """Reads records by ranges, many at the same time, and keeps them in the cache.

    After the first use of a shard, each record takes at most one request, and neighbours share it.
    What is fetched is compared with `record_sha256` of the index, if the index is small enough to
    fetch it or was fetched before: a checksum of four bytes does not protect against a forger.
    """

    def __init__(self, files: RemoteFiles, metadata: StoreMetadata, *, verify: bool):
        super().__init__(tuple(metadata.grid_shapes), metadata.shard_records)
        self._files = files
        self._metadata = metadata
        self._codec = metadata.identity.codec
        self._verify = verify
        self._threads = ThreadsOfObject(lambda: IN_FLIGHT)
        self._bulk_threads = ThreadsOfObject(lambda: BULK_STREAMS)  # reading does not wait for them
        self._index = ShardIndexes(files.folder, files.cache, metadata.shard_records)
        # Loaded at the first use, without a lock, which a fork could find locked.
        self._shards: dict[str, ShardRow] = {}
        self._hashes: RecordHashTable | None = None

    def _load_tables(self) -> None:
        """Load the packing list, by path, and the hashes of the records."""
        if not self._shards:
            metadata = self._metadata
            if metadata.id_count <= MAX_HASHED or self._files.has_index(metadata):
                self._hashes = RecordHashTable(self._files.index(metadata), metadata)
            self._shards = {shard.path: shard for shard in self._files.shards(metadata)}

    def read(
        self,
        array: str,
        dtype: np.dtype[Any],
        wanted: list[WantedRecord],
        convert: Convert | None = None,
    ) -> None:
        """Fill the arrays of records, as in `RecordReader.read`."""
        self._load_tables()
        missing: list[tuple[ShardRow, WantedRecord]] = []

        def read_cached(record: WantedRecord) -> None:
            shard = self._shard(array, record)
            if not self._read_cached(shard, dtype, convert, record):
                missing.append((shard, record))

        self._run(read_cached, wanted)
        act = partial(self._read_span, array, dtype, convert)
        self._request(self._run, act, missing, dtype, GAP_BYTES)

    def fetch(self, array: str, places: Places) -> None:
        """Keep the records at `places` in the cache, with requests that are few and large."""
        self._load_tables()
        if self._hashes is None and array != "grid":
            return  # only grids have a checksum in the lookup; others could not be kept
        missing: list[tuple[ShardRow, WantedRecord]] = []
        kind = self._metadata.identity.array
        kinds = [kind(array, GridShape.parse(shape)) for shape in self._shapes]
        wanted: set[tuple[int, int]] = set(
            zip(places.shape.tolist(), places.row.tolist(), strict=True)
        )
        for shape, row in sorted(wanted):
            number, position = divmod(row, self._shard_records)
            # Nothing is written into `out`, which has the size of the record and takes no memory.
            out = np.broadcast_to(np.zeros((), kinds[shape].dtype), kinds[shape].shape)
            record = WantedRecord(self._shapes[shape], number, position, None, out)
            shard = self._shard(array, record)
            if not self._files.cache.renew(self._key(shard, record)):
                missing.append((shard, record))
        if missing:
            act = partial(self._fetch_span, array)
            self._request(self._bulk_threads.run, act, missing, kinds[0].dtype, BULK_GAP_BYTES)

    def _request(
        self,
        run: Callable[[Any, Sequence[Any]], None],
        act: Callable[[Span[WantedRecord]], None],
        missing: Sequence[tuple[ShardRow, WantedRecord]],
        dtype: np.dtype[Any],
        gap: int,
    ) -> None:
        """Call `act` with each request for the missing records, in the threads of `run`.

        If a record is bad, its place may be: an index of the cache may be wrong.
        """
        renewed: set[ShardRow] = set()
        while missing:
            try:
                run(self._index, list(dict.fromkeys(shard for shard, _ in missing)))
                run(act, list(spans(self._places(missing, dtype), gap)))
                return
            except _BadRecordError as error:
                if error.shard in renewed or not self._index.renew(error.shard):
                    raise
                renewed.add(error.shard)

    def _run(self, act: Any, items: Sequence[Any]) -> None:
        """Call `act` with each item, in threads if there are several."""
        if len(items) == 1:
            act(items[0])
        elif items:
            self._threads.run(act, items)

    def _shard(self, array: str, record: WantedRecord) -> ShardRow:
        path = shard_path(record.shape, array, record.shard)
        shard = self._shards.get(path)
        if shard is None:
            raise CorruptStoreError(
                f"{self._files.shown(path)}: the packing list does not have this shard; {OTHER_COPY}",
                code="E-TABLE-SHARD",
            )
        return shard

    def _read_cached(
        self, shard: ShardRow, dtype: np.dtype[Any], convert: Convert | None, record: WantedRecord
    ) -> bool:
        """Fill a record from the cache, and return whether it is there and right."""
        key = self._key(shard, record)
        encoded = self._files.cache.get(key, zstd_bound(record.out.size * dtype.itemsize))
        if encoded is None:
            return False
        try:
            self._decode(encoded, dtype, convert, record)
        except CorruptStoreError:
            self._files.cache.drop(key)
            return False
        return True

    def _key(self, shard: ShardRow, record: WantedRecord) -> str:
        """Return the name of a record in the cache.

        One that was only compared with its checksum has another name, so that a forgery of one
        mirror is not read by those who compare record_sha256.
        """
        name = f"{shard.sha256}.{record.position}"
        return name if self._hashes is not None else f"{name}.crc"

    def _places(
        self, missing: Iterable[tuple[ShardRow, WantedRecord]], dtype: np.dtype[Any]
    ) -> list[Place[WantedRecord]]:
        """Return where records lie, in the order of the files."""
        places: list[Place[WantedRecord]] = []
        for shard, record in sorted(missing, key=lambda pair: pair[0].path):
            offset, length = self._index(shard)[record.position].tolist()
            size = record.out.size * dtype.itemsize
            if offset == ABSENT:
                error = CorruptStoreError("is absent, but its status is ok", code="E-SHARD-ABSENT")
                raise self._bad_record(shard, record, error)
            if length > zstd_bound(size):
                raise self._bad_record(shard, record, too_long(length, size))
            places.append(Place(shard, offset, length, record))
        return sorted(places, key=lambda place: (place.shard.path, place.offset, place.length))

    def _read_span(
        self, array: str, dtype: np.dtype[Any], convert: Convert | None, span: Span[WantedRecord]
    ) -> None:
        """Fetch records with one request, fill them, and keep those that are right."""
        for record, encoded in self._received(array, span):
            try:
                self._decode(encoded, dtype, convert, record)
            except CorruptStoreError as error:
                raise self._bad_record(span.shard, record, error) from None
            if self._hashes is not None or record.check is not None:  # it is proven to be this one
                self._files.cache.put(self._key(span.shard, record), encoded)

    def _fetch_span(self, array: str, span: Span[WantedRecord]) -> None:
        """Fetch records with one request, and keep them; they are decoded when they are read."""
        for record, encoded in self._received(array, span):
            self._files.cache.put(self._key(span.shard, record), encoded)

    def _received(
        self, array: str, span: Span[WantedRecord]
    ) -> Iterator[tuple[WantedRecord, bytes]]:
        """Yield the records of a request as stored, compared with the index if that is known."""
        url = self._files.folder.url(span.shard.path)
        content = read_range(url, span.first, span.size, size=span.shard.bytes)
        for record, encoded in span.cut(content):
            try:
                if self._hashes is not None:
                    row = span.shard.first_row + record.position
                    self._hashes.compare(record.shape, row, array, encoded)
            except CorruptStoreError as error:
                raise self._bad_record(span.shard, record, error) from None
            yield record, encoded

    def _decode(
        self, encoded: bytes, dtype: np.dtype[Any], convert: Convert | None, record: WantedRecord
    ) -> None:
        """Fill a record from its bytes as stored."""
        out, codec = record.out, self._codec
        if convert is None and out.flags.c_contiguous:
            last = decode_record(codec, encoded, record.check, as_bytes(out), verify=self._verify)
        else:
            scratch: Buffer = np.empty(out.size * dtype.itemsize, np.uint8)
            last = decode_record(codec, encoded, record.check, scratch, verify=self._verify)
            (convert or copy_blocks)(scratch.view(dtype).reshape(out.shape), out)
        if record.last is not None:
            record.last[:] = np.frombuffer(last, np.uint8)

    def _bad_record(
        self, shard: ShardRow, record: WantedRecord, error: CorruptStoreError
    ) -> _BadRecordError:
        shown = self._files.shown(shard.path)
        problem = f"{shown}: record {record.position}: {error}; {OTHER_COPY}"
        return _BadRecordError(problem, error.code, shard)
