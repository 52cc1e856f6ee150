"""Look at a safetensors file before its library does, so that what that does is bounded."""

import os
from pathlib import Path

from .files import open_plain

LENGTH = 8  # bytes of the header's length, little-endian, with which a file begins
HEADER_BYTES = 16 << 20  # 100,000 tensors take about 10 MB


def check_tensorfile(path: str | Path, limit: int | None = None, *, follow: bool = False) -> None:
    """Raise OSError or ValueError unless `path` may be given to the safetensors library.

    That is a plain file of at most `limit` bytes whose header is whole and of moderate size: the
    library maps the file and reads the header at once, and tensors only when they are asked for.
    """
    with os.fdopen(open_plain(path, follow=follow), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header = int.from_bytes(file.read(LENGTH), "little")
    if limit is not None and size > limit:
        raise ValueError(f"is {size:,} bytes large; such a file has at most {limit:,}")
    if size < LENGTH or header > size - LENGTH:
        raise ValueError("is cut off, or no safetensors file: its header is not all there")
    if header > HEADER_BYTES:
        raise ValueError(f"has a header of {header:,} bytes; at most {HEADER_BYTES:,} are read")
