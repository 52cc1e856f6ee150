"""Hash a store's files in parallel, with a progress bar in bytes."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from ..base.errors import CorruptStoreError
from ..base.files import is_plain, oddity, sha256_file
from .format import ZARR_GROUP, GridShape, Identity, ShardRow, is_sha256
from .reading import thread_count
from .shards import index_bytes, zstd_bound


def check_files(
    store: Path, shards: Sequence[ShardRow], label: str
) -> Iterator[tuple[ShardRow, str | None]]:
    """Yield each shard with what is wrong with its file, None if it is the one that was written."""
    with (
        tqdm(
            total=sum(shard.bytes for shard in shards),
            unit="B",
            unit_scale=True,
            desc=label,
            disable=None if shards else True,
        ) as bar,
        ThreadPoolExecutor(thread_count()) as threads,
    ):
        for shard, problem in zip(
            shards, threads.map(lambda shard: _check(store, shard), shards), strict=True
        ):
            bar.update(shard.bytes)
            yield shard, problem


def size_problem(store: Path, shard: ShardRow) -> str | None:
    """Return what is wrong with a shard's file without reading it."""
    path = store / shard.path
    odd = oddity(path)
    if odd:
        return odd
    if not path.exists():
        return "the file is missing"
    size = path.stat().st_size
    if size != shard.bytes:
        return f"has {size} bytes; the packing list says {shard.bytes}"
    return None


def _check(store: Path, shard: ShardRow) -> str | None:
    problem = size_problem(store, shard)
    if problem:
        return problem
    digest = sha256_file(store / shard.path)
    return None if digest == shard.sha256 else f"sha256 is {digest}; expected {shard.sha256}"


ODD_REMEDY = {
    "is a symbolic link": "put what it leads to in its place",
    "is a folder": "move it out of the store",
    "is a pipe or a device": "remove it",
}
NUMBER = "0|[1-9][0-9]{0,11}"
SHARD_PATH = re.compile(
    rf"{re.escape(ZARR_GROUP)}/(?P<shape>[0-9]+x[0-9]+)/"
    rf"(?P<array>grid/c\.(?P<grid>{NUMBER})\.0\.0\.0|pooled/c\.(?P<pooled>{NUMBER})\.0)"
)
ZARR_JSON = re.compile(rf"{re.escape(ZARR_GROUP)}/([0-9]+x[0-9]+/((grid|pooled)/)?)?zarr\.json")


def check_folders(store: Path, shapes: Iterable[str], arrays: tuple[str, ...]) -> None:
    """Raise CorruptStoreError unless the folders of the store are folders: links lead anywhere."""
    folders = [ZARR_GROUP]
    for shape in shapes:
        folders += [f"{ZARR_GROUP}/{shape}"]
        folders += [f"{ZARR_GROUP}/{shape}/{array}" for array in arrays]
    for folder in folders:
        check_folder(store / folder)


def check_folder(path: Path) -> None:
    """Raise CorruptStoreError if anything but a folder, or nothing, stands at `path`."""
    odd = "is a file" if is_plain(path) else oddity(path)
    if odd and odd != "is a folder":
        raise _odd(path, f"{odd}; put the folder itself in its place")


def check_plain(paths: Iterable[Path]) -> None:
    """Raise CorruptStoreError if anything but a plain file, or nothing, stands in such a place."""
    for path in paths:
        odd = oddity(path)
        if odd:
            raise _odd(path, f"{odd}; {ODD_REMEDY[odd]}")


def _odd(path: Path, why: str) -> CorruptStoreError:
    return CorruptStoreError(
        f"{path}: {why}: a store holds folders and plain files alone",
        code="E-STORE-LINK" if path.is_symlink() else "E-STORE-FILE",
    )


def check_shards(
    path: Path,
    shards: Iterable[ShardRow],
    lengths: Mapping[str, int],
    shard_records: int,
    identity: Identity,
) -> None:
    """Raise CorruptStoreError unless paths and rows of the packing list `path` follow from
    each other: a store from elsewhere may name any file, give one shard another's place, or
    claim a size that takes days to read.

    `lengths` are those of the arrays, by grid shape. That paths are sorted, none twice, is checked
    while they are read, before there are many.
    """
    for shard in shards:
        if not is_sha256(shard.sha256):
            raise CorruptStoreError(
                f"{path}: {shard.sha256!r:.80} is no sha256 (64 lower-case hex digits)",
                code="E-STORE-HASH",
            )
        match = SHARD_PATH.fullmatch(shard.path)
        if match and match["shape"] == shard.shape and shard.shape in lengths:
            first_row = int(match["grid"] or match["pooled"]) * shard_records
            end = shard.first_row + shard.records
            within = 1 <= shard.records <= shard_records and end <= lengths[shard.shape]
            possible = _possible_bytes(shard, match["grid"], shard_records, identity)
            if shard.first_row == first_row and within and shard.bytes in possible:
                continue
        raise CorruptStoreError(
            f"{path}: {shard.path!r:.200} cannot be the shard of {shard.records} records of "
            f"{shard.shape:.20} from row {shard.first_row}, {shard.bytes} bytes"
        )


def _possible_bytes(
    shard: ShardRow,
    grid: str | None,
    shard_records: int,
    identity: Identity,
) -> range:
    """Return the sizes that an honest shard may have; none if the store has no such array."""
    if grid is None and identity.pooled_dim is None:
        return range(0)
    channels = identity.pooled_dim or 0
    if grid is not None:
        channels = GridShape.parse(shard.shape).cells * identity.dim
    index = index_bytes(shard_records)
    record = zstd_bound(channels * identity.numpy_dtype.itemsize)
    return range(index, index + shard.records * record + 1)
