"""lookup.bin: from an image id to its status and the place of its record.

The file is `b"clipfeat"`, the number n of ids as uint64, then four columns of n uint64, all
little-endian, in the order of the first:

    key    the first 8 bytes of sha256(image id), as a big-endian number
    place  bits 0 to 39: the row; 40 to 51: the number of the grid shape (in the order of
           store.json); 52 to 55: the number of the status (in the order of Status); 56 to 63:
           the number of the real area: 0 for the whole grid, k for the k-th of store.json's `areas`
    check  the last 4 bytes of the record's grid on disk, then the exclusive or of those of its
           other arrays
    seal   the next 8 bytes of sha256(image id), XOR mix(place XOR mix(check))

The seal protects an entry: it does not fit if a bit of any column has changed, or for another id
that happens to have the same key.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportMissingTypeStubs=false
# pyright: reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyarrow has no types.

import enum
import hashlib
import mmap
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..base.errors import CorruptStoreError, StoreError, open_code
from ..base.files import open_plain
from ..base.parquet import joined_texts
from .geometry import MAX_AREAS, Area, area_rule


class Status(enum.StrEnum):
    """The result of extracting an image id. Only `ok` ids have a record."""

    OK = "ok"
    MISSING = "missing"  # the file that the manifest names does not exist
    UNDECODABLE = "undecodable"  # the file exists, but cannot be decoded as an image
    TOO_LARGE = "too_large"  # more pixels than are decoded
    UNSUPPORTED = "unsupported"  # an image that the recipe cannot use
    FAILED = "failed"  # anything else


MAGIC = b"clipfeat"
HEADER_BYTES = len(MAGIC) + 8
ENTRY_BYTES = 32
CHECK_BYTES = 4  # of each array of a record
SHAPE_BIT, STATUS_BIT, AREA_BIT = 40, 52, 56
MAX_SHAPES = 1 << (STATUS_BIT - SHAPE_BIT)
STATUS_MASK = (1 << (AREA_BIT - STATUS_BIT)) - 1
# A lookup of up to this size is read: two million ids, in 20 ms. If a mapped file is truncated in
# place, reading it kills the process (SIGBUS); a file that was read into memory is safe. Larger
# ones are mapped, so that many processes share one copy in the page cache.
READ_BYTES = 64 << 20
MAX_SAME_KEY = 4  # two of ten million ids share a key once in 400,000 stores
STATUSES = tuple(Status)
BITS_64 = (1 << 64) - 1  # numpy drops higher bits by itself, Python does not

U64 = np.ndarray[Any, np.dtype[np.uint64]]
I64 = np.ndarray[Any, np.dtype[np.int64]]
ImageId = str | int | np.integer[Any]

# Names of files come in either: macOS and some archives separate letters from their accents.
NORMAL_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")


def id_text(image_id: object) -> str:
    """Return the id that a text or a whole number names; a number is its decimal text.

    Raises TypeError for anything else.
    """
    if isinstance(image_id, str):
        return image_id
    if isinstance(image_id, int | np.integer) and not isinstance(image_id, bool):
        return str(int(image_id))
    raise TypeError(
        f"an image id is a string or a whole number; got {image_id!r:.80} ({type(image_id).__name__})"
    )


def id_texts(ids: Iterable[ImageId]) -> list[str]:
    """Return the ids that a list, a tuple or an array of texts or whole numbers names.

    Raises TypeError for one that is neither, and for a single text, since Python would iterate
    over its letters.
    """
    if isinstance(ids, str | bytes) or not hasattr(ids, "__iter__"):
        raise TypeError(
            f"expected a list of image ids; got {ids!r:.80} ({type(ids).__name__}); "
            f"for a single id pass [id]"
        )
    items = ids.tolist() if isinstance(ids, np.ndarray) and ids.ndim else ids
    return [item if type(item) is str else id_text(item) for item in items]


class Places(NamedTuple):
    """The places of the records of some ids, an entry for each id.

    A state holds a status and an area, see `status_of` and `area_of`. It is 0 for a record whose
    whole grid is real, the most frequent case, and -1 for an id that the store does not have.
    """

    state: I64  # (id,)
    shape: I64  # (id,) number of its grid shape
    row: I64  # (id,) in the arrays of its shape
    check: U64  # (id,) last bytes of its record on disk: grid low, the others high


def status_of(state: Any) -> Any:
    """Return the number of the Status in a state, 15 for an id that the store does not have."""
    return state & STATUS_MASK


def area_of(state: Any) -> Any:
    """Return the number of the real area in a state."""
    return state >> (AREA_BIT - STATUS_BIT)


class IdLookup(Protocol):
    """The ids of a store."""

    def find_one(self, image_id: str) -> tuple[int, int, int, int]:
        """Return (state, shape, row, check) of one id, as `find` does."""
        ...

    def find(self, ids: Sequence[str]) -> Places:
        """Return the places of `ids`."""
        ...


class Lookup:
    """The ids of a store, from the content of its lookup.bin."""

    def __init__(self, content: bytes | mmap.mmap, ids: int, sha256: str, shown: str, remedy: str):
        """Use `Lookup.open`."""
        self._shown = shown
        self._remedy = remedy
        self._sha256 = sha256
        self._is_whole = False  # not known yet
        columns = np.frombuffer(content, "<u8", offset=HEADER_BYTES).reshape(4, ids)
        self._keys, self._places, self._checks, self._seals = columns
        self._content = memoryview(content)
        numbers = self._content[HEADER_BYTES:].cast("Q")
        self._views = [numbers[k * ids : (k + 1) * ids] for k in range(4)]

    @classmethod
    def open(cls, path: Path, ids: int, sha256: str) -> Self:
        """Open `path`, raising CorruptStoreError unless it is a lookup of `ids` ids.

        `sha256` is that of the file. It is compared when an id is not found for the first time. A
        large file is mapped, and opening it reads only its header.
        """
        remedy = f"type: clipfeat store repair {path.parent}"
        return cls(read_lookup(path, ids, str(path), remedy), ids, sha256, str(path), remedy)

    def find_one(self, image_id: str) -> tuple[int, int, int, int]:
        """Return (state, shape, row, check) of one id, as `find` does, but faster."""
        place = self.search(image_id)
        if place[0] < 0 and not image_id.isascii():
            for form in NORMAL_FORMS:
                place = self.search(normalize(form, image_id))
                if place[0] >= 0:
                    return place
        if place[0] < 0:
            self._require_whole()
        return place

    def find(self, ids: Sequence[str]) -> Places:
        """Return the places of `ids`, raising CorruptStoreError for an entry that has changed.

        An id that the store does not have as it is written is searched in the other Unicode
        normal forms. A changed key would lose its id, so the whole file is hashed before the first
        id is reported as absent.
        """
        places = self._find(ids)
        if (places.state < 0).any():
            for form in NORMAL_FORMS:
                unknown = np.flatnonzero(places.state < 0).tolist()
                other = [k for k in unknown if not ids[k].isascii()]
                if not other:
                    break
                others = self._find([normalize(form, ids[k]) for k in other])
                for column, values in zip(places, others, strict=True):
                    column[other] = values
            if (places.state < 0).any():
                self._require_whole()
        return places

    def _require_whole(self) -> None:
        """Raise CorruptStoreError unless the file is the one that was written."""
        if self._is_whole:
            return
        if hashlib.sha256(self._content).hexdigest() != self._sha256:
            raise self._damaged(
                "has changed: its sha256 is not the one in store.json", "E-LOOKUP-CHANGED"
            )
        self._is_whole = True

    def _damaged(self, problem: str, code: str) -> CorruptStoreError:
        return CorruptStoreError(f"{self._shown}: {problem}; {self._remedy}", code=code)

    def search(self, image_id: str) -> tuple[int, int, int, int]:
        """Return what `find_one` does, of the id exactly as it is written."""
        digest = hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).digest()
        key, second = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")
        keys, places, checks, seals = self._views
        first = at = bisect_left(keys, key)
        while at < min(first + MAX_SAME_KEY, len(keys)) and keys[at] == key:
            place, check = places[at], checks[at]
            if seals[at] == second ^ _seal(place, check):
                shape = place >> SHAPE_BIT & (MAX_SHAPES - 1)
                return place >> STATUS_BIT, shape, place & ((1 << SHAPE_BIT) - 1), check
            at += 1
        if at > first:
            raise self._damaged("an entry does not match its seal", "E-LOOKUP-SEAL")
        return -1, 0, 0, 0

    def _find(self, ids: Sequence[str]) -> Places:
        key, second = _hashes(ids)
        order = np.argsort(key)  # neighbours are searched together: 1.6 times as fast
        at = np.empty(len(ids), np.int64)
        at[order] = np.searchsorted(self._keys, key[order])
        matches, seen = np.zeros((2, len(ids)), bool)
        end = len(self._keys)
        for _ in range(MAX_SAME_KEY):
            inside = np.minimum(at, end - 1)
            same = (at < end) & (self._keys[inside] == key)
            seen |= same
            place, check = self._places[inside], self._checks[inside]
            matches = same & (self._seals[inside] == second ^ _seal(place, check))
            if (matches == same).all():
                break
            at = at + (same & ~matches)
        else:
            raise self._damaged(f"more than {MAX_SAME_KEY} entries share a key", "E-LOOKUP-KEYS")
        if (seen & ~matches).any():
            raise self._damaged("an entry does not match its seal", "E-LOOKUP-SEAL")
        return Places(
            np.where(matches, (place >> STATUS_BIT).astype(np.int64), -1),
            (place >> SHAPE_BIT & (MAX_SHAPES - 1)).astype(np.int64),
            (place & ((1 << SHAPE_BIT) - 1)).astype(np.int64),
            check,
        )


def lookup_size(ids: int) -> int:
    """Return the size of the file for `ids` ids."""
    return HEADER_BYTES + ids * ENTRY_BYTES


def lookup_header(ids: int) -> bytes:
    """Return the first bytes of the file for `ids` ids."""
    return MAGIC + ids.to_bytes(8, "little")


def read_lookup(path: Path, ids: int, shown: str, remedy: str) -> bytes | mmap.mmap:
    """Return the bytes of a lookup of `ids` ids, raising CorruptStoreError for anything else."""
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            header = file.read(HEADER_BYTES)
            if size != lookup_size(ids) or header != lookup_header(ids):
                raise CorruptStoreError(
                    f"{shown}: its {size} bytes are not a lookup of {ids} ids; {remedy}",
                    code="E-LOOKUP-SIZE",
                )
            if size > READ_BYTES:
                return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
            file.seek(0)
            content = file.read(size)
    except OSError as error:
        raise CorruptStoreError(
            f"{shown}: cannot open it ({error.strerror})", code=open_code(error)
        ) from None
    if len(content) != size:
        raise CorruptStoreError(f"{shown}: was truncated while it was read", code="E-LOOKUP-SIZE")
    return content


class LookupBuilder:
    """Collects rows of the index, 32 bytes for each, and returns their lookup.

    `shapes` are the grid shapes of store.json, in its order, `recipe` that of the identity.
    """

    def __init__(self, shapes: Iterable[str], recipe: Mapping[str, Any]):
        self._shapes = {shape: number for number, shape in enumerate(shapes)}
        self._area_of_image = area_rule(recipe)
        self._areas: dict[Area, int] = {}  # to its number, in the order of the first rows
        self._parts: list[U64] = []  # (4, row): key, place, check, second of each batch

    def add(self, rows: pa.RecordBatch) -> None:
        """Add rows of the index, raising ValueError or KeyError for impossible values."""
        row = rows.column("row").to_numpy()
        if len(row) and not 0 <= row.min() <= row.max() < 1 << SHAPE_BIT:
            raise ValueError(f"row {row.min()} to {row.max()}")
        status = _numbers(rows.column("status"), lambda text: STATUSES.index(Status(text)))
        place = row.astype(np.uint64) | status << np.uint64(STATUS_BIT)
        place |= _numbers(rows.column("shape"), self._shapes.__getitem__) << np.uint64(SHAPE_BIT)
        if self._area_of_image is not None:
            width, height = (rows.column(side).to_numpy() for side in ("width", "height"))
            has_area = (status == STATUSES.index(Status.OK)) & (width > 0) & (height > 0)
            sizes, at = np.unique(
                np.where(has_area, width.astype(np.int64) << 32 | height, 0), return_inverse=True
            )
            areas = [self._area_number(*divmod(size, 1 << 32)) for size in sizes.tolist()]
            place |= np.array(areas, np.uint64)[at] << np.uint64(AREA_BIT)
        first, second = _hashes(rows.column("image_id").to_pylist())
        self._parts.append(np.stack([first, place, _checks(rows.column("checksum")), second]))

    def _area_number(self, width: int, height: int) -> int:
        """Return the number of the real area of an image, in the order of the first rows."""
        area = None if self._area_of_image is None else self._area_of_image(width, height)
        if area is None:
            return 0
        if len(self._areas) == MAX_AREAS and area not in self._areas:
            raise StoreError(
                f"an image of {width} x {height} pixels would be real area {MAX_AREAS + 1} ({area}); "
                f"a store has at most {MAX_AREAS}",
                code="E-STORE-AREAS",
            )
        return self._areas.setdefault(area, len(self._areas) + 1)

    @property
    def areas(self) -> tuple[str, ...]:
        """The real areas of the rows, as store.json lists them."""
        return tuple(map(str, sorted(self._areas)))

    def columns(self) -> U64:
        """Return key, place, check, seal of every row, sorted by key."""
        columns = np.concatenate([np.zeros((4, 0), np.uint64), *self._parts], axis=1)
        self._parts = [columns]
        key, place, check, second = columns
        order = np.argsort(key, kind="stable")
        if self._areas:
            numbers = np.zeros(MAX_AREAS + 1, np.uint64)
            for number, area in enumerate(sorted(self._areas), 1):
                numbers[self._areas[area]] = number
            rest = place & np.uint64((1 << AREA_BIT) - 1)
            place = rest | numbers[place >> np.uint64(AREA_BIT)] << np.uint64(AREA_BIT)
        return np.stack([each[order] for each in (key, place, check, second ^ _seal(place, check))])


def lookup_bytes(columns: U64) -> bytes:
    """Return the content of the file for `LookupBuilder.columns`."""
    numbers = np.ascontiguousarray(columns, "<u8")
    # Copied once: the lookup of ten million ids has 320 MB.
    return b"".join([lookup_header(columns.shape[1]), numbers.data])


def _hashes(ids: Iterable[str]) -> tuple[U64, U64]:
    """Return the first and the second 8 bytes of each id's sha256."""
    digests = [hashlib.sha256(i.encode("utf-8", "surrogatepass")).digest()[:16] for i in ids]
    first, second = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 2).astype(np.uint64).T
    return first, second


def _numbers(texts: pa.Array, number: Callable[[str], int]) -> U64:
    """Return the number of each text; there are few different ones."""
    coded = texts.dictionary_encode()
    numbers = np.array([number(text) for text in coded.dictionary.to_pylist()], np.uint64)
    return numbers[coded.indices.to_numpy()]


def _checks(checksums: pa.Array) -> U64:
    """Return the `check` of each checksum, raising ValueError for another number of digits."""
    checks = np.zeros(len(checksums), np.uint64)
    lengths = pc.call_function("binary_length", [checksums]).to_numpy()
    for length in np.unique(lengths).tolist():  # 0 without a record; all others are alike
        arrays, rest = divmod(length, 2 * CHECK_BYTES)
        if rest:
            raise ValueError(f"a checksum of {length} hex digits")
        has_length = lengths == length
        digits = joined_texts(checksums.filter(pa.array(has_length))).to_pybytes()
        lasts = np.frombuffer(bytes.fromhex(digits.decode()), "<u4").astype(np.uint64)
        lasts = lasts.reshape(has_length.sum(), arrays)
        others = np.bitwise_xor.reduce(lasts[:, 1:], axis=1) << np.uint64(32)
        checks[has_length] = np.bitwise_or.reduce(lasts[:, :1], axis=1) | others
    return checks


def _seal(place: Any, check: Any) -> Any:
    """Return the seal of an entry, of numbers or of arrays, without the part of the id."""
    return _mix(place ^ _mix(check))


def _mix(value: Any) -> Any:
    """Return the finaliser of splitmix64 (Steele, Lea, Flood 2014), a bijection."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & BITS_64
    value = (value ^ value >> 27) * 0x94D049BB133111EB & BITS_64
    return value ^ value >> 31
