"""Tensors that torch saved are read without it, and torch reads those that are written."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from refused import refuses

from clipfeat.featstore.exchange import export_features, import_features, open_reader
from clipfeat.featstore.exchange.gridfeats import read_tensor, tensor_bytes

RNG = np.random.default_rng(0)
GRIDS = {n: RNG.standard_normal((1, 6, 2 + n % 2, 3)).astype(np.float32) for n in (9, 42, 133)}


def saved(value, *, archive=True) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=archive)
    return file.getvalue()


@pytest.mark.parametrize("archive", [True, False])
def test_there_and_back(tmp_path, archive):
    """Half of the files are from torch before 1.6, as published ones may be."""
    (tmp_path / "a").mkdir()
    for n, grid in GRIDS.items():
        (tmp_path / "a" / f"{n}.pth").write_bytes(saved(torch.from_numpy(grid), archive=archive))
    reader = open_reader("grid-feats", [tmp_path / "a"])
    store = import_features(reader, tmp_path / "s").store
    for n, grid in GRIDS.items():
        assert np.array_equal(store[str(n)], grid[0].transpose(1, 2, 0))
    export_features(store, tmp_path / "b", format="grid-feats")
    for n, grid in GRIDS.items():
        for weights_only in (True, False):
            tensor = torch.load(tmp_path / "b" / f"{n}.pth", weights_only=weights_only)
            assert np.array_equal(tensor.numpy(), grid)
    again = import_features(open_reader("grid-feats", [tmp_path / "b"]), tmp_path / "t").store
    assert [r.record_sha256 for r in store.index] == [r.record_sha256 for r in again.index]


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_views_and_parameters(archive, dtype):
    whole = torch.from_numpy(GRIDS[9]).to(dtype)
    for tensor in (whole, whole[:, 1:4].transpose(2, 3), whole.clone().requires_grad_()):
        found = read_tensor(io.BytesIO(saved(tensor, archive=archive)))
        assert found.shape == tuple(tensor.shape)
        assert np.array_equal(np.asarray(found), tensor.detach().numpy())


class Hostile:
    def __reduce__(self):
        return (exec, ("raise SystemExit",))


def renamed(old: bytes, new: bytes) -> bytes:
    """Return an archive of torch, its pickle changed."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(torch.zeros(1, 2, 3, 4)))) as source,
        zipfile.ZipFile(file, "w") as target,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                assert old in content
                content = content.replace(old, new)
            target.writestr(name, content)
    return file.getvalue()


@pytest.mark.parametrize("archive", [True, False])
def test_files_that_hold_something_else(archive):
    for value, text in (
        ({"a": torch.zeros(2)}, "one tensor"),
        ([torch.zeros(2)], "one tensor"),
        (torch.zeros(2, dtype=torch.int64), "other numbers"),
        (torch.zeros(1).expand(1000, 1000, 100), "1 numbers for the shape"),
        (torch.zeros(0, 3), "0 numbers"),
        (np.zeros(3), "would have to run"),
        (Hostile(), "would have to run"),
    ):
        with pytest.raises(ValueError, match=text):
            np.asarray(read_tensor(io.BytesIO(saved(value, archive=archive))))


def test_damaged_files():
    content = saved(torch.zeros(1, 2, 3, 4))
    old = saved(torch.zeros(1, 2, 3, 4), archive=False)
    flipped = bytearray(content)
    flipped[content.index(bytes(96)) + 5] ^= 1
    for damaged in (
        b"",
        b"PK",
        b"<html>",
        content[:-100],
        bytes(flipped),
        old[:-1],
        old[:200],
        pickle.dumps([1, 2]),
        renamed(b"K\x18", b"J\xff\xff\xff\x7f"),  # the length of the storage
        renamed(b"FloatStorage", b"BoolStorage"),
        renamed(b"_rebuild_tensor_v2", b"_rebuild_tensor_v9"),
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - of many kinds
            np.asarray(read_tensor(io.BytesIO(damaged)))


def test_written_bytes_are_equal_for_equal_tensors():
    assert tensor_bytes(GRIDS[9]) == tensor_bytes(GRIDS[9].copy())


def test_ids_are_numbers(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("COCO_val2014_000000000042", "COCO_train2014_000000000042", "name", "7"):
        (tmp_path / "a" / f"{name}.pth").write_bytes(saved(torch.from_numpy(GRIDS[9])))
    store = import_features(open_reader("grid-feats", [tmp_path / "a"]), tmp_path / "s").store
    report = export_features(store, tmp_path / "b", format="grid-feats")
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["42.pth", "7.pth"]
    assert report.written == 2
    assert sum(report.refused.values()) == 2
    with refuses("E-IMPORT-OPTION"):
        from clipfeat.featstore.exchange import Options

        open_reader("grid-feats", [tmp_path / "a"], Options(layout="chw"))
