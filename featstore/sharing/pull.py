"""Copy a store from a server to this machine: in parallel, verified while it streams, resumable.

Nothing that the server sends is trusted. store.json is parsed and bounded as always; it has the
sha256 of the tables, and these have the sha256 of the shards. The zarr.json files and the lookup
are made here. Each file gets its name when its sha256 is right, store.json last: until then the
folder is an unfinished store, whose journal has a plan of the digest and what was received so far.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ...base.errors import CorruptStoreError, StoreError, StoreUsageError, UsageError, reason_of
from ...base.files import (
    BLOCK_BYTES,
    atomic_file,
    free_bytes,
    fsync_folder,
    is_plain,
    open_output,
    remove_plain,
    remove_temporaries,
    require_folder,
    sha256_file,
    write_atomically,
)
from ...base.interruption import Stopped, interrupt
from ...base.ranges import read_file, stream_file, stream_range
from ...base.remote import RemoteFolder
from ..audit.contents import check_index, croissant_problem
from ..files import LocalFiles
from ..layout import (
    CROISSANT,
    DOCUMENTS,
    MAX_DOCUMENT_BYTES,
    SIGNATURES,
    STORE_JSON,
    check_folder,
    check_folders,
    check_plain,
    has_content,
    require_outside_stores,
    table_file,
)
from ..lookup import LookupBuilder, lookup_bytes
from ..metadata import StoreMetadata, zarr_metadata_files
from ..quantise import SCALE_FILE, scale_bytes
from ..shards import ShardRow, check_files
from ..store import FeatureStore
from ..tables import most_shards, most_table_bytes, read_index, read_shards
from ..writing.commit import remove_leftovers
from ..writing.journal import Journal
from ..writing.lock import StoreLock
from .pull_folder import check_unfinished, is_finished, remove_journal, write_plan
from .sources import PATIENCE, TEMPORARY, Sources

logger = logging.getLogger(__name__)

STREAMS = 8  # files received at a time
LEAST_LIMIT = 100_000  # bytes a second; slower, the deadline of a range would pass
RANGE_BYTES = 1 << 24  # of one request: its deadline then allows 36 kB/s
MAX_BESIDE_BYTES = 1 << 20  # of a signature, and of croissant.json
SIGNATURE_STARTS = (b"untrusted comment:", b"-----BEGIN SSH SIGNATURE-----")


def _is_signature(content: bytes) -> bool:
    return content.startswith(SIGNATURE_STARTS)


class Pulled(NamedTuple):
    """A store that was pulled."""

    metadata: StoreMetadata
    received: int  # bytes, of this call; 0 if the store was complete already


def pull(url: str, path: Path, mirrors: Sequence[str] = (), limit: float | None = None) -> Pulled:
    """Copy the store at `url` to `path`, or continue a copy that was interrupted.

    `mirrors` are other URLs of the same store. A server with wrong bytes is not used any more, and
    one that fails for a while is asked again later. `limit` is in bytes a second.
    Raises StoreError as `Sources.open` does, if something else is at `path`, if it cannot be written
    (E-PULL-WRITE), and if every server fails, for minutes if that may be temporary;
    CorruptStoreError if the tables contradict each other; UsageError if `path` is inside another
    store, and if the disk has too little space. What was received is kept, and the next call
    continues.
    """
    if limit is not None and limit < LEAST_LIMIT:
        raise UsageError(
            f"--limit must be at least {LEAST_LIMIT:,} bytes a second; got {limit:,.0f}",
            code="E-PULL-LIMIT",
        )
    require_folder(path, "the store")
    require_outside_stores(path)
    sources = Sources.open([url, *mirrors])
    metadata = sources.metadata
    if not is_finished(path, metadata.digest):
        check_unfinished(path)
        Journal(path).create()
        with StoreLock(path):
            if not is_finished(path, metadata.digest):  # by another pull, in this very moment
                write_plan(path, metadata.digest)
                try:
                    return Pulled(metadata, _Pull(sources, path, limit).run())
                except OSError as error:  # such as a disk that others have filled
                    raise StoreError(
                        f"{path} cannot be written: {reason_of(error)}; what was received is kept: "
                        f"correct this, and run the same command again",
                        code="E-PULL-WRITE",
                    ) from error
    remove_journal(path, metadata.digest)
    return Pulled(metadata, 0)


class _Pull:
    """The work for one store, under its lock."""

    def __init__(self, sources: Sources, path: Path, limit: float | None):
        self._sources = sources
        self._metadata = sources.metadata
        self._path = path
        self._journal = Journal(path)
        self._limit = limit
        self._stopped = threading.Event()
        self._meter = _Meter(limit)

    def run(self) -> int:
        """Make the store complete, and return how many bytes were received."""
        path, metadata = self._path, self._metadata
        check_folders(path, metadata.grid_shapes, metadata.identity.arrays)
        for folder in (Path(SCALE_FILE).parent, DOCUMENTS):
            check_folder(path / folder)
        remove_temporaries(path)
        shards = self._packing_list()
        missing = self._missing(shards)
        total, here = sum(shard.bytes for shard in shards), self._bytes_here(shards, missing)
        self._require_space(total - here)
        self._meter.show(total, here)
        try:
            self._fetch_other_files()
            self._fetch_shards(shards, missing)
        finally:
            self._meter.close()
        self._write_zarr_metadata()
        self._write_lookup()
        self._check_tables()
        write_atomically(path / STORE_JSON, self._sources.text)
        remove_leftovers(path)
        return self._meter.received

    def _packing_list(self) -> list[ShardRow]:
        metadata = self._metadata
        name = table_file("shards", metadata.generation)
        limit = most_table_bytes(most_shards(metadata))
        self._fetch_file(name, metadata.tables["shards"], limit)
        return read_shards(self._path / name, metadata)

    def _missing(self, shards: Sequence[ShardRow]) -> dict[int, ShardRow]:
        """Return the shards that are not here, by their number in the packing list.

        Those of an earlier attempt are hashed again; one that has changed is removed.
        """
        numbers = {shard.path: number for number, shard in enumerate(shards)}
        check_plain(self._path / shard.path for shard in shards)
        here = [shard for shard in shards if (self._path / shard.path).exists()]
        missing = {numbers[shard.path]: shard for shard in set(shards) - set(here)}
        for shard, problem in check_files(self._path, here, "verify"):
            if problem:
                remove_plain(self._path / shard.path)
                missing[numbers[shard.path]] = shard
        return dict(sorted(missing.items()))

    def _bytes_here(self, shards: Sequence[ShardRow], missing: dict[int, ShardRow]) -> int:
        """Return how many bytes of the shards were received, with those of incomplete ones."""
        complete = sum(shard.bytes for shard in shards) - sum(s.bytes for s in missing.values())
        partial = sum(
            min(file.stat().st_size, shard.bytes)
            for number, shard in missing.items()
            if is_plain(file := self._journal.partial_path(number))
        )
        return complete + partial

    def _require_space(self, needed: int) -> None:
        """Raise StoreUsageError unless so many bytes fit the disk."""
        free = free_bytes(self._path)
        if needed > free:
            raise StoreUsageError(
                f"{self._path}: {needed:,} bytes are missing, and the disk has {free:,} bytes left; "
                f"make room, or choose another folder",
                code="E-PULL-SPACE",
            )

    def _fetch_other_files(self) -> None:
        """Fetch the index, the scale, the documents and what speaks of store.json."""
        metadata = self._metadata
        index = table_file("index", metadata.generation)
        self._fetch_file(index, metadata.tables["index"], most_table_bytes(metadata.id_count))
        if metadata.identity.scale_sha256 is not None:
            size = scale_bytes(metadata.identity.dim)
            self._fetch_file(SCALE_FILE, metadata.identity.scale_sha256, size)
        for name, sha256 in metadata.documents.items():
            self._fetch_file(name, sha256, MAX_DOCUMENT_BYTES)
        for name in SIGNATURES:
            self._fetch_beside(name, _is_signature)
        if CROISSANT not in metadata.documents:
            sha256 = hashlib.sha256(self._sources.text).hexdigest()
            self._fetch_beside(CROISSANT, lambda text: croissant_problem(text, sha256) is None)

    def _fetch_file(self, name: str, sha256: str, limit: int) -> None:
        """Fetch a file whose size is not known, unless it is here; it may not fill the disk."""
        target = self._path / name
        check_plain([target])
        if target.exists() and sha256_file(target) == sha256:
            return
        self._make_folder(name)
        limit = min(limit, free_bytes(self._path))

        def fetch(folder: RemoteFolder) -> None:
            digest = hashlib.sha256()
            with atomic_file(target) as file:
                for piece in stream_file(folder.url(name), limit):
                    file.write(piece)
                    digest.update(piece)
                    self._meter.add_unplanned(len(piece))
                _compare(folder, name, digest.hexdigest(), sha256)

        self._try(fetch)

    def _try(self, fetch: Callable[[RemoteFolder], None], turn: int = 0) -> None:
        """Call `fetch` with a server until it succeeds; wait if all servers fail for a while."""
        waits = iter(PATIENCE)
        while True:
            self._check_stopped()
            try:
                return self._sources.try_each(fetch, turn)
            except StoreError as error:
                wait = next(waits, None)
                if wait is None or error.code not in TEMPORARY:
                    raise
                logger.info(f"{error}; trying again in {wait} seconds")
                self._stopped.wait(wait)

    def _fetch_beside(self, name: str, is_right: Callable[[bytes], bool]) -> None:
        """Fetch a file that speaks of store.json, if the store has one; store.json does not say.

        Anything else that is sent is left out, such as a page that says "not found".
        """

        def fetch(folder: RemoteFolder) -> bytes:
            try:
                return read_file(folder.url(name), MAX_BESIDE_BYTES)
            except StoreError as error:
                logger.debug(f"no {name}: {error}")
                return b""

        content = self._sources.try_each(fetch)
        if content and is_right(content):
            check_plain([self._path / name])
            write_atomically(self._path / name, content)

    def _fetch_shards(self, shards: Sequence[ShardRow], missing: dict[int, ShardRow]) -> None:
        for folder in {Path(shard.path).parent for shard in shards}:
            (self._path / folder).mkdir(parents=True, exist_ok=True)
        streams = STREAMS
        if self._limit is not None:  # each stream must reach the least rate
            streams = min(STREAMS, int(self._limit / LEAST_LIMIT))
        with ThreadPoolExecutor(streams, "clipfeat pull") as threads:
            calls = [threads.submit(self._fetch_shard, *each) for each in missing.items()]
            try:
                for call in as_completed(calls):
                    call.result()
            except KeyboardInterrupt:
                self._stopped.set()  # first, so that no thread begins to wait again
                interrupt()
                raise
            finally:
                self._stopped.set()
                threads.shutdown(wait=False, cancel_futures=True)

    def _fetch_shard(self, number: int, shard: ShardRow) -> None:
        """Fetch what is missing of a shard, and give it its name."""

        def fetch(folder: RemoteFolder) -> None:
            while not self._received(number, shard, folder):
                pass

        self._try(fetch, number)

    def _check_stopped(self) -> None:
        """End this thread if another file has failed; what it has received is written."""
        if self._stopped.is_set():
            raise Stopped

    def _received(self, number: int, shard: ShardRow, folder: RemoteFolder) -> bool:
        """Fetch what is missing of a shard from one server; return whether it has its name now.

        If the sha256 is wrong, the bytes are dropped. Only if all of them came from this server is
        that an error: others may have given the beginning, or an earlier attempt.
        """
        partial, target = self._journal.partial_path(number), self._path / shard.path
        with os.fdopen(open_output(partial), "r+b") as file:
            if os.fstat(file.fileno()).st_size > shard.bytes:
                file.truncate(0)
            digest = hashlib.sha256()
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
            before = file.tell()
            for piece in self._pieces(folder.url(shard.path), before, shard.bytes):
                file.write(piece)
                digest.update(piece)
                self._meter.add(len(piece))
                self._check_stopped()
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() == shard.sha256:
            partial.rename(target)
            fsync_folder(target.parent)
            return True
        remove_plain(partial)
        self._meter.take_back(shard.bytes)
        if before == 0:
            _compare(folder, shard.path, digest.hexdigest(), shard.sha256)
        return False

    def _pieces(self, url: str, first: int, size: int) -> Iterator[bytes]:
        for start in range(first, size, RANGE_BYTES):
            yield from stream_range(url, start, min(RANGE_BYTES, size - start), size=size)

    def _make_folder(self, name: str) -> None:
        (self._path / name).parent.mkdir(parents=True, exist_ok=True)

    def _write_zarr_metadata(self) -> None:
        metadata = self._metadata
        files = zarr_metadata_files(metadata.identity, metadata.grid_shapes, metadata.shard_records)
        for name, content in files.items():
            self._write(name, content)

    def _write(self, name: str, content: bytes) -> None:
        """Write a file that follows from others, unless it is here."""
        if not has_content(self._path / name, content):
            self._make_folder(name)
            write_atomically(self._path / name, content)

    def _write_lookup(self) -> None:
        """Make the lookup from the index."""
        metadata = self._metadata
        index = self._path / table_file("index", metadata.generation)
        builder = LookupBuilder(metadata.grid_shapes, metadata.identity.recipe)
        try:
            for batch in read_index(index, metadata.tables["index"], metadata.id_count):
                builder.add(batch)
        except (ValueError, KeyError) as error:
            raise _contradiction(index.name, f"a row is invalid: {error}") from None
        content = lookup_bytes(builder.columns())
        self._write(table_file("lookup", metadata.generation), content)

    def _check_tables(self) -> None:
        """Raise CorruptStoreError unless digest, lookup, index and packing list fit each other."""
        for problem in check_index(
            FeatureStore(LocalFiles(self._path), self._metadata, verify=True)
        ):
            raise _contradiction(problem.path, problem.problem)


def _contradiction(name: str, problem: str) -> CorruptStoreError:
    return CorruptStoreError(
        f"the tables of the store do not fit each other: {name}: {problem}; tell its author",
        code="E-PULL-TABLES",
    )


def _compare(folder: RemoteFolder, name: str, sha256: str, expected: str) -> None:
    if sha256 != expected:
        raise CorruptStoreError(
            f"{folder.location}/{name}: has the sha256 {sha256}; expected {expected}; tell whoever "
            f"keeps the server",
            code="E-PULL-HASH",
        )


class _Meter:
    """Counts the bytes that are received, shows them in a line, and slows the streams to a limit."""

    def __init__(self, limit: float | None):
        self._limit = limit
        self._lock = threading.Lock()
        self._free_at = 0.0  # when the next bytes may be received, in time.monotonic()
        self._bar = tqdm(disable=True)
        self.received = 0

    def show(self, total: int, here: int) -> None:
        """Show a line from now on, of the bytes of all shards, some of which are here."""
        self._bar = tqdm(
            total=total, initial=here, unit="B", unit_scale=True, desc="pull", disable=None
        )

    def close(self) -> None:
        """End the line."""
        self._bar.close()

    def add(self, size: int) -> None:
        """Count bytes, and wait as long as the limit demands."""
        with self._lock:
            self.received += size
            self._bar.update(size)
            if self._limit is None:
                return
            now = time.monotonic()
            wait = max(0.0, self._free_at - now)
            self._free_at = max(now, self._free_at) + size / self._limit
        time.sleep(wait)

    def add_unplanned(self, size: int) -> None:
        """Count bytes of a file whose size was not known before."""
        with self._lock:
            self._bar.total = (self._bar.total or 0) + size
        self.add(size)

    def take_back(self, size: int) -> None:
        """Subtract discarded bytes from the line; `received` still counts them."""
        with self._lock:
            self._bar.update(-size)
