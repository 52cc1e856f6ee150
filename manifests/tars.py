"""Members of plain tar files, found by the headers alone and read without unpacking."""

import contextlib
import errno
import functools
import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, cast

from ..base.files import open_plain, read_at

MAX_MEMBERS = 1 << 22  # of one tar; a member takes some 200 bytes of memory
MAX_HEADER = 1 << 20  # bytes of one header; the longest name is far shorter
BLOCK = 512
FILES = b"07\0S"  # kinds of a member that is a plain file, the last one with holes
NEEDED = (b"path", b"linkpath", b"size")  # of what an extended header says
END = bytes(BLOCK)
# Of a header: name, size, kind, what a link leads to, magic, prefix.
FIELDS = struct.Struct("100s 24x 12s 20x c 100s 6s 82x 155s 12x")
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


class Listed(NamedTuple):
    """What is in a tar, but for its folders."""

    files: dict[str, Member]
    others: list[str]  # names of symbolic links, devices, sparse files: what cannot be read


def members(path: str) -> dict[str, Member]:
    """Return the plain files in the tar at `path` by name; of two with one name, the later.

    A hard link is the file before it that it names, as in unpacking. Raises TarError for a file
    that is compressed, truncated or no tar.
    """
    return _listed(path).files


def others(path: str) -> list[str]:
    """Return the names of what such a tar has besides: symbolic links, devices, sparse files."""
    return _listed(path).others


def _listed(path: str) -> Listed:
    found = os.stat(path)  # noqa: PTH116
    with _lock:
        return _read(path, found.st_mtime_ns, found.st_size)


@functools.lru_cache(CACHED)
def _read(path: str, _: int, size: int) -> Listed:
    """Read the headers of a tar as it was at some time, with `size` bytes."""
    listed = Listed({}, [])
    with open_archive(path) as descriptor:
        for name, found in _entries(descriptor, size):
            member = listed.files.get(found) if isinstance(found, str) else found
            if member is None:
                listed.others.append(name)
            else:
                listed.files[name] = member
            if len(listed.files) + len(listed.others) > MAX_MEMBERS:
                raise TarError(f"more than {MAX_MEMBERS:,} files")
    return listed


@contextlib.contextmanager
def open_archive(path: str) -> Iterator[int]:
    """Open a tar for `read_at`."""
    descriptor = open_plain(path, follow=True)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _entries(descriptor: int, size: int) -> Iterator[tuple[str, Member | str | None]]:
    """Yield the name of all but folders in a tar of `size` bytes, with what stands there.

    That is the place of a plain file, the name of the file that a hard link is, or None.

    The formats are those of POSIX (ustar, pax) and GNU tar, a header a member:
    https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_06
    https://www.gnu.org/software/tar/manual/html_node/Standard.html
    """
    offset = 0
    everywhere: dict[bytes, bytes] = {}  # what global headers say of all members after them
    here: dict[bytes, bytes] = {}  # what extended headers say of the next one
    while (header := read_at(descriptor, BLOCK, offset)) != END:
        if not _is_header(header):
            raise TarError(f"no header and no end mark at byte {offset:,}")
        name, digits, kind, target, magic, prefix = FIELDS.unpack(header)
        offset += BLOCK
        length = _number(digits)
        if kind in b"xXgLK":
            records = _records(descriptor, offset, length, kind)
            (everywhere if kind == b"g" else here).update(records)
            offset += -(-length // BLOCK) * BLOCK
            continue
        said, here = (everywhere | here if everywhere else here), {}
        if kind == b"S":  # a sparse file of old GNU tar: a map of its holes may go on
            more = header[482]
            while more:
                more = read_at(descriptor, BLOCK, offset)[504:505] > b"\0"
                offset += BLOCK
        name = said.get(b"path") or _name(name, magic, prefix)
        if kind in b"123456":  # links, devices, folders and pipes have no bytes
            if kind == b"1":
                yield _text(name), _text(said.get(b"linkpath") or _field(target))
            elif kind != b"5":
                yield _text(name), None
            continue
        if b"size" in said:
            length = _number(said[b"size"], base=10)
        if offset + length > size:
            raise TarError(f"{_text(name)!r:.100} ends after the file does")
        if kind in FILES and name[-1:] != b"/":
            is_whole = kind != b"S" and b"sparse" not in said
            yield _text(name), Member(offset, length) if is_whole else None
        offset += -(-length // BLOCK) * BLOCK
    if here:
        raise TarError(f"an extended header without its member at byte {offset:,}")


def _is_header(block: bytes) -> bool:
    """Return whether a block's checksum is right: the sum of its bytes, itself taken as spaces.

    Adler-32 begins with 1 and that sum, modulo 65,521 (RFC 1950), many times as fast as `sum`.
    """
    if len(block) < BLOCK:
        return False
    checksum = block[148:156]
    try:
        stored = _number(checksum)
    except TarError:
        return False
    wanted = stored + sum(checksum) - 8 * ord(" ")
    if zlib.adler32(block) & 0xFFFF == (1 + wanted) % 65_521:
        return True
    # Some old programs took bytes as signed.
    return wanted == sum(block) - 256 * sum(byte > 127 for byte in block)


def _number(field: bytes, base: int = 8) -> int:
    """Return a number written in digits, or, if large, in binary after a byte 128."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    try:
        number = int(field.rstrip(b" \0") or b"0", base)
    except ValueError:
        number = -1
    if number < 0:
        raise TarError(f"no number but {field!r:.60} in a header")
    return number


def _name(name: bytes, magic: bytes, prefix: bytes) -> bytes:
    # GNU tar's own headers, whose magic ends in two spaces, have times where the prefix is.
    if magic != b"ustar\0" or prefix[0] == 0:
        return _field(name)
    return _field(prefix) + b"/" + _field(name)


def _field(text: bytes) -> bytes:
    return text.partition(b"\0")[0]


def _records(
    descriptor: int, offset: int, length: int, kind: bytes
) -> Iterator[tuple[bytes, bytes]]:
    """Yield what is needed of an extended header, the key and its value: those of NEEDED, sparse.

    It has lines of `LENGTH KEY=VALUE`, or is GNU tar's long name, or the long target of a link.
    """
    if length > MAX_HEADER:  # the longest name is far shorter
        raise TarError(f"a header of {length:,} bytes")
    content = read_at(descriptor, length, offset)
    if kind in b"LK":
        yield b"path" if kind == b"L" else b"linkpath", _field(content)
        return
    at, whole = 0, len(content.rstrip(b"\0"))
    while at < whole:
        digits = content[at : at + 20].partition(b" ")[0]
        end = at + int(digits) if digits.isdigit() else at
        key, equals, value = content[at + len(digits) + 1 : max(end - 1, at)].partition(b"=")
        if not (key and equals and content[end - 1 : end] == b"\n"):
            raise TarError(f"an extended header that cannot be read: {content[at:end]!r:.60}")
        at = end
        if key.startswith(b"GNU.sparse."):
            yield b"sparse", b""
        elif key in NEEDED:
            yield key, value


def _text(name: bytes) -> str:
    """Return a name in the spelling of this package: see names.py."""
    return name.decode("utf-8", "surrogateescape")


def open_member(path: str, name: str) -> BinaryIO:
    """Return a member of a tar as a file; FileNotFoundError where there is none of this name."""
    member = members(path).get(name)
    if member is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{path}/{name}")
    # Opened before there is an object to close: a refused file leaves none half made.
    descriptor = open_plain(path, follow=True)
    return cast(BinaryIO, io.BufferedReader(_Section(descriptor, member)))


class _Section(io.RawIOBase):
    """A part of an open file, as a file that closes it."""

    def __init__(self, descriptor: int, member: Member):
        self._descriptor = descriptor
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
        piece = read_at(self._descriptor, wanted, self._member.offset + self._position)
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
