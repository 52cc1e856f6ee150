"""Archives of torch, as torch.save and TorchScript write them: tensors without running code.

Both are zip archives with a pickle, `data.pkl`, and the bytes of each storage in a member of its
own, uncompressed and aligned. Tensors are mapped: only what a model takes over is read. Of a
TorchScript archive the code is read as text, for the names of a module's parameters and buffers.
"""

import io
import mmap
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from math import prod
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from ...base.pickles import MAX_PICKLE_BYTES, Inert, Name, read_pickle

DIRECTORY_BYTES = 16 << 20  # at the end of a zip archive, where its list of members is
MAX_CODE_BYTES = 64 << 20
MAX_TENSORS = 100_000  # a module may stand in several places, and a hostile one in endlessly many
MAX_NAME = 1000  # characters
MAX_DIMENSIONS = 64  # as in torch's own operations
LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a member: signature, lengths of name and extra field
STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}  # fmt: skip
# As TorchScript prints a module; torch before 1.6 prints no buffers.
CLASS = re.compile(
    r"^class (\w+)\(Module\):\n  __parameters__ = \[(.*)\]\n(?:  __buffers__ = \[(.*)\]\n)?", re.M
)


class NotTorchs(ValueError):
    """A zip archive of another kind, which the text names."""


class Storage(NamedTuple):
    """The numbers of one or several tensors, in a member of the archive."""

    key: str
    dtype: torch.dtype
    length: int


class TorchArchive:
    """An archive of torch that is open for reading.

    Raises NotTorchs for a zip archive of another kind, ValueError for one that is damaged.
    """

    def __init__(self, file: BinaryIO) -> None:
        size = os.fstat(file.fileno()).st_size
        start = max(0, size - DIRECTORY_BYTES)
        file.seek(start)
        try:
            members = zipfile.ZipFile(io.BytesIO(file.read(DIRECTORY_BYTES))).infolist()
        # zipfile has NotImplementedError for archives that need a newer version of the format.
        except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError):
            raise ValueError("an archive that is damaged or cut off") from None
        pickles = [m for m in members if m.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            is_numpys = bool(members) and members[0].filename.endswith(".npy")
            raise NotTorchs("numpy arrays" if is_numpys else "a zip archive")
        self._folder = pickles[0].filename.removesuffix("data.pkl")
        stored = sum(m.file_size for m in members if m.filename.startswith(f"{self._folder}data"))
        if pickles[0].file_size > MAX_PICKLE_BYTES or stored > size:  # torch compresses nothing
            raise ValueError(
                f"its members claim {stored:,} bytes, more than torch.save would write"
            )
        self._members = {member.filename: member for member in members}
        self._copies: dict[str, bytearray] = {}  # of storages that cannot be mapped
        self._start = start  # from where the list of members counts
        # A private mapping: torch wants memory that may be written, and the file stays as it is.
        self._mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY)

    @property
    def is_script(self) -> bool:
        """Whether it is a TorchScript archive, which has code beside its tensors."""
        return f"{self._folder}constants.pkl" in self._members

    def content(self) -> Any:
        """Return what was saved, with a tensor for each tensor and an `Inert` for other objects."""
        order = f"{self._folder}byteorder"
        if order in self._members and self._bytes(order) != b"little":
            raise ValueError("the bytes of its numbers are in big-endian order")
        return read_pickle(self._bytes(f"{self._folder}data.pkl"), _storage, self._rebuild)

    def script_state(self) -> dict[str, Tensor]:
        """Return the parameters and buffers of a TorchScript module, as its state_dict does."""
        listed = self._listed_names()

        def parts(module: Inert) -> Iterator[tuple[str, Any]]:
            names = listed.get(module.name)
            for name, value in module.state.items() if isinstance(module.state, dict) else ():
                if names is None or name in names or not isinstance(value, Tensor):
                    yield name, value

        return flat_state(self.content(), parts)

    def _listed_names(self) -> dict[Name, set[str]]:
        """Return the names of parameters and buffers that the code lists, by class."""
        prefix = f"{self._folder}code/"
        codes = [n for n in self._members if n.startswith(prefix) and n.endswith(".py")]
        if sum(self._members[name].file_size for name in codes) > MAX_CODE_BYTES:
            raise ValueError(f"its code has more than {MAX_CODE_BYTES:,} bytes")
        listed: dict[Name, set[str]] = {}
        for path in codes:
            module = path.removeprefix(prefix).removesuffix(".py").replace("/", ".")
            for name, parameters, buffers in CLASS.findall(self._bytes(path).decode()):
                names = re.findall(r'"([^"]*)"', f"{parameters}{buffers}")
                listed[Name(module, name)] = set(names)
        return listed

    def _bytes(self, name: str) -> bytes:
        member, start = self._members[name], self._place(name)
        if member.compress_size > 2 * member.file_size + 1024:  # zlib adds less than a hundredth
            raise ValueError("an archive that is damaged or cut off")
        content = self._mapped[start : start + member.compress_size]
        if member.compress_type == zipfile.ZIP_DEFLATED:  # TorchScript compresses code
            size = min(max(1, member.file_size), MAX_CODE_BYTES)
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size)
            except zlib.error:
                raise ValueError("an archive that is damaged or cut off") from None
        return content

    def _place(self, name: str) -> int:
        """Return where a member's content begins in the file."""
        member = self._members[name]
        header = self._start + member.header_offset
        try:
            mark, name_length, extra_length = LOCAL_HEADER.unpack_from(self._mapped, header)
        except struct.error:
            mark, name_length, extra_length = b"", 0, 0
        start = header + LOCAL_HEADER.size + name_length + extra_length
        if mark != b"PK\x03\x04" or start + member.compress_size > len(self._mapped):
            raise ValueError("an archive that is damaged or cut off")
        return start

    def _rebuild(self, name: Name, args: tuple[Any, ...]) -> Any:
        """Return the tensor or dict that torch's functions would make, and an Inert for others."""
        made: Any = None
        if name == ("collections", "OrderedDict") and not args:
            made = {}
        elif name.name == "set" and name.module in ("builtins", "__builtin__"):
            # The list itself: copies could be made a million times.
            made = args[0] if args and isinstance(args[0], list) else []
        elif name.module == "torch._utils":
            if name.name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
                made = args[0]
            elif name.name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
                made = self._tensor(*args[:4])
        return Inert(name, args) if made is None else made

    def _tensor(self, storage: Any, start: Any, size: Any, stride: Any) -> Tensor | None:
        """Return a tensor of a storage; None where it would be larger than the storage."""
        if not isinstance(storage, Storage):
            return None
        is_shape = isinstance(size, tuple) and isinstance(stride, tuple)
        if not is_shape or not len(size) == len(stride) <= MAX_DIMENSIONS:
            raise ValueError("a tensor without a shape")
        if not all(type(n) is int and 0 <= n < 1 << 62 for n in (start, *size, *stride)):
            raise ValueError("a tensor without a shape")
        last = start + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if prod(size) == 0:
            # torch multiplies the other sizes too, and they must not overflow.
            is_small = prod(max(1, n) for n in size) < 1 << 62
            return torch.empty(size, dtype=storage.dtype) if is_small else None
        if prod(size) > storage.length or last >= storage.length:
            return None
        return self._numbers(storage).as_strided(size, stride, start)

    def _numbers(self, storage: Storage) -> Tensor:
        """Return all numbers of a storage (number,), mapped."""
        name = f"{self._folder}data/{storage.key}"
        if name not in self._members:
            raise ValueError(f"it lacks the numbers of a tensor ({storage.key[:40]})")
        start, size = self._place(name), self._members[name].file_size
        if self._members[name].compress_type != zipfile.ZIP_STORED:
            raise ValueError("its numbers are compressed, which torch does not do")
        if storage.length * storage.dtype.itemsize > size:
            raise ValueError("a tensor is larger than the numbers that are there for it")
        source: Any = self._mapped
        if start % storage.dtype.itemsize:  # written by another program than torch
            if name not in self._copies:
                self._copies[name] = bytearray(self._mapped[start : start + size])
            source, start = self._copies[name], 0
        return torch.frombuffer(source, dtype=storage.dtype, count=storage.length, offset=start)


def _storage(identifier: Any) -> Any:
    """Return what torch's persistent id stands for: ("storage", type, key, device, length)."""
    kind, name, key, _, length = identifier
    if kind != "storage" or type(key) is not str or type(length) is not int or length < 0:
        raise ValueError("a tensor without a storage")
    is_torchs = isinstance(name, Name) and name.module == "torch" and name.name in STORAGES
    return Storage(key, STORAGES[name.name], length) if is_torchs else Inert(Name("", "storage"))


def module_state(module: Inert) -> dict[str, Tensor]:
    """Return the parameters and buffers of a module that was saved whole, as its state_dict does."""

    def parts(module: Inert) -> Iterator[tuple[str, Any]]:
        state = module.state if isinstance(module.state, dict) else {}
        passing = state.get("_non_persistent_buffers_set")
        for kind in ("_parameters", "_buffers", "_modules"):
            for name, value in state[kind].items() if isinstance(state.get(kind), dict) else ():
                if not (kind == "_buffers" and isinstance(passing, list) and name in passing):
                    yield name, value

    return flat_state(module, parts)


def flat_state(
    module: Any, parts: Callable[[Inert], Iterator[tuple[str, Any]]]
) -> dict[str, Tensor]:
    """Return all tensors of a module by their names, a.b.weight for example.

    `parts` yields the name and value of each tensor and each module in one module. Raises
    ValueError for more than MAX_TENSORS, as in a module that contains itself.
    """
    tensors: dict[str, Tensor] = {}
    pending: list[tuple[str, Any]] = [("", module)]
    for _ in range(MAX_TENSORS):
        if not pending:
            return tensors
        if len(pending) > MAX_TENSORS:
            break
        name, value = pending.pop()
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, Inert) and len(name) < MAX_NAME:
            prefix = f"{name}." if name else ""
            pending += [(f"{prefix}{part}", held) for part, held in parts(value)]
    raise ValueError(f"its modules hold more than {MAX_TENSORS:,} tensors")
