"""Members of zip files, found in the central directory and read without unpacking.

The format is that of PKWARE's APPNOTE 6.3.10, whose sections are named below. Stored and deflated
members are read. Names are bytes here, as in a tar: UTF-8 if the program that wrote them used it.
"""

import contextlib
import errno
import io
import os
import stat
import struct
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import BinaryIO, NamedTuple, cast

from ..base.files import open_plain, read_at
from ..base.parts import RAW, Contents, Inflated, ReadAt, Section, as_text, listed_once, member_of

MAX_MEMBERS = 1 << 22  # of one zip; a member takes some 250 bytes of memory
MAX_DIRECTORY = 1 << 29  # bytes of the central directory
STORED, DEFLATED = 0, 8  # methods (4.4.5)
ENCRYPTED = 0x2041  # flags (4.4.4): encrypted, strongly, and with a directory that is
UNIX = 3  # the system whose file modes the external attributes hold (4.4.2)
LOCAL = struct.Struct("<4s 22x HH")  # 4.3.7: signature, lengths of name and of extra field
# 4.3.12: signature, system, flags, method, sizes, lengths of name, extra and comment, disk,
# external attributes, offset of the local header.
CENTRAL = struct.Struct("<4s x B 2x HH 8x II HHH H 2x I I")
END = struct.Struct("<4s HH HH I I H")  # 4.3.16: disks, entries, size and offset of the directory
END_64 = struct.Struct("<4s Q 2x 2x II QQ QQ")  # 4.3.14
LOCATOR_64 = struct.Struct("<4s I Q I")  # 4.3.15
COMMENT = 1 << 16  # bytes of the comment after the end record, at most
UNKNOWN = 0xFFFFFFFF  # a number that the zip64 field (4.5.3) has instead


class ZipError(OSError):
    """A file that is not a zip file, or is damaged or incomplete."""

    def __init__(self, reason: str):
        super().__init__(errno.EIO, f"not a complete zip file: {reason}")


class Member(NamedTuple):
    """The position of a member's local header, and its content."""

    header: int
    stored_size: int  # bytes in the zip
    size: int  # bytes of the content
    method: int


def members(path: str) -> dict[str, Member]:
    """Return the files in the zip at `path` by name; of two with one name, the later.

    Raises ZipError for a file that is incomplete or not a zip, and for one whose members overlap,
    since it could give more than it could hold.
    """
    return _contents(path).files


def others(path: str) -> list[str]:
    """Return the names of links, and of members that are encrypted or compressed in other ways."""
    return _contents(path).others


@listed_once
def _contents(path: str, size: int) -> Contents[Member]:
    contents: Contents[Member] = Contents({}, [])
    total = 0
    with _opened(path) as read:
        for name, member in _entries(read, size):
            if member is None:
                contents.others.append(name)
                continue
            contents.files[name] = member
            total += member.stored_size
            if total > size:
                raise ZipError("its members overlap")
    return contents


@contextlib.contextmanager
def _opened(path: str) -> Generator[ReadAt]:
    descriptor = open_plain(path, follow=True)
    try:
        yield partial(read_at, descriptor)
    finally:
        os.close(descriptor)


def _entries(read: ReadAt, size: int) -> Iterator[tuple[str, Member | None]]:
    """Yield (name, member) of everything in a zip except folders; None for what cannot be read."""
    entries, length, offset = _directory(read, size)
    if entries > MAX_MEMBERS or length > MAX_DIRECTORY:
        raise ZipError(f"{entries:,} members with a directory of {length:,} bytes")
    directory = read(length, offset)
    at = 0
    for _ in range(entries):
        if at + CENTRAL.size > len(directory):
            raise ZipError("its directory is cut off")
        signature, system, flags, method, stored, full, *lengths, disk, attributes, header = (
            CENTRAL.unpack_from(directory, at)
        )
        if signature != b"PK\1\2":
            raise ZipError(
                f"no member where the directory should have one, at byte {offset + at:,}"
            )
        name_end = at + CENTRAL.size + lengths[0]
        extra_end = name_end + lengths[1]
        name = directory[at + CENTRAL.size : name_end]
        full, stored, header = _long_numbers(directory[name_end:extra_end], full, stored, header)
        at = extra_end + lengths[2]
        if name[-1:] == b"/":
            continue
        is_link = system == UNIX and stat.S_ISLNK(attributes >> 16)
        is_read = (
            method in (STORED, DEFLATED) and not flags & ENCRYPTED and not disk and not is_link
        )
        if header + LOCAL.size + stored > size or (method == STORED and stored != full):
            raise ZipError(f"{as_text(name)!r:.100} extends beyond the end of the file")
        yield as_text(name), Member(header, stored, full, method) if is_read else None


def _directory(read: ReadAt, size: int) -> tuple[int, int, int]:
    """Return the number of entries of the central directory, its length and its offset."""
    start = max(0, size - END.size - COMMENT)
    tail = read(size - start, start)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + END.size > len(tail):
        raise ZipError("no end of the directory; it is cut off, or another kind of file")
    _, disk, first_disk, _, entries, length, offset, _ = END.unpack_from(tail, at)
    end = start + at  # of the directory
    locator = read(LOCATOR_64.size, end - LOCATOR_64.size) if end >= LOCATOR_64.size else b""
    if locator[:4] == b"PK\6\7" and UNKNOWN in (length, offset, entries | 0xFFFF0000):
        end = LOCATOR_64.unpack(locator)[2]
        record = read(END_64.size, end) if end < size else b""
        if len(record) < END_64.size or record[:4] != b"PK\6\6":
            raise ZipError("no end of the directory in the format zip64")
        _, _, disk, first_disk, _, entries, length, offset = END_64.unpack(record)
    if disk or first_disk:
        raise ZipError("a part of an archive in several files; join them")
    if offset == UNKNOWN:  # Info-ZIP with -fz and -fd writes no zip64 record
        offset = end - length
    if offset < 0 or offset + length != end:
        raise ZipError(
            f"its directory should be at byte {offset:,}, {length:,} bytes before the end"
        )
    return entries, length, offset


def _long_numbers(extra: bytes, *numbers: int) -> Iterator[int]:
    """Yield size, stored size and offset of a member; if they are large, the zip64 field has them."""
    field = b""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            field = extra[at + 4 : at + 4 + length]
        at += 4 + length
    for number in numbers:
        if number == UNKNOWN and len(field) >= 8:
            yield int.from_bytes(field[:8], "little")
            field = field[8:]
        else:
            yield number


def _start(read: ReadAt, member: Member) -> int:
    """Return the offset of a member's bytes, which follow its local header."""
    header = read(LOCAL.size, member.header)
    if len(header) < LOCAL.size or header[:4] != b"PK\3\4":
        raise ZipError(f"no member at byte {member.header:,}")
    _, name, extra = LOCAL.unpack(header)
    return member.header + LOCAL.size + name + extra


def _content(descriptor: int, member: Member) -> ReadAt:
    """Return a function that reads the content of a member."""
    start = _start(partial(read_at, descriptor), member)
    if member.method == STORED:
        return lambda length, offset: read_at(descriptor, length, start + offset)
    inflated = Inflated(start, start + member.stored_size, RAW, member.size)
    return partial(inflated.read_at, descriptor)


def open_member(path: str, name: str) -> BinaryIO:
    """Return a member of a zip as a file; FileNotFoundError if no member has this name."""
    member = member_of(_contents(path), path, name)
    descriptor = open_plain(path, follow=True)
    try:
        section = Section(descriptor, member.size, _content(descriptor, member))
    except OSError:
        os.close(descriptor)
        raise
    return cast(BinaryIO, io.BufferedReader(section))


def heads(path: str, names: Sequence[str], length: int) -> list[bytes]:
    """Return the first bytes, at most `length`, of each of some members; b"" for any other name."""
    by_name = members(path)
    descriptor = open_plain(path, follow=True)
    try:
        return [_head(descriptor, by_name.get(name), length) for name in names]
    finally:
        os.close(descriptor)


def _head(descriptor: int, member: Member | None, length: int) -> bytes:
    if member is None:
        return b""
    try:
        return _content(descriptor, member)(min(length, member.size), 0)
    except OSError:  # a damaged member costs itself
        return b""
