"""Pickles of numpy arrays are read whoever wrote them, and nothing in a hostile one is called."""

import base64
import datetime
import io
import json
import os
import pickle
import pickletools
import subprocess
import sys
from collections import OrderedDict, defaultdict
from typing import ClassVar

import numpy as np
import pytest

from clipfeat.base.pickles import Inert
from clipfeat.featstore.exchange.pickled import array_of, bytes_of, object_of, read_numpy_pickle
from clipfeat.featstore.exchange.pickling import npy_object_bytes, pickle_bytes

ARRAYS = {
    "float32": np.arange(60_000, dtype=np.float32).reshape(300, 200),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "slice": np.arange(20, dtype=np.float16).reshape(4, 5)[1:, ::2],
    "big-endian": np.arange(3, dtype=">f4"),
    "empty": np.zeros((0, 4), np.float32),
    "truth": np.array([True, False]),
    "no dimensions": np.array(7, np.int64),
    "scalar": np.float32(2.5),
    "long": np.int64(-3),
    "number": 1 << 70,
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])
def test_arrays_of_all_protocols_and_both_names(protocol, core):
    content = pickle.dumps({**ARRAYS, "text": "é", "keys": [b"a", b"", b"\xff"]}, protocol)
    for module in ("multiarray", "numeric"):
        old, new = f"numpy._core.{module}".encode(), f"{core}.{module}".encode()
        content = content.replace(
            b"\x8c" + bytes([len(old)]) + old, b"\x8c" + bytes([len(new)]) + new
        )
        content = content.replace(b"c" + old + b"\n", b"c" + new + b"\n")
    if protocol >= 4:  # frames say how long they are; these are without
        content = without_frames(content)
    read = read_numpy_pickle(content)
    for name, array in ARRAYS.items():
        if name == "number":
            assert read[name] == array
            continue
        found = array_of(read[name])
        assert np.array_equal(found, array), name
        assert found.shape == np.shape(array)
    assert read["text"] == "é"
    assert [bytes(bytes_of(key)) for key in read["keys"]] == [b"a", b"", b"\xff"]


def without_frames(content: bytes) -> bytes:
    """Return a pickle of protocol 4 or 5 without its frames, which are there for speed."""
    found = list(pickletools.genops(content))
    ends = [start for _, _, start in found[1:]] + [len(content)]
    return b"".join(
        content[start:end]
        for (instruction, _, start), end in zip(found, ends, strict=True)
        if instruction.name != "FRAME"
    )


class Calls:
    """Pickles as a call of something."""

    def __init__(self, function, *args):
        self._call = function, args

    def __reduce__(self):
        return self._call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Calls(os.system, "touch called"), "system"),
        (Calls(eval, "1"), "eval"),
        (Calls(np.load, "x.npy"), "numpy.load"),
        (Calls(np.ndarray, (2**36,)), "numpy.ndarray"),
        (Calls(np.zeros, (2**36,)), "zeros"),
        (Calls(np.frombuffer, b"abc"), "frombuffer"),
        (Calls(bytearray, 1 << 40), "bytearray"),
        (Calls(getattr, "x", "y"), "getattr"),
        (np.array([Calls(os.system, "touch called")], dtype=object), "system"),
        (datetime.date(2020, 1, 1), "datetime"),
        (OrderedDict(a=1), "OrderedDict"),
        (defaultdict(list), "defaultdict"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_calls_are_refused(protocol, value, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="would have to run") as refused:
        read_numpy_pickle(pickle.dumps({"features": value}, protocol))
    assert named in str(refused.value)
    assert list(tmp_path.iterdir()) == []


HOSTILE = {
    # ndarray(2**36) as the placeholder of _reconstruct, which is made without memory
    "reconstruct": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
    b"(\x8a\x06\x00\x00\x00\x00\x10\x00tU\x01btR.",
    "huge shape": pickle.dumps(np.zeros((2, 3)), 2).replace(
        b"K\x02K\x03\x86", b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86"
    ),
    "list in itself": b"]q\x00(" + b"h\x00h\x00" * 1000 + b"e.",
    "doubled": b"]q\x00" + b"".join(b"]q%c(h%ch%ce" % (k + 1, k, k) for k in range(200)) + b".",
    "deep": b"(" * 30_000 + b"t" * 30_000 + b".",
    "deep lists": b"]" * 30_000 + b"a" * 29_999 + b".",
    "bytes that are not there": b"\x80\x03B\xff\xff\xff\x7fabc.",
    "text that is not there": b"\x80\x03X\xff\xff\xff\x7fabc.",
    "8-byte length": b"\x80\x05\x8e" + b"\xff" * 7 + b"\x7f" + b"abc.",
    "frame that is not there": b"\x80\x04\x95" + b"\xff" * 7 + b"\x7fN.",
    "long number": b"\x8b\xff\xff\xff\x7f\x01.",
    "decimal number": b"L" + b"9" * 1_000_000 + b"L\n.",
    "memo without end": b"(" + b"K\x01\x94" * 30_000 + b"l.",
    "extension": b"\x80\x02\x82\x01.",
    "instance": b"(S'touch called'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'touch called'\no.",
    "persistent": b"\x80\x02K\x01Q.",
    "no end": b"\x80\x03]",
    "nothing": b"",
    "key is a tuple": b"\x80\x02}(((tt)K\x01u.",
    "encoded again and again": b"\x80\x02X\x10\x27\x00\x00" + b"a" * 10_000 + b"q\x000"
    b"(" + b"c_codecs\nencode\nh\x00U\x06latin1\x86R" * 10_000 + b"l.",
}


READ = """
import json, resource, sys
from clipfeat.featstore.exchange.pickled import array_of, read_numpy_pickle
for name in sys.argv[1:]:
    content = open(name, "rb").read()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        array_of(read_numpy_pickle(content))
        outcome = "read"
    except ValueError as error:
        outcome = "refused"
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1000
    print(json.dumps([name, outcome, megabytes]))
"""


def test_hostile_pickles_take_no_memory(tmp_path):
    for name, content in HOSTILE.items():
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, "-c", READ, *HOSTILE]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(name, outcome) for name, outcome, _ in found] == [(n, "refused") for n in HOSTILE]
    assert max(megabytes for *_, megabytes in found) < 60, found
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(HOSTILE)


def test_cut_off_anywhere():
    content = pickle.dumps({"features": ARRAYS["slice"], "n": 3}, 4)
    for length in range(len(content)):
        with pytest.raises(ValueError):  # noqa: PT011 - of many kinds
            read_numpy_pickle(content[:length])


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (3, 5)},
        {"shape": (-1, 20)},
        {"shape": (True, 20)},
        {"shape": [4, 5]},
        {"shape": (1,) * 16 + (20,)},
        {"data": [1, 2]},
        {"data": None},
        {"kind": Inert(Inert, ())},
        {"kind": "f4"},
    ],
)
def test_arrays_that_are_not_whole(change):
    read = read_numpy_pickle(pickle.dumps(np.arange(20, dtype=np.float32).reshape(4, 5), 2))
    version, shape, kind, in_columns, data = read.state
    whole = {"shape": shape, "kind": kind, "data": data, **change}
    read.state = (version, whole["shape"], whole["kind"], in_columns, whole["data"])
    with pytest.raises(ValueError, match="not an array of numbers that is whole"):
        array_of(read)


def test_other_kinds_of_arrays():
    for array in (np.array(["a"]), np.array([1, None]), np.array([1j]), np.zeros(2, "M8[s]")):
        read = read_numpy_pickle(pickle.dumps(array))
        with pytest.raises(ValueError, match="not an array of numbers"):
            array_of(read)
    with pytest.raises(ValueError, match="not a numpy array"):
        array_of([1, 2])


def test_pickles_of_python_2():
    """`pickle.dumps({"a": np.arange(3, dtype="f4")}, 2)` of Python 2.7 and numpy 1.16."""
    content = base64.b64decode(
        "gAJ9cQBVAWFxAWNudW1weS5jb3JlLm11bHRpYXJyYXkKX3JlY29uc3RydWN0CnECY251bXB5Cm5kYXJyYXkKcQNL"
        "AIVxBFUBYnEFh3EGUnEHKEsBSwOFcQhjbnVtcHkKZHR5cGUKcQlVAmY0cQpLAEsBh3ELUnEMKEsDVQE8cQ1OTk5K"
        "/////0r/////SwB0cQ5iiVUMAAAAAAAAgD8AAABAcQ90cRBicy4="
    )
    assert np.array_equal(array_of(read_numpy_pickle(content)["a"]), [0, 1, 2])


class TestWritten:
    VALUE: ClassVar = {
        "features": np.arange(6, dtype=np.float16).reshape(2, 3),
        "classes": np.array([1, -2]),
        "keys": [b"a", b"\xff"],
        "text": "é",
        "nothing": None,
        "large": 1 << 40,
        "below": -3,
        "none": np.zeros((0, 4), np.float32),
    }

    def test_python_reads_it(self):
        read = pickle.loads(pickle_bytes(self.VALUE))
        assert read.keys() == self.VALUE.keys()
        for key, value in self.VALUE.items():
            if isinstance(value, np.ndarray):
                assert np.array_equal(read[key], value)
                assert read[key].dtype == value.dtype
            else:
                assert read[key] == value

    def test_numpy_reads_it(self):
        read = np.load(io.BytesIO(npy_object_bytes(self.VALUE)), allow_pickle=True)
        assert read.shape == ()
        assert np.array_equal(read.item()["features"], self.VALUE["features"])

    def test_names_are_those_that_old_numpy_has(self):
        assert b"numpy._core" not in pickle_bytes(self.VALUE)
        assert b"numpy.core.multiarray" in pickle_bytes(self.VALUE)

    def test_it_is_read_back(self):
        content = npy_object_bytes(self.VALUE)
        header = 10 + int.from_bytes(content[8:10], "little")
        read = object_of(read_numpy_pickle(content[header:]))
        assert np.array_equal(array_of(read["classes"]), self.VALUE["classes"])
