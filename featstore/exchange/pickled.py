"""Read pickles of numpy arrays, as mmf writes them, as data.

Arrays, numbers, texts, dicts and lists are read; whatever else a pickle would call is refused by
name. An array stays an `Inert` with a view of its bytes until `array_of` is asked for it, so that a
large one that nobody asks for is not read from the disk. Its shape is compared with its bytes before
anything of that size is made.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# What a file holds has any type; it is checked.

import re
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from ...base.pickles import Inert, Name, nothing_stored, read_pickle
from ...base.text import printable

LAZY_BYTES = 1 << 16  # from here on a part of a buffer is not copied
MAX_DIMENSIONS = 8
CORES = ("numpy.core", "numpy._core")  # numpy renamed it in version 2
RECONSTRUCT, SCALAR, FROM_BUFFER = (
    tuple(Name(f"{core}.{module}", name) for core in CORES)
    for module, name in (
        ("multiarray", "_reconstruct"),
        ("multiarray", "scalar"),
        ("numeric", "_frombuffer"),
    )
)
DTYPE = Name("numpy", "dtype")
ENCODE = Name("_codecs", "encode")  # bytes, in protocols that have none
EMPTY_BYTES = (Name("builtins", "bytes"), Name("__builtin__", "bytes"))
# Not numpy.ndarray: called by itself, it takes memory for any shape. As an argument it is a name.
CALLABLE = {*RECONSTRUCT, *SCALAR, *FROM_BUFFER, DTYPE, ENCODE, *EMPTY_BYTES}
NUMBERS = re.compile("f[248]|[iu][1248]|b1")  # of an array, without its byte order


class Buffer:
    """Some bytes as a file for reading, of which long parts are views and not copies."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._at = 0

    def read(self, length: int) -> bytes | memoryview:
        """Return the next bytes, fewer at the end."""
        part = self._content[self._at : self._at + length]
        self._at += len(part)
        return part if len(part) >= LAZY_BYTES else bytes(part)

    def readline(self) -> bytes:
        """Return the bytes up to the next line end, with it."""
        end = self._at
        while end < len(self._content):
            block = bytes(self._content[end : end + LAZY_BYTES])
            if (found := block.find(b"\n")) >= 0:
                end += found + 1
                break
            end += len(block)
        line = bytes(self._content[self._at : end])
        self._at = end
        return line

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._at


def read_numpy_pickle(content: bytes | memoryview) -> Any:
    """Return what a pickle of numpy arrays holds, with an `Inert` for each array.

    Raises ValueError for anything else that would have to be called, and for a damaged pickle.
    """
    rebuild = allowing(CALLABLE)
    try:
        try:
            buffer: Any = Buffer(memoryview(content))
            return read_pickle(buffer, nothing_stored, rebuild)
        except AttributeError:  # long texts of Python 2, which pickletools decodes itself
            return read_pickle(bytes(content), nothing_stored, rebuild)
    except ValueError as error:
        raise ValueError(f"pickle: {error}") from None


def allowing(names: set[Name]) -> Callable[[Name, tuple[Any, ...]], Inert]:
    """Return what makes an `Inert` of a call of one of `names`, and refuses all others."""

    def rebuild(name: Name, args: tuple[Any, ...]) -> Inert:
        if name not in names:
            called = printable(".".join(name))
            raise ValueError(f"it would have to run {called:.80} to be read")
        return Inert(name, args)

    return rebuild


def array_of(value: Any) -> np.ndarray:
    """Return an array or a number of a pickle, as a view of the pickle's bytes.

    Raises ValueError for anything else, and for a shape that does not fit the bytes.
    """
    if isinstance(value, bool | int | float):
        return np.asarray(value)
    if not isinstance(value, Inert):
        raise ValueError("it is not a numpy array")
    try:
        if value.name in RECONSTRUCT:
            shape, dtype, in_columns, data = value.state[-4:]
        elif value.name in FROM_BUFFER:
            data, dtype, shape, order = value.args
            in_columns = order == "F"
        elif value.name in SCALAR:
            (dtype, data), shape, in_columns = value.args, (), False
        else:
            raise TypeError
        return _array(bytes_of(data), _dtype(dtype), shape, in_columns=in_columns is True)
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"not an array of numbers that is whole ({error})") from None


def object_of(value: Any) -> Any:
    """Return the one object in an array of objects without dimensions, as numpy.save writes a dict."""
    state = value.state if isinstance(value, Inert) and value.name in RECONSTRUCT else None
    if isinstance(state, tuple) and len(state) == 5 and state[1] == ():
        held = state[4]
        if isinstance(held, list) and len(held) == 1:
            return held[0]
    raise ValueError("not one object of numpy")


def _array(
    data: bytes | bytearray | memoryview, dtype: np.dtype, shape: Any, *, in_columns: bool
) -> np.ndarray:
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS:
        raise ValueError("its shape is not one")
    if not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError("its shape is not one")
    if prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data):,} bytes for another shape")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if in_columns else "C")


def _dtype(value: Any) -> np.dtype:
    """Return the numbers that a pickled dtype names: floats, whole numbers and truth values."""
    if not isinstance(value, Inert) or value.name != DTYPE or not value.args:
        raise ValueError("it has no dtype")
    code = value.args[0]
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "|"
    if (
        not isinstance(code, str)
        or not NUMBERS.fullmatch(code)
        or order not in ("<", ">", "|", "=")
    ):
        raise ValueError("it holds other things than numbers")
    return np.dtype(f"{order}{code}")


def bytes_of(value: Any) -> bytes | bytearray | memoryview:
    """Return bytes, which protocols before 3 write as a text of letters below 256."""
    if isinstance(value, Inert) and value.name == ENCODE:
        value, encoding = value.args
        if encoding not in ("latin1", "latin-1"):
            raise ValueError("an unusual encoding")
    elif isinstance(value, Inert) and value.name in EMPTY_BYTES and not value.args:
        return b""
    if isinstance(value, str):  # Python 2 has the bytes themselves as such a text
        return value.encode("latin-1")
    if isinstance(value, bytes | bytearray | memoryview):
        return value
    raise ValueError("it has no bytes")
