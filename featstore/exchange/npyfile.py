"""Arrays in .npy files and .npz archives, read in bounded memory and without pickles."""

# pyright: reportUnknownMemberType=false

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from math import prod
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

MAX_ITEM_BYTES = 1 << 28  # of one array; a grid of 100 x 100 x 2048 float32 has 80 MB
MAX_HEADER = 10_000  # bytes
MAX_DIRECTORY = 1 << 20  # bytes, of an archive; a member takes some 60
LENGTHS = {1: "<H", 2: "<I", 3: "<I"}  # of a header, by the version of the format
# numpy parses a Python literal here, and warns of those of Python 2, whose numbers end in L.
HEADER = re.compile(
    rb"\s*\{\s*'descr':\s*'([^']{1,20})',\s*'fortran_order':\s*(True|False),"
    rb"\s*'shape':\s*\(([0-9L, ]*)\),?\s*\}\s*"
)


class NpyArray:
    """An array in a file in numpy's format: its shape now, its numbers when numpy asks for them."""

    def __init__(self, open_file: Callable[[], Any], size: int) -> None:
        """Read the header; `size` is how many bytes the file has, or claims to have.

        Raises ValueError for a file of another kind or size, and for one with other things than
        numbers.
        """
        self._open = open_file
        with open_file() as file:
            self.shape, self._in_columns, self.dtype = read_header(file)
            self._start = file.tell()
        if self.dtype.hasobject:
            raise ValueError("it holds Python objects (a pickle) where numbers are expected")
        if self.dtype.fields is not None or self.dtype.kind not in "fiub":
            raise ValueError(f"it holds {self.dtype} where numbers are expected")
        self._bytes = prod(self.shape) * self.dtype.itemsize
        require_size_of_image(self._bytes)
        if self._start + self._bytes != size:
            raise ValueError(f"{size:,} bytes where its header says {self._start + self._bytes:,}")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001
        with self._open() as file, damaged_zip():
            # No seek, and on to the end: zipfile compares the checksum of what it reads as a whole.
            file.read(self._start)
            content = file.read(self._bytes)
            if len(content) != self._bytes or file.read(1):
                raise ValueError("it is cut off")
        array = np.frombuffer(content, self.dtype)
        array = array.reshape(self.shape, order="F" if self._in_columns else "C")
        return array if dtype is None else array.astype(dtype)


def require_size_of_image(nbytes: int) -> None:
    """Raise ValueError for an array that is too large to be one image's."""
    if nbytes > MAX_ITEM_BYTES:
        raise ValueError(f"an array of {nbytes:,} bytes; at most {MAX_ITEM_BYTES:,} are read")


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return the shape, whether the numbers are in Fortran's order, and the dtype of a .npy file.

    Raises ValueError for another file, and for an array of several kinds of numbers.
    """
    with damaged_zip():
        head = file.read(8)
        if head[:6] != npy.MAGIC_PREFIX or head[6:7] not in b"\1\2\3" or len(head) < 8:
            raise ValueError("it is not in numpy's format")
        length = struct.Struct(LENGTHS[head[6]])
        (size,) = length.unpack(file.read(length.size))
        header = HEADER.fullmatch(file.read(size)) if size <= MAX_HEADER else None
        if header is None:
            raise ValueError("it has no header of an array of numbers")
        shape = tuple(
            int(side) for side in header[3].replace(b"L", b"").split(b",") if side.strip()
        )
        return shape, header[2] == b"True", np.dtype(header[1].decode())


def npy_array(file: BinaryIO) -> NpyArray:
    """Return the array in an open .npy file, which must stay open until it is read."""
    size = file.seek(0, io.SEEK_END)
    return NpyArray(lambda: _from_start(file), size)


@contextmanager
def _from_start(file: BinaryIO) -> Generator[BinaryIO]:
    file.seek(0)
    yield file


def npz_arrays(file: BinaryIO) -> "Npz":
    """Return the arrays in an open .npz file, which must stay open until they are read."""
    with damaged_zip():
        return Npz(open_zip(file))


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """Open an archive of a few members: zipfile makes objects of all that its directory lists."""
    bounded: Any = _Bounded(file)
    archive = zipfile.ZipFile(bounded)
    bounded.limit = MAX_ITEM_BYTES
    return archive


class _Bounded:
    """A file that is not read in larger parts than `limit`."""

    limit = MAX_DIRECTORY

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, length: int = -1) -> bytes:
        """Return the next bytes; without a length, zipfile asks for the comment at the end."""
        if length > self.limit:
            raise ValueError("an archive with more members than features have")
        return self._file.read(length)


class Npz:
    """The arrays of a .npz file by name. Members that are not asked for are not looked at."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]

    def get(self, *names: str) -> NpyArray | None:
        """Return the first of the named arrays that is there."""
        found = next((name for name in names if name in self.names), None)
        if found is None:
            return None
        with damaged_zip():
            member = self._archive.getinfo(f"{found}.npy")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{found}: compressed in a way that numpy does not use")
        try:
            with damaged_zip():
                return NpyArray(lambda: self._archive.open(member), member.file_size)
        except ValueError as error:
            raise ValueError(f"{found}: {error}") from None

    def __getitem__(self, names: str | tuple[str, ...]) -> NpyArray:
        """Return the first of the named arrays; ValueError where none is there."""
        names = (names,) if isinstance(names, str) else names
        array = self.get(*names)
        if array is None:
            raise ValueError(f"it lacks the array {names[0]}")
        return array


def number_in(array: Any) -> int:
    """Return a whole number that is saved as an array, 0 where there is none."""
    if array is None:
        return 0
    values = np.asarray(array).reshape(-1)
    if values.size != 1 or not np.isfinite(values[0]) or not 0 <= values[0] < 1 << 31:
        raise ValueError("a size that is not a number")
    return int(values[0])


@contextmanager
def damaged_zip() -> Generator[None]:
    """Turn the errors of a damaged archive or header into ValueError."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, KeyError) as error:
        raise ValueError(f"it is damaged or cut off: {error}") from None
    except (struct.error, TypeError, OverflowError) as error:
        raise ValueError(f"it is damaged: {error}") from None
    except RuntimeError as error:  # an encrypted member
        raise ValueError(str(error)) from None


def npy_bytes(array: np.ndarray) -> bytes:
    """Return an array of numbers in numpy's format."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def npz_bytes(arrays: dict[str, np.ndarray], *, compressed: bool = False) -> bytes:
    """Return arrays as a .npz file."""
    file = io.BytesIO()
    save: Any = np.savez_compressed if compressed else np.savez
    save(file, **arrays)
    return file.getvalue()
