"""Read an LMDB database without its library, which ends the process where a file is damaged.

A database is a file of pages: two pages of metadata, of which the later counts, and a B+ tree whose
leaves have the keys in order. A value that does not fit in a leaf has pages of its own. The structs
are those of LMDB 0.9, data version 1 (mdb.c: MDB_page, MDB_meta, MDB_db, MDB_node), on a 64-bit
little-endian machine. Every number that leads somewhere is compared with the file's size.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ...base.errors import UsageError
from ...base.files import open_plain

MAGIC, VERSION = 0xBEEFC0DE, 1
# Number, -, flags, lower, upper; of an overflow the last four bytes are a count.
PAGE = struct.Struct("<QHHHH")
COUNT = struct.Struct("<I")
META = struct.Struct("<II16x")  # magic, version
DB = struct.Struct("<IHHQQQQQ")  # -, flags, depth, pages of three kinds, entries, root
NODE = struct.Struct("<HHHH")  # two halves of a size or page, flags, size of the key
PAGE_NUMBER = struct.Struct("<Q")
BRANCH, LEAF, OVERFLOW, META_PAGE = 1, 2, 4, 8  # flags of a page
BIG, SUB, DUPLICATES = 1, 2, 4  # flags of a node
NONE = (1 << 64) - 1  # the root of an empty database
MAX_DEPTH = 32
DATA = "data.mdb"


class Place(NamedTuple):
    """Where a value is in the file."""

    offset: int
    length: int


class LmdbFile:
    """The unnamed database of a file or an environment's folder; usable in several threads."""

    def __init__(self, path: Path) -> None:
        """Map the file. Raises UsageError (E-IMPORT-LMDB) for another file, OSError as for files."""
        self.path = path / DATA if path.is_dir() else path
        try:
            with os.fdopen(open_plain(self.path, follow=True), "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise UsageError(
                f"{path} has no {DATA}; name the folder of an LMDB database, or its file",
                code="E-IMPORT-LMDB",
            ) from None
        except ValueError:  # of mmap, for an empty file
            raise self._no_database("it is empty") from None
        self._bytes = memoryview(self._map)
        try:
            self._page_size, self._root, self.entries = self._metadata()
        except (ValueError, struct.error) as error:
            self.close()
            raise self._no_database(str(error)) from None

    def _no_database(self, reason: str) -> UsageError:
        return UsageError(
            f"{self.path} is not an LMDB database that can be read: {reason}; copy it again",
            code="E-IMPORT-LMDB",
        )

    def close(self) -> None:
        """Unmap the file, once nobody looks at its values."""
        self._bytes.release()
        try:
            self._map.close()
        except BufferError:  # arrays of the last image still look at it; it ends with them
            return

    def value(self, place: Place) -> memoryview:
        """Return a view of the bytes of a value."""
        return self._bytes[place.offset : place.offset + place.length]

    def get(self, key: bytes) -> memoryview | None:
        """Return the value of a key, None if there is none; ValueError for a damaged page."""
        number = self._root
        for _ in range(MAX_DEPTH):
            if number == NONE:
                return None
            start, flags, nodes = self._page(number)
            keys = self._keys(start, nodes, skip_first=bool(flags & BRANCH))
            if flags & LEAF:
                for node, found in zip(nodes, keys, strict=True):
                    if found == key:
                        return self.value(self._place(start, node))
                return None
            before = [node for node, found in zip(nodes, keys, strict=True) if found <= key]
            number = self._child(start, before[-1])
        raise ValueError("its tree is deeper than any")

    def places(self) -> Iterator[tuple[bytes, Place | None]]:
        """Yield each key in order with the place of its value, None where that is damaged.

        Keys in damaged pages are left out: then there are fewer than `entries`.
        """
        pending = [self._root] if self._root != NONE else []
        seen: set[int] = set()
        while pending:
            number = pending.pop()
            if number in seen:
                continue
            seen.add(number)
            try:
                start, flags, nodes = self._page(number)
                keys = self._keys(start, nodes, skip_first=bool(flags & BRANCH))
            except ValueError:
                continue
            if flags & BRANCH:
                pending += [self._child(start, node) for node in reversed(nodes)]
                continue
            for node, key in zip(nodes, keys, strict=True):
                try:
                    yield key, self._place(start, node)
                except ValueError:
                    yield key, None

    def _metadata(self) -> tuple[int, int, int]:
        """Return the size of a page, the root and the number of entries, of the later metadata."""
        found: list[tuple[int, int, int, int]] = []
        size = 0
        for page in (0, 1):
            start = page * size
            _, _, flags, _, _ = PAGE.unpack_from(self._bytes, start)
            magic, version = META.unpack_from(self._bytes, start + PAGE.size)
            if not flags & META_PAGE or magic != MAGIC:
                raise ValueError("it does not begin as one")
            if version != VERSION:
                raise ValueError(f"its data version is {version}, and {VERSION} is read")
            free = start + PAGE.size + META.size
            main = DB.unpack_from(self._bytes, free + DB.size)
            (transaction,) = PAGE_NUMBER.unpack_from(self._bytes, free + 2 * DB.size + 8)
            size = size or DB.unpack_from(self._bytes, free)[0]
            if size < 512 or size > 1 << 16 or size & (size - 1):
                raise ValueError(f"pages of {size:,} bytes")
            if main[1] & ~8:  # MDB_INTEGERKEY orders keys in another way, and is harmless
                raise ValueError("it holds several values for a key, which features do not")
            found.append((transaction, size, main[7], main[6]))
        _, size, root, entries = max(found)
        return size, root, entries

    def _page(self, number: int) -> tuple[int, int, list[int]]:
        """Return where a page of the tree begins, its flags, and where its nodes begin."""
        start = number * self._page_size
        if not number >= 2 or start + self._page_size > len(self._bytes):
            raise ValueError("it is cut off, or leads beyond its end")
        own, _, flags, lower, upper = PAGE.unpack_from(self._bytes, start)
        count = (lower - PAGE.size) // 2
        is_tree = flags & (BRANCH | LEAF) in (BRANCH, LEAF) and not flags & (OVERFLOW | META_PAGE)
        if own != number or not is_tree or not PAGE.size <= lower <= upper <= self._page_size:
            raise ValueError("a page of it is damaged")
        if flags & BRANCH and count < 2:
            raise ValueError("a page of it is damaged")
        offsets = struct.unpack_from(f"<{count}H", self._bytes, start + PAGE.size)
        if any(not upper <= offset <= self._page_size - NODE.size for offset in offsets):
            raise ValueError("a page of it is damaged")
        return start, flags, [start + offset for offset in offsets]

    def _keys(self, start: int, nodes: list[int], *, skip_first: bool = False) -> list[bytes]:
        """Return the key of each node; the first of a branch stands for all that are smaller."""
        keys = [b""] if skip_first else []
        for node in nodes[len(keys) :]:
            length = NODE.unpack_from(self._bytes, node)[3]
            end = node + NODE.size + length
            if end > start + self._page_size:
                raise ValueError("a page of it is damaged")
            keys.append(bytes(self._bytes[node + NODE.size : end]))
        return keys

    def _child(self, start: int, node: int) -> int:
        """Return the page that a node of a branch leads to."""
        low, middle, high, _ = NODE.unpack_from(self._bytes, node)
        return low | middle << 16 | high << 32

    def _place(self, start: int, node: int) -> Place:
        """Return where the value of a leaf's node is."""
        low, high, flags, key_length = NODE.unpack_from(self._bytes, node)
        length, offset = low | high << 16, node + NODE.size + key_length
        if flags & (SUB | DUPLICATES):
            raise ValueError("it is not a value")
        in_leaf = PAGE_NUMBER.size if flags & BIG else length
        if offset + in_leaf > start + self._page_size:
            raise ValueError("a page of it is damaged")
        if not flags & BIG:
            return Place(offset, length)
        (number,) = PAGE_NUMBER.unpack_from(self._bytes, offset)
        begin = number * self._page_size
        if number < 2 or begin + PAGE.size + length > len(self._bytes):
            raise ValueError("it leads beyond its end")
        own, _, page_flags, _, _ = PAGE.unpack_from(self._bytes, begin)
        (pages,) = COUNT.unpack_from(self._bytes, begin + PAGE.size - COUNT.size)
        if own != number or page_flags != OVERFLOW or PAGE.size + length > pages * self._page_size:
            raise ValueError("a page of it is damaged")
        return Place(begin + PAGE.size, length)
