"""Grid features of facebookresearch/grid-feats-vqa (extract_grid_feature.py): `<number>.pth`.

Each file is what torch.save makes of one tensor (1, channel, row, col): since torch 1.6 a zip archive
of a pickle and the tensor's numbers, before a few pickles with the numbers behind. Both are read here
without torch, and without calling anything.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# What a file holds has any type; it is checked.

import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ...base.pickles import MAX_PICKLE_BYTES, Inert, Name, nothing_stored, read_pickle
from ..identity import Identity
from .destination import FolderWriter, Numbered
from .npyfile import MAX_ITEM_BYTES, damaged_zip, open_zip, require_size_of_image
from .npyfolders import FolderReader
from .options import Options
from .parts import Parts
from .pickled import MAX_DIMENSIONS, allowing
from .pickling import FALSE, STOP, named, text, tuple_of, whole
from .records import Features

MAGIC, OLD_VERSION = 0x1950A86A20F9469CFC6C, 1001  # of torch before 1.6
REBUILD = (Name("torch._utils", "_rebuild_tensor_v2"), Name("torch._utils", "_rebuild_tensor"))
ORDERED_DICT = Name("collections", "OrderedDict")  # of a tensor's hooks, always empty
REBUILD_ALLOWED = allowing({*REBUILD, ORDERED_DICT})
STORAGES = {"FloatStorage": "<f4", "HalfStorage": "<f2"}
VERSION = b"3\n"  # of torch's archives
FOLDER = "archive"  # in an archive, as torch names it where it does not know the file's name


class Storage(NamedTuple):
    """The numbers of a tensor: where a file has them, and how many."""

    key: str
    dtype: np.dtype
    length: int


class Tensor:
    """A tensor in a file: its shape now, its numbers when numpy asks for them."""

    def __init__(self, value: Any, load: Callable[[Storage], bytes]) -> None:
        """Check what torch's function would be called with; ValueError where it is no tensor."""
        if not isinstance(value, Inert) or value.name not in REBUILD or len(value.args) < 4:
            raise ValueError("it does not hold one tensor alone")
        storage, self._start, shape, strides = value.args[:4]
        if not isinstance(storage, Storage):
            raise ValueError("a tensor without numbers")
        is_shape = isinstance(shape, tuple) and isinstance(strides, tuple)
        if not is_shape or not len(shape) == len(strides) <= MAX_DIMENSIONS:
            raise ValueError("a tensor without a shape")
        if not all(type(n) is int and 0 <= n < 1 << 40 for n in (self._start, *shape, *strides)):
            raise ValueError("a tensor without a shape")
        last = self._start + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        # Fewer numbers than its shape has are a tensor that was expanded: small to send, large here.
        if not 0 < prod(shape) <= storage.length or last >= storage.length:
            raise ValueError(f"{storage.length:,} numbers for the shape {shape}")
        require_size_of_image(storage.length * storage.dtype.itemsize)
        self.shape, self.dtype = shape, storage.dtype
        self._strides, self._storage, self._load = strides, storage, load

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:  # noqa: FBT001
        content = self._load(self._storage)
        numbers = np.frombuffer(content, self.dtype)
        if len(numbers) != self._storage.length:
            raise ValueError("it is cut off")
        strides = [step * self.dtype.itemsize for step in self._strides]
        array = np.lib.stride_tricks.as_strided(
            numbers[self._start :], self.shape, strides, writeable=False
        )
        return array if dtype is None else array.astype(dtype)


def read_tensor(file: BinaryIO) -> Tensor:
    """Return the one tensor in an open file of torch, which must stay open until it is read.

    Raises ValueError for a damaged file, and for one with other things than a tensor.
    """
    head = file.read(2)
    file.seek(0)
    if head == b"PK":
        with damaged_zip():
            return _in_archive(open_zip(file))
    return _in_pickles(file)


def _in_archive(archive: zipfile.ZipFile) -> Tensor:
    pickles = [m for m in archive.infolist() if m.filename.endswith("/data.pkl")]
    if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
        raise ValueError("an archive that torch.save has not written")
    folder = pickles[0].filename.removesuffix("data.pkl")

    def content(name: str) -> bytes:
        member = archive.getinfo(f"{folder}{name}")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size > MAX_ITEM_BYTES:
            raise ValueError("an archive that torch.save has not written")
        return archive.read(member)

    def load(storage: Storage) -> bytes:
        with damaged_zip():
            return content(f"data/{storage.key}")

    if f"{folder}byteorder" in archive.namelist() and content("byteorder") != b"little":
        raise ValueError("the bytes of its numbers are in big-endian order")
    return Tensor(read_pickle(content("data.pkl"), _storage, REBUILD_ALLOWED), load)


def _in_pickles(file: BinaryIO) -> Tensor:
    magic, version, system = (read_pickle(file, nothing_stored, REBUILD_ALLOWED) for _ in range(3))
    is_old = magic == MAGIC and version == OLD_VERSION and isinstance(system, dict)
    if not is_old or system.get("little_endian") is not True:
        raise ValueError("not a file of torch")
    value = read_pickle(file, _storage, REBUILD_ALLOWED)
    keys = read_pickle(file, nothing_stored, REBUILD_ALLOWED)
    start = file.tell()

    def load(storage: Storage) -> bytes:
        if keys != [storage.key]:
            raise ValueError("the numbers of one tensor are not alone in it")
        file.seek(start)
        if int.from_bytes(file.read(8), "little") != storage.length:
            raise ValueError("another number of numbers than its tensor has")
        return file.read(storage.length * storage.dtype.itemsize)

    return Tensor(value, load)


def _storage(identifier: Any) -> Storage:
    """Return what torch's persistent id stands for: ("storage", type, key, device, length, ...)."""
    if not isinstance(identifier, tuple) or len(identifier) not in (5, 6):
        raise ValueError("a tensor without numbers")
    kind, name, key, _, length = identifier[:5]
    if kind != "storage" or type(key) is not str or type(length) is not int or length < 0:
        raise ValueError("a tensor without numbers")
    if not isinstance(name, Name) or name.module != "torch" or name.name not in STORAGES:
        raise ValueError("a tensor of other numbers than float32 and float16")
    return Storage(key, np.dtype(STORAGES[name.name]), length)


def tensor_bytes(array: np.ndarray) -> bytes:
    """Return a file that torch.load reads as the tensor of an array."""
    array = np.ascontiguousarray(array)
    strides = [step // array.itemsize for step in array.strides]
    kind = "HalfStorage" if array.dtype == np.float16 else "FloatStorage"
    storage = tuple_of(
        text("storage"), named("torch", kind), text("0"), text("cpu"), whole(array.size)
    )
    made = named("torch._utils", "_rebuild_tensor_v2") + tuple_of(
        storage + b"Q",
        whole(0),
        tuple_of(*map(whole, array.shape)),
        tuple_of(*map(whole, strides)),
        FALSE,
        named("collections", "OrderedDict") + tuple_of() + b"R",
    )
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in (
            ("data.pkl", b"\x80\x02" + made + b"R" + STOP),
            ("byteorder", b"little"),
            ("data/0", array.tobytes()),
            ("version", VERSION),
        ):
            archive.writestr(zipfile.ZipInfo(f"{FOLDER}/{name}"), content)
    return file.getvalue()


class GridFeatsReader(FolderReader):
    """Reads a folder of tensors."""

    suffix = ".pth"

    def in_files(self, files: Sequence[BinaryIO]) -> Parts:
        """Return the tensor of an image."""
        return Parts(read_tensor(files[0]))


def open_reader(name: str, sources: Sequence[Path], options: Options) -> GridFeatsReader:
    """Return the reader of a folder."""
    return GridFeatsReader(name, sources, layout="chw")


def open_writer(name: str, path: Path, identity: Identity, options: Options) -> FolderWriter:
    """Return the writer of a folder, in which images are named by their numbers."""
    return FolderWriter(path, _files, Numbered())


def _files(stem: str, features: Features) -> Iterator[tuple[str, bytes]]:
    yield f"{stem}.pth", tensor_bytes(np.moveaxis(features.grid, -1, 0)[None])
