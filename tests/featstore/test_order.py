"""Channels first on disk: the same records to every reader, and as they lie for those who ask."""

import json

import numpy as np
import pytest
from refused import refuses
from stores import make_store

from clipfeat.featstore import FeatureStore, StoreError
from clipfeat.featstore.shards import decode_zstd

RNG = np.random.default_rng(0)
ORDERS = ["channels_first", "channels_last"]
DIM = 300  # more than are turned at a time


@pytest.fixture(scope="module")
def records():
    """Grids of two shapes, by id."""
    return {
        f"i{k}": RNG.standard_normal(((3, 4), (2, 3))[k % 2] + (DIM,)).astype(np.float16)
        for k in range(9)
    }


@pytest.fixture(scope="module", params=ORDERS)
def store(tmp_path_factory, request, records):
    path = tmp_path_factory.mktemp(request.param) / "s"
    return FeatureStore.open(make_store(path, records, order=request.param))


def test_a_record_is_the_same_in_both_orders(store, records):
    for image_id, grid in records.items():
        assert np.array_equal(store[image_id], grid)
        assert store[image_id].flags.c_contiguous


@pytest.mark.parametrize("ids", [["i0"], ["i0", "i2", "i0"], ["i1", "i0", "i3", "i1"]])
def test_a_batch_has_either_shape(store, records, ids):
    last, first = store.read(ids), store.read(ids, channels_first=True)
    cells = max(records[image_id].shape[0] * records[image_id].shape[1] for image_id in ids)
    assert last.features.shape == (len(ids), cells, DIM)
    assert first.features.shape == (len(ids), DIM, cells)
    for batch in (last.features, first.features.transpose(0, 2, 1)):
        for image_id, features, mask in zip(ids, batch, last.mask, strict=True):
            assert np.array_equal(features[mask], records[image_id].reshape(-1, DIM))
            assert not features[~mask].any()
    assert np.array_equal(first.mask, last.mask)


def test_memory_that_is_given_is_filled(store, records):
    out = np.full((2, DIM, 20), 7, np.float16)
    batch = store.read(["i0", "i1"], out=out, channels_first=True)
    assert batch.features is out
    assert np.array_equal(out[0, :, :12], records["i0"].reshape(12, DIM).T)
    assert not out[1, :, 6:].any()
    with pytest.raises(ValueError, match=rf"of \(2, {DIM}, 12 or more\)"):
        store.read(["i0", "i1"], out=out.transpose(0, 2, 1), channels_first=True)


def test_the_bytes_on_disk_have_the_channels_first(tmp_path, records):
    path = make_store(tmp_path / "s", {"i0": records["i0"]}, shard_size=1, order="channels_first")
    shard = (path / "features.zarr/3x4/grid/c.0.0.0.0").read_bytes()
    content = np.empty(12 * DIM * 2, np.uint8)
    decode_zstd(shard[:-20], content)
    assert np.array_equal(content.view("<f2").reshape(DIM, 3, 4).transpose(1, 2, 0), records["i0"])
    array = json.loads((path / "features.zarr/3x4/grid/zarr.json").read_text())
    assert array["shape"] == [1, 3, 4, DIM]


def test_zeros_of_a_relu_take_less_space_with_channels_first(tmp_path):
    # Neighbouring cells have their zeros in the same channels, as those of a real ResNet.
    level = RNG.standard_normal(256)
    grids = {
        f"i{k}": np.maximum(level + 0.5 * RNG.standard_normal((7, 7, 256)), 0).astype(np.float16)
        for k in range(4)
    }
    sizes = [
        sum(s.bytes for s in FeatureStore.open(make_store(tmp_path / o, grids, order=o)).shards)
        for o in ORDERS
    ]
    assert sizes[0] < 0.9 * sizes[1]


def test_an_order_that_is_none_is_refused(tmp_path):
    grid = np.zeros((1, 1, 2), np.float16)
    with refuses("E-STORE-IDENTITY", "order", kind=StoreError):
        make_store(tmp_path / "s", {"a": grid}, order="rows_first")
