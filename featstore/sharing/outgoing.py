"""What is sent of a store: its files with their hashes, and whether a host can hold them."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ...base.errors import StoreError, UsageError, reason_of
from ...base.files import BLOCK_BYTES, open_plain, sha256_file
from ...base.text import size_text
from ..audit.contents import Depth
from ..audit.verify import verify
from ..layout import SIGNATURES, STORE_JSON, TABLES, table_file
from ..metadata import StoreMetadata, zarr_metadata_files
from ..quantise import SCALE_FILE
from ..shards import ShardRow
from ..store import FeatureStore
from ..writing.describe import document_names

LARGEST_SHARD = 1 << 20  # records; the format's limit


class OutgoingFile(NamedTuple):
    """One file to send."""

    name: str  # relative to the store
    path: Path
    size: int
    sha256: str  # that the content must have

    def pieces(self) -> Iterator[bytes]:
        """Yield the content; the last piece only if the sha256 of all of it is right.

        Raises StoreError (E-PUSH-CHANGED) otherwise, so that no wrong file can become complete.
        """
        digest, last = hashlib.sha256(), b""
        try:
            with os.fdopen(open_plain(self.path), "rb") as file:
                while block := file.read(BLOCK_BYTES):
                    digest.update(block)
                    if last:
                        yield last
                    last = block
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be read ({reason_of(error)})", code="E-PUSH-CHANGED"
            ) from None
        self.compare(digest.hexdigest())
        yield last

    def content(self) -> bytes:
        """Return the content of a small file; raises as `pieces` does."""
        return b"".join(self.pieces())

    def compare(self, sha256: str) -> None:
        """Raise StoreError (E-PUSH-CHANGED) unless the content that was read has this sha256."""
        if sha256 != self.sha256:
            raise StoreError(
                f"{self.path}: has the sha256 {sha256}; expected {self.sha256}; the file was changed; "
                f"see what else is wrong with: clipfeat store verify",
                code="E-PUSH-CHANGED",
            )


def file_hashes(metadata: StoreMetadata, shards: Iterable[ShardRow]) -> dict[str, str]:
    """Return the sha256 of every file of the features, by its name: all but documents."""
    zarr = zarr_metadata_files(metadata.identity, metadata.grid_shapes, metadata.shard_records)
    scale = metadata.identity.scale_sha256
    return {
        **{table_file(table, metadata.generation): metadata.tables[table] for table in TABLES},
        **{name: hashlib.sha256(content).hexdigest() for name, content in zarr.items()},
        **({} if scale is None else {SCALE_FILE: scale}),
        **{shard.path: shard.sha256 for shard in shards},
    }


def outgoing_files(store: FeatureStore) -> list[OutgoingFile]:
    """Return the files of a store on this machine; store.json is the last one.

    Raises StoreError (E-PUSH-STORE) if a file is missing or has another size, if there are files
    that do not belong to the store, or while it is being updated.
    """
    path, metadata = store.path, store.metadata
    if problems := verify(path, Depth.QUICK):
        more = f" (and {len(problems) - 1} more problems)" if problems[1:] else ""
        raise StoreError(
            f"{path}: only a complete store can be pushed: {problems[0].text()}{more}",
            code="E-PUSH-STORE",
        )
    hashes = file_hashes(metadata, store.shards)
    for name in (*document_names(path), *SIGNATURES, STORE_JSON):
        if (path / name).exists():
            hashes[name] = metadata.documents.get(name) or sha256_file(path / name)
    return [
        OutgoingFile(name, path / name, (path / name).stat().st_size, sha256)
        for name, sha256 in hashes.items()
    ]


class Found(NamedTuple):
    """The files in the folder of a target, by name."""

    same: set[str]  # those that are to be sent, and are there already
    other: set[str]  # those that are there with another content
    more: set[str]  # those that are not to be sent


class HostLimits(NamedTuple):
    """What a host can hold; None where it has no limit that matters."""

    host: str
    files: int | None = None  # of a store
    files_per_folder: int | None = None
    file_bytes: int | None = None

    def problem(self, files: int, per_folder: int, largest: int) -> str:
        """Return which limit is exceeded, "" if none is."""
        if self.files is not None and files > self.files:
            return f"{files:,} files; {self.host} allows {self.files:,} for a repository"
        if self.files_per_folder is not None and per_folder > self.files_per_folder:
            return f"{per_folder:,} files in a folder; {self.host} allows {self.files_per_folder:,}"
        if self.file_bytes is not None and largest > self.file_bytes:
            return (
                f"a file of {size_text(largest)}; {self.host} allows {size_text(self.file_bytes)}"
            )
        return ""


def require_limits(store: FeatureStore, files: Sequence[OutgoingFile], limits: HostLimits) -> None:
    """Raise UsageError (E-PUSH-LIMIT) if a host cannot hold a store; it names a size of shards."""
    folders = Counter(file.name.rpartition("/")[0] for file in files)
    largest = max(file.size for file in files)
    problem = limits.problem(len(files), max(folders.values()), largest)
    if not problem:
        return
    others = len(files) - len(store.shards)
    shard_size = fitting_shard_size(
        store.shards, store.metadata.grid_shapes, store.metadata.shard_records, others, limits
    )
    remedy = "divide it into several stores with: clipfeat store subset"
    if shard_size is not None:
        remedy = (
            f"write it with other shards first: "
            f"clipfeat store reshard {store.path} OUT --shard-size {shard_size}"
        )
    raise UsageError(f"{store.path} has {problem}; {remedy}", code="E-PUSH-LIMIT")


def fitting_shard_size(
    shards: Sequence[ShardRow],
    lengths: dict[str, int],
    shard_records: int,
    others: int,
    limits: HostLimits,
) -> int | None:
    """Return how many records a shard must have so that a store is within limits; None: impossible.

    The result is `shard_records` multiplied or divided by the smallest possible power of two.
    `lengths` are those of the arrays by grid shape, `others` is the number of files that are not
    shards.
    """
    arrays = {(shard.shape, shard.path.rpartition("/")[0]) for shard in shards}
    record_bytes = max((shard.bytes / shard.records for shard in shards), default=0.0)
    up = [shard_records << k for k in range(1, 21)]
    down = [shard_records >> k for k in range(1, 21)]
    for size in (*up, *down):
        if not 1 <= size <= LARGEST_SHARD:
            continue
        counts = [-(-lengths[shape] // size) for shape, _ in arrays]
        largest = int(record_bytes * size)
        if not limits.problem(sum(counts) + others, max(counts, default=0) + 1, largest):
            return size
    return None
