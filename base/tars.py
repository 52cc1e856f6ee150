"""Members of tar files, found by their headers and read without unpacking.

A tar that gzip has compressed has no index: it is inflated once to list it, and each process that
reads from it does so again, until it has the states from which it can go on (parts.py).
"""

import contextlib
import errno
import functools
import io
import os
import struct
import zlib
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import BinaryIO, NamedTuple, cast

from .files import open_plain, read_at
from .parts import (
    CACHED,
    GZIP,
    Contents,
    Inflated,
    ReadAt,
    Section,
    as_text,
    listed_once,
    member_of,
)

MAX_MEMBERS = 1 << 22  # of one tar; a member takes some 200 bytes of memory
MAX_HEADER = 1 << 20  # bytes of an extended header; the longest name is far shorter
MAX_LENGTH = 1 << 60  # of a member: far beyond any file, and a number that the system takes
BLOCK = 512
FILE_TYPES = b"07\0S"  # of members that are regular files; S has holes
KEYS = (b"path", b"linkpath", b"size")  # that are read from an extended header
END = bytes(BLOCK)
# Of a header: name, size, type, target of a link, magic, prefix.
FIELDS = struct.Struct("100s 24x 12s 20x c 100s 6s 82x 155s 12x")
MAX_INFLATED = 1 << 33  # bytes of a tar.gz; more takes longer than a decoder may use for an image
GZIP_MARK = b"\x1f\x8b\x08"  # what gzip begins with (RFC 1952, section 2.3.1)
NEAR = 8  # heads that are read at once, at most


class TarError(OSError):
    """A file that is not a tar file, or is damaged or incomplete."""

    def __init__(self, reason: str):
        super().__init__(errno.EIO, f"not a complete tar file: {reason}")


class Member(NamedTuple):
    """The position of a regular file's bytes in a tar."""

    offset: int
    size: int


EMPTY = Member(0, 0)


def members(path: str) -> dict[str, Member]:
    """Return the regular files in the tar at `path` by name; of two with one name, the later.

    A hard link is the earlier file that it names, as when unpacking. Raises TarError for a file
    that is incomplete or not a tar.
    """
    return _contents(path).files


def others(path: str) -> list[str]:
    """Return the names of a tar's symbolic links, devices and sparse files."""
    return _contents(path).others


@listed_once
def _contents(path: str, _size: int) -> Contents[Member]:
    contents: Contents[Member] = Contents({}, [])
    with open_archive(path) as read:
        for name, entry in _entries(read):
            member = contents.files.get(entry) if isinstance(entry, str) else entry
            if member is None:
                contents.others.append(name)
            else:
                contents.files[name] = member
            if len(contents.files) + len(contents.others) > MAX_MEMBERS:
                raise TarError(f"more than {MAX_MEMBERS:,} files")
    return contents


@contextlib.contextmanager
def open_archive(path: str) -> Generator[ReadAt]:
    """Open a tar and yield a function that reads its bytes, inflated if gzip has compressed it."""
    descriptor = open_plain(path, follow=True)
    try:
        yield _reader(path, descriptor)
    finally:
        os.close(descriptor)


def _reader(path: str, descriptor: int) -> ReadAt:
    if read_at(descriptor, len(GZIP_MARK), 0) != GZIP_MARK:  # whatever its name says
        return partial(read_at, descriptor)
    status = os.fstat(descriptor)
    inflated = _inflated(path, status.st_mtime_ns, status.st_size)
    return partial(inflated.read_at, descriptor)


@functools.lru_cache(CACHED)
def _inflated(path: str, _: int, size: int) -> Inflated:
    """Return the content of a tar.gz, which keeps states; the path and its time are the key."""
    return Inflated(0, size, GZIP, MAX_INFLATED)


def _entries(read: ReadAt) -> Iterator[tuple[str, Member | str | None]]:
    """Yield (name, entry) of everything in a tar except folders.

    The entry is the position of a regular file, the name of the file that a hard link names, or
    None. The formats are those of POSIX (ustar, pax) and GNU tar, a header a member:
    https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html#tag_20_94_13_06
    https://www.gnu.org/software/tar/manual/html_node/Standard.html
    """
    offset = 0
    defaults: dict[bytes, bytes] = {}  # from global headers, for all members after them
    extended: dict[bytes, bytes] = {}  # from extended headers, for the next member
    while (header := read(BLOCK, offset)) != END:
        if not _is_header(header):
            raise TarError(f"neither a header nor an end mark at byte {offset:,}")
        name, digits, type_, target, magic, prefix = FIELDS.unpack(header)
        offset += BLOCK
        length = _number(digits)
        if type_ in b"xXgLK":
            records = _records(read, offset, length, type_)
            (defaults if type_ == b"g" else extended).update(records)
            offset += -(-length // BLOCK) * BLOCK
            continue
        values, extended = (defaults | extended if defaults else extended), {}
        if type_ == b"S":  # a sparse file of old GNU tar, whose map of holes may continue
            more = header[482]
            while more:
                more = read(BLOCK, offset)[504:505] > b"\0"
                offset += BLOCK
        name = values.get(b"path") or _name(name, magic, prefix)
        if type_ in b"123456":  # links, devices, folders and pipes have no bytes
            if type_ == b"1":
                yield as_text(name), as_text(values.get(b"linkpath") or _field(target))
            elif type_ != b"5":
                yield as_text(name), None
            continue
        if b"size" in values:
            length = _number(values[b"size"], base=10)
        if length and (length > MAX_LENGTH or not read(1, offset + length - 1)):
            raise TarError(f"{as_text(name)!r:.100} extends beyond the end of the file")
        if type_ in FILE_TYPES and name[-1:] != b"/":
            is_whole = type_ != b"S" and b"sparse" not in values
            yield as_text(name), Member(offset, length) if is_whole else None
        offset += -(-length // BLOCK) * BLOCK
    if extended:
        raise TarError(f"an extended header without its member at byte {offset:,}")


def _is_header(block: bytes) -> bool:
    """Return whether a block's checksum is right.

    It is the sum of the block's bytes, with spaces in the place of the checksum. Adler-32 contains
    the same sum plus 1, modulo 65,521 (RFC 1950), and is many times as fast as `sum`.
    """
    if len(block) < BLOCK:
        return False
    checksum = block[148:156]
    try:
        stored = _number(checksum)
    except TarError:
        return False
    expected = stored + sum(checksum) - 8 * ord(" ")
    if zlib.adler32(block) & 0xFFFF == (1 + expected) % 65_521:
        return True
    # Some old programs added signed bytes.
    return expected == sum(block) - 256 * sum(byte > 127 for byte in block)


def _number(field: bytes, base: int = 8) -> int:
    """Return a number that is written in digits, or, if it is large, in binary after a byte 128."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    try:
        number = int(field.rstrip(b" \0") or b"0", base)
    except ValueError:
        number = -1
    if number < 0:
        raise TarError(f"{field!r:.60} in a header is not a number")
    return number


def _name(name: bytes, magic: bytes, prefix: bytes) -> bytes:
    # GNU tar's own headers, whose magic ends in two spaces, have times in place of the prefix.
    if magic != b"ustar\0" or prefix[0] == 0:
        return _field(name)
    return _field(prefix) + b"/" + _field(name)


def _field(text: bytes) -> bytes:
    return text.partition(b"\0")[0]


def _records(read: ReadAt, offset: int, length: int, type_: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (key, value) of an extended header: KEYS, and `sparse` for a file with holes.

    The header has lines of `LENGTH KEY=VALUE`, or is GNU tar's long name or long target of a link.
    """
    if length > MAX_HEADER:
        raise TarError(f"a header of {length:,} bytes")
    content = read(length, offset)
    if type_ in b"LK":
        yield b"path" if type_ == b"L" else b"linkpath", _field(content)
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
        elif key in KEYS:
            yield key, value


def open_member(path: str, name: str) -> BinaryIO:
    """Return a member of a tar as a file; FileNotFoundError if no member has this name."""
    member = member_of(_contents(path), path, name)
    # Opened first: if this fails, there is no object that would have to be closed.
    descriptor = open_plain(path, follow=True)
    read = _reader(path, descriptor)
    section = Section(descriptor, member.size, lambda n, at: read(n, member.offset + at))
    return cast(BinaryIO, io.BufferedReader(section))


def heads(path: str, names: Sequence[str], length: int) -> list[bytes]:
    """Return the first bytes, at most `length`, of each of some members; b"" for any other name."""
    by_name = members(path)
    with open_archive(path) as read:
        places = [by_name.get(name, EMPTY) for name in names]
        return list(_read_near(read, [(at, min(length, size)) for at, size in places]))


def _read_near(read: ReadAt, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
    """Yield the bytes at each (offset, length); those close to each other are read at once.

    At each read Python's lock passes between the threads, which takes longer than the read.
    """
    piece, start = b"", 0
    for number, (offset, length) in enumerate(places):
        if not start <= offset <= offset + length <= start + len(piece):
            ends = (at + size for at, size in places[number : number + NEAR] if at >= offset)
            end = max((end for end in ends if end <= offset + NEAR * length), default=0)
            piece, start = read(max(length, end - offset), offset), offset
        yield piece[offset - start : offset - start + length]
