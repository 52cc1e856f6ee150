"""The index at the end of a shard file: where each record's bytes lie (Zarr v3 sharding)."""

from typing import Any

import numpy as np

from ..errors import CorruptStoreError
from .codecs import CRC_BYTES, crc32c

ABSENT = 2**64 - 1  # both offset and length of a record that is not there

Index = np.ndarray[Any, np.dtype[np.uint64]]  # (record, 2): offset, length in bytes


def index_bytes(shard_records: int) -> int:
    """Return the size of the index of a shard, in bytes, its crc32c included."""
    return 16 * shard_records + CRC_BYTES


def empty_index(shard_records: int) -> Index:
    """Return an index in which every record is absent."""
    return np.full((shard_records, 2), ABSENT, dtype="<u8")


def encode_index(index: Index) -> bytes:
    """Return the index as it stands on disk."""
    content = index.astype("<u8").tobytes()
    return content + crc32c(content)


def decode_index(content: bytes, file_bytes: int) -> Index:
    """Return the index held in the last bytes of a shard file of `file_bytes` bytes.

    Raises CorruptStoreError if a bit of it has changed or a record would lie outside the file.
    """
    entries, stored = content[:-CRC_BYTES], content[-CRC_BYTES:]
    if crc32c(entries) != stored:
        raise CorruptStoreError("the shard index does not match its crc32c")
    index = np.frombuffer(entries, dtype="<u8").reshape(-1, 2)
    offset, length = index[index[:, 0] != ABSENT].T
    end = file_bytes - len(content)
    if ((offset > end) | (length > end - np.minimum(offset, end))).any():
        raise CorruptStoreError("the shard index points outside its file")
    return index
