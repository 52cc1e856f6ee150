"""What is wrong with a store behind a URL: each file as its server sends it now."""

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from ...base.errors import CorruptStoreError, StoreError
from ...base.ranges import read_file, read_range, stream_file, stream_range
from ..layout import MAX_DOCUMENT_BYTES, TableName
from ..lookup import lookup_size
from ..quantise import SCALE_FILE, scale_bytes
from ..remote import RemoteFiles
from ..shards import ShardRow, check_shards
from ..store import FeatureStore
from ..tables import most_table_bytes
from .contents import (
    Depth,
    Problem,
    Rows,
    check_index,
    error_problem,
    ids_by_shard,
    record_problem,
    rows_by_shard,
    table_name,
)

# Errors that concern one file, and not the server as a whole.
OF_A_FILE = ("E-REMOTE-ABSENT", "E-REMOTE-SIZE")
UPLOAD = "upload this file again from an intact copy of the store"


def verify_remote(url: str, depth: Depth) -> list[Problem]:
    """Return what is wrong with the store at `url`, as `verify` does.

    Nothing of the cache is used where bytes are compared. Quick asks for one byte of each file;
    full reads every file; deep writes each shard to a temporary file and decodes its records.
    Raises StoreError for a server that cannot be reached or denies access.
    """
    files = RemoteFiles.open(url)
    try:
        store = FeatureStore(files, files.metadata(), verify=True)
        shards = store.shards
    except CorruptStoreError as error:
        return [_to_upload(error_problem(error, files.location))]
    problems = list(_check_zarr_metadata(store, files))
    if depth == Depth.QUICK:
        problems += _check_presence(store, files)
        broken = dict(check_shards(shards, partial(_size_problem, files), "verify"))
        return problems + [
            Problem(shard.path, problem, (), UPLOAD) for shard, problem in broken.items() if problem
        ]
    problems += _check_other_files(store, files)
    index = table_name(store, "index")
    if all(problem.path != index for problem in problems):
        problems += map(_to_upload, check_index(store))
    is_index_good = all(problem.path != index for problem in problems)
    rows: dict[tuple[str, int], Rows] = {}
    if is_index_good and depth == Depth.DEEP:
        rows = rows_by_shard(store)
    find_problem = partial(_shard_problem, store, files, rows)
    broken = {s.path: p for s, p in check_shards(shards, find_problem, "verify") if p}
    ids = ids_by_shard(store, set(broken)) if is_index_good else {}
    return problems + [
        Problem(path, problem, ids.get(path, ()), UPLOAD) for path, problem in broken.items()
    ]


def _to_upload(problem: Problem) -> Problem:
    """Return a problem with the remedy for a store that is not on this machine."""
    return Problem(problem.path, problem.problem, problem.ids, UPLOAD)


def _problem_of(url: str, read: Callable[[], str | None]) -> str | None:
    """Return what `read` finds wrong with a file, or the error that it raises for this file."""
    try:
        return read()
    except StoreError as error:
        if error.code not in OF_A_FILE:
            raise
        return str(error).removeprefix(f"{url}: ")


def _hash_problem(url: str, pieces: Iterable[bytes], sha256: str) -> str | None:
    """Return what is wrong with a file, whose content `pieces` yield."""

    def read() -> str | None:
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        found = digest.hexdigest()
        return None if found == sha256 else f"sha256 is {found}; expected {sha256}"

    return _problem_of(url, read)


def _check_zarr_metadata(store: FeatureStore, files: RemoteFiles) -> Iterator[Problem]:
    """Compare each zarr.json with the one that store.json implies."""
    for name, content in store.zarr_metadata().items():
        url = files.folder.url(name)

        def read(url: str = url, content: bytes = content) -> str | None:
            is_same = read_file(url, len(content)) == content
            return None if is_same else "is not what store.json implies"

        if problem := _problem_of(url, read):
            yield Problem(name, problem, (), UPLOAD)


def _check_presence(store: FeatureStore, files: RemoteFiles) -> Iterator[Problem]:
    """Ask for one byte of the index and of the lookup."""
    sizes: dict[TableName, int | None] = {
        "index": None,
        "lookup": lookup_size(store.metadata.id_count),
    }
    for table, size in sizes.items():
        name = table_name(store, table)
        url = files.folder.url(name)

        def read(url: str = url, size: int | None = size) -> None:
            read_range(url, 0, 1, size=size)

        if problem := _problem_of(url, read):
            yield Problem(name, problem, (), UPLOAD)


def _size_problem(files: RemoteFiles, shard: ShardRow) -> str | None:
    url = files.folder.url(shard.path)

    def read() -> None:
        read_range(url, shard.bytes - 1, 1, size=shard.bytes)

    return _problem_of(url, read)


def _check_other_files(store: FeatureStore, files: RemoteFiles) -> Iterator[Problem]:
    """Hash the tables, the scale and the documents that store.json lists."""
    metadata = store.metadata
    hashes = {table_name(store, name): sha256 for name, sha256 in metadata.tables.items()}
    limits = dict.fromkeys(hashes, most_table_bytes(metadata.id_count))
    hashes |= metadata.documents
    limits |= dict.fromkeys(metadata.documents, MAX_DOCUMENT_BYTES)
    if metadata.identity.scale_sha256 is not None:
        hashes[SCALE_FILE] = metadata.identity.scale_sha256
        limits[SCALE_FILE] = scale_bytes(store.dim)
    for name, sha256 in hashes.items():
        url = files.folder.url(name)
        if problem := _hash_problem(url, stream_file(url, limits[name]), sha256):
            yield Problem(name, problem, (), UPLOAD)


def _shard_problem(
    store: FeatureStore,
    files: RemoteFiles,
    rows: dict[tuple[str, int], Rows],
    shard: ShardRow,
) -> str | None:
    """Return what is wrong with a shard; its records are decoded if there are `rows`."""
    url = files.folder.url(shard.path)
    pieces = stream_range(url, 0, shard.bytes, size=shard.bytes)
    if not rows:
        return _hash_problem(url, pieces, shard.sha256)
    with tempfile.NamedTemporaryFile() as file:

        def kept() -> Iterator[bytes]:
            for piece in pieces:
                file.write(piece)
                yield piece

        problem = _hash_problem(url, kept(), shard.sha256)
        file.flush()
        return problem or record_problem(
            store, file.name, shard, rows.get((shard.shape, shard.first_row), {})
        )
