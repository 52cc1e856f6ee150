"""Write pickles of numpy arrays, for programs that read nothing else.

Python's own pickle would name functions where the numpy of this machine has them, which an older
numpy does not find; these names are found by all. The instructions are those of protocol 3, which
pickletools documents, and equal values give equal bytes.
"""

import io
import struct
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.lib import format as npy

Value = Mapping[str, "Value"] | Sequence["Value"] | np.ndarray | str | bytes | int | None

START, STOP = b"\x80\x03", b"."
NONE, TRUE, FALSE, MINUS_ONE = b"N", b"\x88", b"\x89", b"J\xff\xff\xff\xff"


def pickle_bytes(value: Value) -> bytes:
    """Return the pickle of dicts and lists of arrays, texts, bytes and whole numbers."""
    return START + _saved(value) + STOP


def npy_object_bytes(value: Value) -> bytes:
    """Return a value as numpy.save writes it: an array without dimensions of one object."""
    file = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    npy.write_array_header_1_0(file, header)
    kind = named("numpy", "dtype") + tuple_of(text("O8"), FALSE, TRUE) + b"R"
    kind += tuple_of(whole(3), text("|"), NONE, NONE, NONE, MINUS_ONE, MINUS_ONE, whole(63)) + b"b"
    held = b"]" + _saved(value) + b"a"
    return file.getvalue() + START + _array(tuple_of(), kind, held) + STOP


def named(module: str, name: str) -> bytes:
    """Return the instruction that puts a class or function on the stack."""
    return f"c{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    """Return the instruction for a text."""
    content = value.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def data(value: bytes) -> bytes:
    """Return the instruction for bytes."""
    return b"B" + struct.pack("<I", len(value)) + value


def whole(value: int) -> bytes:
    """Return the instruction for a whole number."""
    content = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def tuple_of(*instructions: bytes) -> bytes:
    """Return the instructions for a tuple of values."""
    return b"(" + b"".join(instructions) + b"t"


def _array(shape: bytes, kind: bytes, content: bytes) -> bytes:
    made = named("numpy.core.multiarray", "_reconstruct")
    made += tuple_of(named("numpy", "ndarray"), tuple_of(whole(0)), data(b"b")) + b"R"
    return made + tuple_of(whole(1), shape, kind, FALSE, content) + b"b"


def _saved(value: Value) -> bytes:
    if value is None:
        return NONE
    if isinstance(value, str):
        return text(value)
    if isinstance(value, bytes):
        return data(value)
    if isinstance(value, int):
        return whole(value)
    if isinstance(value, np.ndarray):
        order, code = value.dtype.newbyteorder("<").str[0], value.dtype.str[1:]
        kind = named("numpy", "dtype") + tuple_of(text(code), FALSE, TRUE) + b"R"
        kind += (
            tuple_of(whole(3), text(order), NONE, NONE, NONE, MINUS_ONE, MINUS_ONE, whole(0)) + b"b"
        )
        content = value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()
        return _array(tuple_of(*map(whole, value.shape)), kind, data(content))
    if isinstance(value, Mapping):
        items = b"".join(text(key) + _saved(held) for key, held in value.items())
        return b"}(" + items + b"u"
    return b"](" + b"".join(map(_saved, value)) + b"e"
