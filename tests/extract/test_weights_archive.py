"""TorchScript archives against torch.jit's own state dict, and hostile pickles."""

import os
import pickle
import struct
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from peak_memory import peak, start_peak
from torch import nn

from clipfeat.base.pickles import read_pickle
from clipfeat.extract.backbones.weights_file import UnreadableWeights
from clipfeat.extract.backbones.weights_state import read_weights

STATE = {"visual.a": torch.arange(3.0), "text.b": torch.ones(2, 2)}


class Scripted(nn.Module):
    """Modules in modules, one in two places, a list, buffers, and tensors that are neither."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 2, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.same = self.layers
        self.proj = nn.Parameter(torch.randn(4, 5).half().T)
        self.table = nn.Parameter(torch.randn(6, 4)[1:3], requires_grad=False)
        self.register_buffer("input_resolution", torch.tensor(224))
        self.register_buffer("passing", torch.ones(2), persistent=False)
        self.mask = torch.full((2,), -torch.inf)
        self.scale = 0.5

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.same(self.layers[0](images)[:, :3] * self.scale) + self.mask[0]


@pytest.mark.parametrize("kind", ["script", "trace"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_torchscript_archive_gives_its_state_dict(
    tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    model = Scripted().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; published archives are not
        images = torch.zeros(1, 3, 8, 8)
        script: Any = (
            torch.jit.script(model) if kind == "script" else torch.jit.trace(model, images)
        )
        torch.jit.save(script.to(dtype), tmp_path / "model.pt")
        expected = torch.jit.load(tmp_path / "model.pt").state_dict()
    found = read_weights(tmp_path / "model.pt").tensors
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    assert found["same.0.weight"].dtype == dtype


def test_the_code_of_an_archive_is_not_executed(tmp_path: Path) -> None:
    """Text that Python would execute where the code of a module is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "model.pt")
    marker = tmp_path / "sprung"
    rewrite(tmp_path / "model.pt", "linear.py", f"open({str(marker)!r}, 'w')\n".encode())
    assert read_weights(tmp_path / "model.pt").tensors["weight"].shape == (2, 2)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_of_every_type_and_layout_are_torchs(tmp_path: Path, protocol: int) -> None:
    numbers = torch.arange(24)
    tensors = {
        str(dtype): numbers.to(dtype).view(2, 3, 4)
        for dtype in (
            torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
            torch.int16, torch.int8, torch.uint8, torch.bool,
        )
    }  # fmt: skip
    whole = torch.randn(4, 6)
    tensors |= {
        "turned": whole.T,
        "part": whole[1:3, ::2],
        "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 3),
        "parameter": nn.Parameter(torch.ones(2)),
    }
    torch.save(tensors, tmp_path / "w.pt", pickle_protocol=protocol)
    expected = torch.load(tmp_path / "w.pt", weights_only=False)
    found = read_weights(tmp_path / "w.pt").tensors
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].stride() == tensor.stride()
        assert torch.equal(found[name], tensor), name


def rewrite(path: Path, suffix: str, content: bytes) -> None:
    """Replace the member of an archive whose name ends so."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, content if name.endswith(suffix) else member)


def with_pickle(path: Path, content: bytes) -> None:
    torch.save(STATE, path)
    rewrite(path, "/data.pkl", content)


def test_an_archive_that_another_program_wrote_is_read(tmp_path: Path) -> None:
    """Numbers at places that are no multiple of their size."""
    torch.save(STATE, tmp_path / "w.pt")
    rewrite(tmp_path / "w.pt", "/version", b"3\n")
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        assert archive.getinfo("w/data/0").header_offset % 4
    found = read_weights(tmp_path / "w.pt").tensors
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


class Touch:
    """What a hostile pickle is made of: unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_no_object_of_a_pickle_is_made(tmp_path: Path, protocol: int) -> None:
    trap = Touch(tmp_path / "sprung")
    pickle.loads(pickle.dumps(trap, protocol))
    assert (tmp_path / "sprung").exists(), "the trap is dead"
    (tmp_path / "sprung").unlink()
    content = {"state_dict": STATE, "args": [trap], "nested": {"a": (trap, {"b": trap})}}
    torch.save(content, tmp_path / "w.pt", pickle_protocol=protocol)
    assert set(read_weights(tmp_path / "w.pt").tensors) == set(STATE)
    assert not (tmp_path / "sprung").exists()


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0"


def tensor(key: bytes, length: int, start: int, size: tuple[int, ...], stride: tuple[int, ...]):
    """Return the pickle of a dict with one tensor."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    return (
        b"\x80\x02}X\x01\0\0\0a" + TENSOR + key + b"X\x03\0\0\0cpu" + number(length) + b"tQ"
        + number(start) + numbers(size) + numbers(stride) + b"\x89Ntrs."
    ).replace(b"trs.", b"tRs.")  # fmt: skip


def test_the_pickle_of_these_tests_is_one(tmp_path: Path) -> None:
    with_pickle(tmp_path / "w.pt", tensor(b"0", 3, 0, (3,), (1,)))
    assert torch.equal(read_weights(tmp_path / "w.pt").tensors["a"], torch.arange(3.0))


@pytest.mark.parametrize(
    "content",
    [
        tensor(b"0", 4, 0, (4,), (1,)),  # more than the member holds
        tensor(b"0", 1 << 60, 0, (1 << 60,), (1,)),
        tensor(b"0", 3, 0, (1 << 40,), (0,)),  # one number, repeated
        tensor(b"0", 3, 2, (2,), (1,)),  # beyond the end
        tensor(b"0", 3, -1, (2,), (1,)),
        tensor(b"0", 3, 2, (2,), (-1,)),
        tensor(b"0", 3, 0, (3,), ()),
        tensor(b"0", 3, 0, (1 << 61, 1 << 61, 0), (1, 1, 1)),  # empty, and too large to count
        tensor(b"9", 3, 0, (3,), (1,)),  # a member that does not exist
        tensor(b"0", -1, 0, (3,), (1,)),
    ],
)
def test_a_tensor_never_reaches_beyond_its_numbers(tmp_path: Path, content: bytes) -> None:
    with_pickle(tmp_path / "w.pt", content)
    with pytest.raises(UnreadableWeights):
        read_weights(tmp_path / "w.pt")


NESTED = b"\x80\x02)q\0" + b"h\0h\0\x86q\0" * 200
TWICE = (
    b"\x80\x04]\x94"
    + b"]\x94(h\0h\0e\x94"
    + b"".join(
        b"](j" + struct.pack("<I", at) + b"j" + struct.pack("<I", at) + b"e\x94"
        for at in range(1, 200)
    )
)  # a list of a list twice, and so on
SELF = b"\x80\x02c__torch__\nM\n)\x81q\0}(X\x01\0\0\0ah\0X\x01\0\0\0bh\0ub."


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"\x80\x02.",
        b"\x80\x02}",
        b"\x80\x02u.",
        b"\x80\x02h\x05.",
        b"\x80\x02}r\xff\xff\xff\xff.",  # a place in memory that would take 64 GB
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
        b"\x80\x02X\xff\xff\xff\xffa.",
        b"(iposix\nsystem\n.",
        b"\x80\x02}" + NESTED[2:] + b"Ns.",  # 2^200 parts to hash, as a key
        b"\x80\x04" + NESTED[2:] + b"h\0\x93.",  # and to print, as the name of a class
        b"\x80\x02}\x8b" + struct.pack("<I", 5000) + b"\x7f" * 5000 + b"Ns.",  # 12,000 digits
        SELF,  # a module that holds itself, twice
        TWICE + b"\x8c\x01a\x93.",  # the name of a class, 2^200 texts long
        b"\x80\x02" + b"]" * 2_000 + b"a" * 1_999 + b"X\x01\0\0\0a\x93.",  # one too deep to print
        # Ten thousand values, copied ten thousand times.
        b"\x80\x02(" + b"N" * 10_000 + b"lq\0(" + b"c__builtin__\nset\nh\0\x85R" * 10_000 + b"l.",
        # A module that holds itself and many other names.
        b"\x80\x02c__torch__\nM\n)\x81q\0}("
        + b"".join(b"X\x04\0\0\0%04xN" % at for at in range(6_000))
        + b"X\x01\0\0\0ah\0ub.",
        tensor(b"0", 3, 0, (0, 1 << 61, 1 << 61), (1, 1, 1)),
        b"\x80\x02}\x8b\x00\x20\0\0" + b"\x01" * 0x2000 + b"Ns.",  # a key of 20,000 digits
        b"\x80\x02(I1\niposix\nsystem\n.",
        b"\x80\x02cposix\nsystem\nX\x02\0\0\0id\x85R.",
        b"\x80\x02" + b"(" * 10_000 + b".",
        b"\x80\x02" + b")\x85" + b"\x85" * 20_000 + b".",
    ],
)
@pytest.mark.parametrize("code", ["", "w/constants.pkl"])
def test_hostile_pickles_take_no_memory_and_no_time(
    tmp_path: Path, content: bytes, code: str
) -> None:
    with_pickle(tmp_path / "w.pt", content)
    if code:
        with zipfile.ZipFile(tmp_path / "w.pt", "a") as archive:
            archive.writestr(code, b"\x80\x02).")
    before, start = start_peak(), time.process_time()
    with pytest.raises(UnreadableWeights):
        read_weights(tmp_path / "w.pt")
    assert peak() - before < 200 << 20
    assert time.process_time() - start < 20, "it does not end in any useful time"


def test_a_pickle_of_endless_instructions_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipfeat.base.pickles.MAX_INSTRUCTIONS", 1_000)
    content = b"\x80\x02" + b"N0" * 501 + b"]."  # None, and away with it
    with pytest.raises(ValueError, match="more than 1,000 instructions"):
        read_pickle(content, stored=str, rebuild=lambda name, args: None)
