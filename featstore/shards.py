"""One shard file: the codecs of its records, its index, writing it, reading from it, checking it.

A record is compressed by zstd with a checksum inside (codec `zstd`), or raw bytes followed by
their crc32c (codec `none`).
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false
# numcodecs has no types.

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import crc32c as crc32c_library
import numcodecs
import numpy as np
from tqdm import tqdm

from ..base.errors import CorruptStoreError, open_code
from ..base.files import (
    fsync_folder,
    naming,
    oddity,
    open_plain,
    read_at,
    read_into,
    sha256_file,
)
from ..base.interruption import interrupt
from ..base.machine import usable_cores
from .layout import Shard

ZSTD_LEVEL = 1  # measured: 46% of the bytes at 335 MB/s; higher levels gain little
CRC_BYTES = 4
SHA_BYTES = 16  # of a record's sha256, in the index

MAX_THREADS = 8

Buffer = np.ndarray[Any, np.dtype[np.uint8]]


class ShardRow(NamedTuple):
    """One file of features, as a row of shards.parquet, the packing list."""

    path: str  # relative to the store, with forward slashes
    bytes: int
    sha256: str
    shape: str
    first_row: int
    records: int


_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
CRC32C = {"name": "crc32c"}
_ZSTD = {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": True}}
INDEX_CODECS = [_BYTES, CRC32C]


def zarr_codecs(codec: str, order: Sequence[int]) -> list[dict[str, Any]]:
    """Return the `codecs` of an array whose records have their dimensions in this order on disk."""
    last = _ZSTD if codec == "zstd" else CRC32C
    if list(order) == sorted(order):
        return [_BYTES, last]
    turned = {"order": [0, *(1 + dimension for dimension in order)]}
    return [{"name": "transpose", "configuration": turned}, _BYTES, last]


_zstd = numcodecs.Zstd(level=ZSTD_LEVEL, checksum=True)


def encode(codec: str, record: Buffer) -> bytes:
    """Return the bytes on disk of one record; zstd releases the GIL."""
    if codec == "zstd":
        return bytes(_zstd.encode(record))
    content = record.tobytes()
    return content + crc32c(content)


def decode_zstd(encoded: bytes, out: Buffer) -> None:
    """Fill `out` from one zstd frame, raising CorruptStoreError on any changed bit.

    The frame's header is read first: a frame without a checksum would return wrong bytes
    silently, and one of another size would leave part of `out` as it was or need more memory.
    """
    size, has_checksum = zstd_frame_header(encoded)
    if size != out.size or not has_checksum:
        raise CorruptStoreError(
            f"its zstd frame has {size} bytes {'with' if has_checksum else 'without'} a checksum; "
            f"expected {out.size} with one",
            code="E-SHARD-FRAME",
        )
    try:
        _zstd.decode(encoded, out)
    except (RuntimeError, ValueError) as error:  # ValueError: more frames behind the first
        raise CorruptStoreError(str(error), code="E-SHARD-DATA") from None


def zstd_bound(size: int) -> int:
    """Return the most bytes that an honest frame of `size` bytes takes (ZSTD_compressBound)."""
    return size + (size >> 8) + 128


def zstd_frame_header(encoded: bytes) -> tuple[int, bool]:
    """Return (content size in bytes or -1, whether a checksum follows) of a zstd frame.

    The layout is that of RFC 8878, section 3.1.1.1.
    """
    if len(encoded) < 10 or encoded[:4] != b"\x28\xb5\x2f\xfd":
        return -1, False
    descriptor = encoded[4]
    single_segment = descriptor >> 5 & 1
    size_bytes = (single_segment, 2, 4, 8)[descriptor >> 6]
    start = 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3]
    size = int.from_bytes(encoded[start : start + size_bytes], "little")
    if size_bytes == 2:
        size += 256
    return (size if size_bytes else -1), bool(descriptor >> 2 & 1)


class RecordHashes(NamedTuple):
    """What the index has of the encoded arrays of one record, as hex digits; "" without a record.

    Both codecs end with four bytes that depend only on the numbers: the crc32c, or the XXH64 of a
    zstd frame (RFC 8878, section 3.1.1). The sha256 protects a record that was fetched alone
    against a forger, which no checksum does.
    """

    checksum: str = ""  # the last 4 bytes of each array
    record_sha256: str = ""  # the first 16 bytes of the sha256 of each

    @classmethod
    def of(cls, encoded: Iterable[bytes]) -> "RecordHashes":
        """Return the hashes of the arrays of a record as stored, in their order."""
        arrays = list(encoded)
        lasts = b"".join(content[-CRC_BYTES:] for content in arrays)
        digests = b"".join(hashlib.sha256(content).digest()[:SHA_BYTES] for content in arrays)
        return cls(lasts.hex(), digests.hex())


def crc32c(content: bytes | Buffer) -> bytes:
    """Return the crc32c of `content` as it is stored: 4 bytes, little-endian.

    The library releases the GIL for all but short contents.
    """
    readable: Any = content
    return crc32c_library.crc32c(readable).to_bytes(CRC_BYTES, "little")


ABSENT = 2**64 - 1  # offset and length of an absent record

Index = np.ndarray[Any, np.dtype[np.uint64]]  # (record, 2): offset, length in bytes


def index_bytes(shard_records: int) -> int:
    """Return the size of the index of a shard, in bytes, its crc32c included."""
    return 16 * shard_records + CRC_BYTES


def empty_index(shard_records: int) -> Index:
    """Return an index in which every record is absent."""
    return np.full((shard_records, 2), ABSENT, dtype="<u8")


def encode_index(index: Index) -> bytes:
    """Return the bytes of the index on disk."""
    content = index.astype("<u8").tobytes()
    return content + crc32c(content)


def decode_index(content: bytes, file_bytes: int) -> Index:
    """Return the index held in the last bytes of a shard file of `file_bytes` bytes.

    Raises CorruptStoreError if a bit of it has changed or a record would lie outside the file.
    """
    entries, stored = content[:-CRC_BYTES], content[-CRC_BYTES:]
    if crc32c(entries) != stored:
        raise CorruptStoreError("the shard index does not match its crc32c", code="E-SHARD-INDEX")
    index = np.frombuffer(entries, dtype="<u8").reshape(-1, 2)
    offset, length = index[index[:, 0] != ABSENT].T
    end = file_bytes - len(content)
    if ((offset > end) | (length > end - np.minimum(offset, end))).any():
        raise CorruptStoreError("the shard index points outside its file", code="E-SHARD-INDEX")
    return index


class ShardWriter:
    """Writes one shard file: encoded records in row order; `commit` gives the file its name.

    Only the index is kept in memory. Until `commit` the bytes are in a temporary file; after a
    crash at any instant the final file is absent or complete. The one thread of `hasher` hashes
    what was written while the next is: one record at a time.
    """

    def __init__(
        self,
        store: Path,
        temporary: Path,
        shard: Shard,
        array: str,
        shard_records: int,
        hasher: ThreadPoolExecutor | None = None,
    ):
        self._path = shard.path(array)
        self._store = store
        self._shard = shard
        self._temporary = temporary
        self._file = temporary.open("wb")
        self._index = empty_index(shard_records)
        self._sha256 = hashlib.sha256()
        self._hasher = hasher
        self._hashing: Future[None] | None = None  # of what was written last
        self._bytes = 0

    def append(self, position: int, encoded: bytes) -> None:
        """Write the record at `position` in the shard; others stay absent."""
        self._index[position] = self._bytes, len(encoded)
        self._write(encoded)

    def _write(self, content: bytes) -> None:
        with naming(self._temporary):
            self._file.write(content)
        self._hash(content)
        self._bytes += len(content)

    def _hash(self, content: bytes) -> None:
        if self._hasher is None:
            self._sha256.update(content)
            return
        self._wait_for_hash()
        self._hashing = self._hasher.submit(self._sha256.update, content)

    def _wait_for_hash(self) -> None:
        if self._hashing is not None:
            self._hashing.result()

    def commit(self) -> ShardRow:
        """Write the index, sync the bytes to disk, then give the file its final name."""
        self._write(encode_index(self._index))
        with naming(self._temporary):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        self._wait_for_hash()
        path = self._store / self._path
        self._temporary.rename(path)
        fsync_folder(path.parent)
        shard = self._shard
        return ShardRow(
            self._path,
            self._bytes,
            self._sha256.hexdigest(),
            str(shard.shape),
            shard.first_row,
            shard.records,
        )

    def close(self) -> None:
        """Remove the temporary file, unless it was committed."""
        with contextlib.suppress(OSError):  # a full disk rejects the last bytes again
            self._file.close()
        self._temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def opened(path: str) -> Generator[int]:
    """Open a shard for reading and yield its descriptor; symbolic links are not followed."""
    try:
        descriptor = open_plain(path)
    except OSError as error:
        raise CorruptStoreError(
            f"cannot open the shard ({error.strerror})", code=open_code(error)
        ) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_index(descriptor: int, shard_records: int) -> Index:
    """Return the index of an opened shard, raising CorruptStoreError if it is damaged."""
    size = os.fstat(descriptor).st_size
    length = index_bytes(shard_records)
    if size < length:
        raise CorruptStoreError(
            f"has {size} bytes, too few for a shard: its index has {length}", code="E-SHARD-SIZE"
        )
    return decode_index(read_at(descriptor, length, size - length), size)


def read_record(
    descriptor: int,
    entry: tuple[int, int],
    codec: str,
    check: bytes | None,
    out: Buffer,
    *,
    verify: bool,
) -> bytes:
    """Fill `out` (the record's bytes) from an opened shard; return its last bytes on disk.

    `entry` is the record's offset and length in the file. Its last bytes must be `check`, the copy
    of its checksum in the lookup, so that an intact record of another image is not mistaken for
    it; None if the caller compares them. Without `verify` the checksum of a raw record is compared,
    but not computed.
    """
    offset, length = entry
    if codec == "none":
        # Straight into the caller's memory, without a second copy.
        stored = bytearray(CRC_BYTES)
        if length != out.size + CRC_BYTES:
            raise _bad_length(length, out.size)
        if read_into(descriptor, [out.data, memoryview(stored)], offset) != length:
            raise CorruptStoreError("the file ends within the record", code="E-SHARD-SIZE")
        last = bytes(stored)
        _compare(last, check)
        if verify and crc32c(out) != last:
            raise _bad_crc()
        return last
    if length > zstd_bound(out.size):
        raise too_long(length, out.size)
    return decode_record(codec, read_at(descriptor, length, offset), check, out, verify=verify)


def decode_record(
    codec: str, encoded: bytes, check: bytes | None, out: Buffer, *, verify: bool
) -> bytes:
    """Fill `out` from a whole record as stored; arguments and result are those of `read_record`."""
    last = encoded[-CRC_BYTES:]
    _compare(last, check)
    if codec == "zstd":
        decode_zstd(encoded, out)
        return last
    if len(encoded) != out.size + CRC_BYTES:
        raise _bad_length(len(encoded), out.size)
    out[:] = np.frombuffer(encoded, np.uint8, out.size)
    if verify and crc32c(out) != last:
        raise _bad_crc()
    return last


def _bad_length(length: int, size: int) -> CorruptStoreError:
    return CorruptStoreError(
        f"has {length} bytes; expected {size + CRC_BYTES}", code="E-SHARD-FRAME"
    )


def _bad_crc() -> CorruptStoreError:
    return CorruptStoreError("crc32c does not match: the bytes have changed", code="E-SHARD-DATA")


def too_long(length: int, size: int) -> CorruptStoreError:
    """Return the error for a record of more bytes than `zstd_bound(size)`."""
    return CorruptStoreError(
        f"has {length} bytes, too many for a zstd frame of {size}", code="E-SHARD-FRAME"
    )


def _compare(stored: bytes, check: bytes | None) -> None:
    if check is not None and stored != check:
        raise CorruptStoreError(
            f"its checksum is {stored.hex()}, but the index has {check.hex()}: "
            f"the record of another image, or changed bytes",
            code="E-SHARD-DATA",
        )


def as_bytes(record: np.ndarray) -> Buffer:
    """Return a flat view of a C-contiguous array's bytes."""
    return record.reshape(-1).view(np.uint8)


def thread_count() -> int:
    """Return how many threads read, hash or decode at a time."""
    return min(MAX_THREADS, usable_cores())


def check_files(
    store: Path, shards: Sequence[ShardRow], label: str
) -> Iterator[tuple[ShardRow, str | None]]:
    """Yield each shard with what is wrong with its file, None if it has its size and sha256.

    Files are hashed in parallel, with a progress bar in bytes.
    """
    return check_shards(shards, partial(_file_problem, store), label)


def check_shards(
    shards: Sequence[ShardRow], find_problem: Callable[[ShardRow], str | None], label: str
) -> Iterator[tuple[ShardRow, str | None]]:
    """Yield each shard with what `find_problem` returns for it, called in parallel.

    Ctrl-C also ends what these calls wait for.
    """
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
        try:
            for shard, problem in zip(shards, threads.map(find_problem, shards), strict=True):
                bar.update(shard.bytes)
                yield shard, problem
        except KeyboardInterrupt:  # map has cancelled the calls that have not begun
            interrupt()
            raise


def _file_problem(store: Path, shard: ShardRow) -> str | None:
    problem = shard_size_problem(store, shard)
    if problem:
        return problem
    digest = sha256_file(store / shard.path)
    return None if digest == shard.sha256 else f"sha256 is {digest}; expected {shard.sha256}"


def shard_size_problem(store: Path, shard: ShardRow) -> str | None:
    """Return what is wrong with a shard's file, as far as its size tells."""
    path = store / shard.path
    odd = oddity(path)
    if odd:
        return odd
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return "the file is missing"
    if size != shard.bytes:
        return f"has {size} bytes; the packing list says {shard.bytes}"
    return None
