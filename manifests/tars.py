"""Members of plain tar files, found by the headers alone and read without unpacking."""

import errno
import functools
import io
import os
import tarfile
import threading
from typing import Any, BinaryIO, NamedTuple, cast

MAX_MEMBERS = 1 << 22  # of one tar; a member takes some 200 bytes of memory
MAX_HEADER = 1 << 20  # bytes of one header; the longest name is far shorter
CACHED = 16  # tars whose members are remembered, in a process

_lock = threading.Lock()  # else every thread would list a tar that is new to all of them


class TarError(OSError):
    """A file that is no plain tar, or is one only up to some point."""

    def __init__(self, why: str):
        super().__init__(errno.EIO, f"not a whole tar file: {why}")


class Member(NamedTuple):
    """Where a plain file's bytes stand in a tar."""

    offset: int
    size: int


def members(path: str) -> dict[str, Member]:
    """Return the plain files in the tar at `path` by name; of two with one name, the later.

    Links, devices and sparse files are passed over. Raises TarError for a file that is
    compressed, truncated or no tar.
    """
    found = os.stat(path)  # noqa: PTH116
    with _lock:
        return _members(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(CACHED)
def _members(path: str, _: int, size: int) -> dict[str, Member]:
    """Read the headers of a tar as it was at some time, with `size` bytes."""
    listed: dict[str, Member] = {}
    with _Headers(path) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                kept: list[tarfile.TarInfo] = vars(tar)["members"]  # every header, if they stay
                while member := tar.next():
                    kept.clear()
                    if member.issparse():  # its size is not that in the tar
                        continue
                    if member.size < 0 or member.offset_data + member.size > size:
                        raise TarError(f"{member.name!r:.100} ends after the file does")
                    if member.isreg():
                        listed[member.name] = Member(member.offset_data, member.size)
                    if len(listed) > MAX_MEMBERS:
                        raise TarError(f"more than {MAX_MEMBERS:,} files")
                _check_end(file, tar.offset)
        # ValueError and others: numbers and names that no tar program writes.
        except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
            raise TarError(f"{error!s:.200}") from None
    return listed


def _check_end(file: io.FileIO, offset: int) -> None:
    """Raise TarError unless a tar's end mark stands at `offset`: tarfile stops at any odd block."""
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise TarError(f"no header and no end mark at byte {offset:,}")


class _Headers(io.FileIO):
    """A file that gives small pieces only: a header may claim any length of itself."""

    def read(self, size: Any = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise TarError(f"a header of {size:,} bytes")
        return super().read(size) or b""


def open_member(path: str, name: str) -> BinaryIO:
    """Return a member of a tar as a file; FileNotFoundError where there is none of this name."""
    member = members(path).get(name)
    if member is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{path}/{name}")
    return cast(BinaryIO, io.BufferedReader(_Section(path, member)))


class _Section(io.RawIOBase):
    """A part of a file, as a file."""

    def __init__(self, path: str, member: Member):
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._member = member
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._member.size}
        if base[whence] + offset < 0:
            raise ValueError("a position before the file's begin")
        self._position = base[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._member.size - self._position))
        piece = os.pread(self._descriptor, wanted, self._member.offset + self._position)
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
