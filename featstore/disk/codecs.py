"""The two codecs of a record: zstd with a checksum inside, or raw bytes with a crc32c behind."""

from collections.abc import Iterable
from typing import Any

import google_crc32c
import numcodecs
import numpy as np

from ..errors import CorruptStoreError

ZSTD_LEVEL = 1  # measured: 46% of the bytes at 335 MB/s; higher levels gain little
CRC_BYTES = 4

Buffer = np.ndarray[Any, np.dtype[np.uint8]]

_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
CRC32C = {"name": "crc32c"}
# What stands in an array's zarr.json for each codec; the shard index is always INDEX_CODECS.
ZARR_CODECS: dict[str, list[dict[str, Any]]] = {
    "zstd": [_BYTES, {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": True}}],
    "none": [_BYTES, CRC32C],
}
INDEX_CODECS = [_BYTES, CRC32C]

_zstd = numcodecs.Zstd(level=ZSTD_LEVEL, checksum=True)


def encode(codec: str, record: Buffer) -> bytes:
    """Return the bytes on disk of one record; zstd releases the GIL."""
    if codec == "zstd":
        return bytes(_zstd.encode(record))
    content = record.tobytes()
    return content + crc32c(content)


def decode_zstd(encoded: bytes, out: Buffer) -> None:
    """Fill `out` from one zstd frame, raising CorruptStoreError on any changed bit.

    The frame's own header is read first: a frame without a checksum would return wrong bytes
    silently, one of another size would leave part of `out` as it was or want more memory.
    """
    size, has_checksum = zstd_frame_header(encoded)
    if size != out.size or not has_checksum:
        raise CorruptStoreError(
            f"zstd frame says {size} bytes {'with' if has_checksum else 'without'} a checksum; "
            f"expected {out.size} with one"
        )
    try:
        _zstd.decode(encoded, out)
    except (RuntimeError, ValueError) as error:  # ValueError: more frames behind the first
        raise CorruptStoreError(str(error)) from None


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


def checksum(encoded: Iterable[bytes]) -> str:
    """Return the checksums inside the encoded arrays of one record, as the index keeps them.

    Both codecs end with four bytes that depend on the numbers alone: the crc32c, or the
    XXH64 of a zstd frame (RFC 8878, section 3.1.1).
    """
    return b"".join(content[-CRC_BYTES:] for content in encoded).hex()


def crc32c(content: bytes | Buffer) -> bytes:
    """Return the crc32c of `content` as it stands on disk: 4 bytes, little-endian."""
    if isinstance(content, np.ndarray):
        content = content.view()
        content.flags.writeable = False  # the C function takes read-only buffers alone
    return google_crc32c.value(content).to_bytes(CRC_BYTES, "little")  # pyright: ignore[reportArgumentType]
