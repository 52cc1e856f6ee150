"""The members of tar and zip files: what both do to list them, and to read them in place.

A part of an open file is read as a file of its own, as it is stored or inflated on the way.
"""

import bisect
import errno
import functools
import io
import os
import threading
import zlib
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from .files import read_at

CACHED = 16  # archives of each kind whose lists of members a process keeps

SPACING = 1 << 23  # bytes of content between two states that are kept, of some 50 kB each
PIECE = 1 << 14  # deflated bytes that are read at once
SKIPPED = 1 << 20  # bytes of content that are inflated at once and not needed
GZIP, RAW = 31, -15  # zlib's numbers for data with gzip's header, and without any

ReadAt = Callable[[int, int], bytes]  # (length, offset): fewer bytes at the end
M = TypeVar("M")


class Contents(NamedTuple, Generic[M]):
    """What an archive contains, without folders."""

    files: dict[str, M]
    others: list[str]  # names of members that cannot be read


def listed_once(
    list_members: Callable[[str, int], Contents[M]],
) -> Callable[[str], Contents[M]]:
    """Make a function that lists an archive again only after its size or time has changed.

    `list_members` takes a path and the size of its file. Of several threads, one lists.
    """
    lock = threading.Lock()

    @functools.lru_cache(CACHED)
    def listed(path: str, size: int, _time: int) -> Contents[M]:
        return list_members(path, size)

    def current(path: str) -> Contents[M]:
        status = os.stat(path)  # noqa: PTH116
        with lock:
            return listed(path, status.st_size, status.st_mtime_ns)

    return current


def member_of(contents: Contents[M], path: str, name: str) -> M:
    """Return a member of the archive at `path`; FileNotFoundError if none has this name."""
    member = contents.files.get(name)
    if member is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{path}/{name}")
    return member


def as_text(name: bytes) -> str:
    """Return a name as a text, from which its bytes can be had again."""
    return name.decode("utf-8", "surrogateescape")


class Inflated:
    """The content of deflated bytes, at any offset.

    Deflate has no index: an offset is reached by inflating everything before it. Going on from
    where the last read ended costs nothing more. For other offsets, the state is kept every
    SPACING bytes. Several threads may share an object, and each call names an open descriptor of
    the same file.
    """

    def __init__(self, start: int, end: int, kind: int, limit: int):
        """Take the bytes `start` to `end` of a file; `limit` is the most that their content may have."""
        self._end, self._kind, self._limit = end, kind, limit
        self._lock = threading.Lock()
        self._position, self._next = 0, start  # in the content, and in the file
        self._inflater = zlib.decompressobj(kind)
        self._offsets = [0]
        self._states = [(start, self._inflater.copy())]

    def read_at(self, descriptor: int, length: int, offset: int) -> bytes:
        """Return `length` bytes of the content from `offset` on, fewer at its end.

        Raises OSError for data that is damaged, and for content beyond the limit.
        """
        with self._lock:
            try:
                self._go_to(descriptor, offset)
                pieces: list[bytes] = []
                while length and self._position >= offset:
                    piece = self._inflate(descriptor, length)
                    if not piece:
                        break
                    pieces.append(piece)
                    length -= len(piece)
            except zlib.error as error:
                raise OSError(errno.EIO, f"damaged compressed data ({error})") from None
        return b"".join(pieces)

    def _go_to(self, descriptor: int, offset: int) -> None:
        nearest = bisect.bisect_right(self._offsets, offset) - 1
        if not self._offsets[nearest] <= self._position <= offset:
            self._position = self._offsets[nearest]
            self._next, state = self._states[nearest]
            self._inflater = state.copy()
        while self._position < offset:
            if not self._inflate(descriptor, min(SKIPPED, offset - self._position)):
                return

    def _inflate(self, descriptor: int, length: int) -> bytes:
        """Return the next bytes of the content, at most `length`, none at its end."""
        if self._position >= self._offsets[-1] + SPACING:
            self._offsets.append(self._position)
            self._states.append((self._next, self._inflater.copy()))
        while True:
            source = self._inflater.unconsumed_tail
            if self._inflater.eof:
                # gzip files may follow one another, and zeros may fill the rest.
                source = self._inflater.unused_data.lstrip(b"\0")
                if self._kind == RAW or not (
                    source := source or self._piece(descriptor).lstrip(b"\0")
                ):
                    return b""
                self._inflater = zlib.decompressobj(self._kind)
            source = source or self._piece(descriptor)
            content = self._inflater.decompress(source, length)
            if content:
                self._position += len(content)
                if self._position > self._limit:
                    raise OSError(errno.EFBIG, f"more than {self._limit:,} bytes when inflated")
                return content
            if not source and not self._inflater.eof:
                raise OSError(errno.EIO, "the compressed data is cut off")

    def _piece(self, descriptor: int) -> bytes:
        piece = read_at(descriptor, max(0, min(PIECE, self._end - self._next)), self._next)
        self._next += len(piece)
        return piece


class Section(io.RawIOBase):
    """`size` bytes that a function reads, as a file; closing it closes the file that they are in."""

    def __init__(self, descriptor: int, size: int, read: ReadAt):
        self._descriptor = descriptor
        self._size = size
        self._read = read
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        if base[whence] + offset < 0:
            raise ValueError("a position before the beginning of the file")
        self._position = base[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = max(0, min(len(buffer), self._size - self._position))
        piece = self._read(length, self._position) if length else b""
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
