"""Files given as weights: of every kind, hostile ones, and ones too large to be read."""

import argparse
import json
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peak_memory import peak, start_peak
from safetensors.torch import save_file

from clipfeat.base.errors import ExtractUsageError
from clipfeat.extract.backbones.weights_file import UnreadableWeights
from clipfeat.extract.backbones.weights_state import read_weights

STATE = {"visual.a": torch.arange(3.0), "text.b": torch.ones(2, 2)}


def same(found: Any) -> bool:
    return found.keys() == STATE.keys() and all(torch.equal(found[k], STATE[k]) for k in STATE)


def bomb(marker: Path) -> bytes:
    """Return a pickle that touches a file, behind what only torch's safe reader fails at.

    That is a TypeError, since the state of an OrderedDict is None; pickle passes over it.
    """
    command = f"touch {marker}".encode()
    return (
        b"\x80\x02ccollections\nOrderedDict\n)RNb0"
        b"cposix\nsystem\nX" + struct.pack("<I", len(command)) + command + b"\x85R."
    )


def in_archive(path: Path, content: bytes) -> None:
    """Write what torch.save does around a pickle."""
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, content if name.endswith("/data.pkl") else member)


@pytest.mark.parametrize("force", ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "NOTHING"])
def test_nothing_is_executed_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: str
) -> None:
    marker = tmp_path / "sprung"
    content = bomb(marker)
    pickle.loads(content)
    assert marker.exists(), "the bomb is dead"
    marker.unlink()
    for name in ("bare.pt", "bare.bin", "bare.safetensors"):
        (tmp_path / name).write_bytes(content)
    for name in ("archive.pt", "archive.bin", "archive.safetensors"):
        in_archive(tmp_path / name, content)
    monkeypatch.setenv(force, "1")  # torch looks at it whenever it loads a file
    files = sorted(tmp_path.iterdir())
    found = set()
    for path in files:
        try:
            found.add(str(read_weights(path)))
        except Exception as error:
            found.add(type(error).__name__)
    assert len(files) == 6
    assert found <= {"UnreadableWeights", "ExtractUsageError"}
    assert not marker.exists()


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.safetensors", "w"])
@pytest.mark.parametrize("kind", ["archive", "old", "safetensors", "training"])
def test_the_content_says_what_a_file_is(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "safetensors":
        save_file(STATE, path)
    elif kind == "training":
        prefixed = {f"module.{key}": tensor for key, tensor in STATE.items()}
        torch.save({"state_dict": prefixed, "epoch": 3}, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "archive")
    found, warning = read_weights(path)
    assert same(found)
    assert warning is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 35\n", "git-lfs"),
        (b"\n <!DOCTYPE html><html><title>Sign in</title></html>", "HTML"),
        (b'{"weight_map": {}}', "JSON"),
        (b'\xef\xbb\xbf{"error": 404}', "JSON"),
        (b"", "an empty file"),
        (b"\x93NUMPY\x01\x00", "numpy"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"weights", "neither"),
        (bytes(1000), "neither"),
    ],
)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_other_files_are_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExtractUsageError) as refused:
        read_weights(tmp_path / name)
    assert refused.value.code == "E-WEIGHTS-KIND"
    assert said in str(refused.value)


def test_what_is_not_a_file_of_weights_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "n.pt.npz", a=np.ones(2))
    with zipfile.ZipFile(tmp_path / "z.pt", "w") as archive:
        archive.writestr("readme", "weights")
    with tarfile.open(tmp_path / "t.pt", "w") as archive:
        archive.add(tmp_path / "z.pt", "z.pt")
    os.mkfifo(tmp_path / "pipe")
    for name, code, said in (
        ("n.pt.npz", "E-WEIGHTS-KIND", "numpy arrays"),
        ("z.pt", "E-WEIGHTS-KIND", "a zip archive"),
        ("t.pt", "E-WEIGHTS-KIND", "a tar archive"),
        ("", "E-WEIGHTS-KIND", "a folder; pass a file in it: n"),
        ("pipe", "E-WEIGHTS-FILE", "pipe"),
        ("nowhere", "E-WEIGHTS-FILE", "No such file"),
    ):
        with pytest.raises(ExtractUsageError) as refused:
            read_weights(tmp_path / name)
        assert refused.value.code == code
        assert said in str(refused.value).replace("t.pt, ", "n")


@pytest.mark.parametrize(
    "content",
    [argparse.Namespace(), {"args": argparse.Namespace()}, {"a": {1}}, {"b": np.ones(2)}],
)
def test_torchs_advice_to_execute_a_file_is_not_passed_on(tmp_path: Path, content: Any) -> None:
    """torch's own errors for these files have escape codes and end with that advice."""
    for new in (True, False):
        path = tmp_path / f"{new}.pt"
        torch.save(content, path, _use_new_zipfile_serialization=new)
        with pytest.raises((ExtractUsageError, UnreadableWeights)) as refused:
            read_weights(path)
        assert "weights_only" not in str(refused.value)
        assert str(refused.value).isprintable()


def test_cut_off_files_are_unreadable(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "archive")
    torch.save(STATE, tmp_path / "old", _use_new_zipfile_serialization=False)
    save_file(STATE, tmp_path / "safetensors")
    for name in ("archive", "old", "safetensors"):
        content = (tmp_path / name).read_bytes()
        for length in (9, len(content) // 2, len(content) - 1):
            (tmp_path / "cut").write_bytes(content[:length])
            with pytest.raises(UnreadableWeights):
                read_weights(tmp_path / "cut")


def test_an_archive_that_claims_more_than_it_has_is_not_unpacked(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pt")
    with zipfile.ZipFile(tmp_path / "w.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, bytes(50 << 20) if name.endswith("/data/0") else member)
    with pytest.raises(UnreadableWeights, match="claim"):
        read_weights(tmp_path / "w.pt")


def test_large_files_take_no_memory(tmp_path: Path) -> None:
    """Sparse files: what is mapped is not read, and what would have to be read is rejected."""
    before = start_peak()
    large = 3 << 30
    tensors = {
        "visual.a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "junk": {"dtype": "U8", "shape": [large - 8], "data_offsets": [8, large]},
    }
    header = json.dumps(tensors).encode()
    write_sparse(tmp_path / "w", struct.pack("<Q", len(header)) + header, large)
    assert set(read_weights(tmp_path / "w").tensors) == {"visual.a", "junk"}
    for start in (struct.pack("<Q", 50 << 30) + b"{", b"\x80\x02", b"PK\x03\x04"):
        write_sparse(tmp_path / "w", start, 100 << 30)
        with pytest.raises(UnreadableWeights):
            read_weights(tmp_path / "w")
    assert peak() - before < 200 << 20


def write_sparse(path: Path, start: bytes, more: int) -> None:
    with path.open("wb") as file:
        file.write(start)
        file.truncate(len(start) + more)
