"""Write a shard file as records come, and read single records out of one."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...base.files import fsync_folder, naming, open_plain, read_at, read_into
from ..errors import CorruptStoreError, open_code
from ..format import ShardRow
from ..layout import Shard
from .codecs import CRC_BYTES, Buffer, crc32c, decode_zstd, zstd_bound
from .shard_index import Index, decode_index, empty_index, encode_index, index_bytes


class ShardWriter:
    """One shard file: encoded records go in in row order, `commit` gives it its name.

    Nothing is kept in memory but the index. Until `commit` the bytes lie in a temporary file;
    a crash at any instant leaves the final name absent or whole.
    """

    def __init__(self, store: Path, temporary: Path, shard: Shard, array: str, shard_records: int):
        self._path = shard.path(array)
        self._store = store
        self._shard = shard
        self._temporary = temporary
        self._file = temporary.open("wb")
        self._index = empty_index(shard_records)
        self._sha256 = hashlib.sha256()
        self._bytes = 0

    def append(self, position: int, encoded: bytes) -> None:
        """Write the record at `position` in the shard; one never appended stays absent."""
        self._index[position] = self._bytes, len(encoded)
        self._write(encoded)

    def _write(self, content: bytes) -> None:
        with naming(self._temporary):
            self._file.write(content)
        self._sha256.update(content)
        self._bytes += len(content)

    def commit(self) -> ShardRow:
        """Write the index, make the bytes durable, then give the file its final name."""
        self._write(encode_index(self._index))
        with naming(self._temporary):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
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
        """Drop the temporary file, unless it was committed."""
        with contextlib.suppress(OSError):  # a full disk refuses the last bytes once more
            self._file.close()
        self._temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
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
    """Return the index of an opened shard, raising CorruptStoreError unless it is sound."""
    size = os.fstat(descriptor).st_size
    length = index_bytes(shard_records)
    if size < length:
        raise CorruptStoreError(f"{size} bytes are no shard; its index alone has {length}")
    return decode_index(read_at(descriptor, length, size - length), size)


def read_record(
    descriptor: int, entry: tuple[int, int], codec: str, check: bytes, out: Buffer, *, verify: bool
) -> None:
    """Fill `out` (the record's bytes) from an opened shard.

    `entry` is the record's offset and length in the file. Its last bytes must be `check`, the
    index's own copy of the record's checksum: a sound record of another image is not taken for
    this one. Without `verify` the checksum of a raw record is compared, but not computed.
    """
    offset, length = entry
    if codec == "none":
        # Straight into the caller's memory: no second copy of the record is made.
        stored = bytearray(CRC_BYTES)
        if length != out.size + CRC_BYTES:
            raise CorruptStoreError(f"raw record has {length} bytes, not {out.size + CRC_BYTES}")
        if read_into(descriptor, [out.data, memoryview(stored)], offset) != length:
            raise CorruptStoreError("the file ends within the record")
        _compare(bytes(stored), check)
        if verify and crc32c(out) != stored:
            raise CorruptStoreError("crc32c does not match: the bytes on disk have changed")
        return
    if length > zstd_bound(out.size):
        raise CorruptStoreError(f"{length} bytes cannot be a zstd frame of {out.size}")
    encoded = read_at(descriptor, length, offset)
    _compare(encoded[-CRC_BYTES:], check)
    decode_zstd(encoded, out)


def _compare(stored: bytes, check: bytes) -> None:
    if stored != check:
        raise CorruptStoreError(
            f"checksum is {stored.hex()}, but the index says {check.hex()}: "
            f"the record of another image, or changed bytes"
        )


def as_bytes(record: np.ndarray) -> Buffer:
    """Return a flat view of a C-contiguous array's bytes."""
    return record.reshape(-1).view(np.uint8)
