"""What goes in comes out: by id, in any order, padded, and by other readers of Zarr."""

import numpy as np
import pytest
from stores import make_store

from clipfeat.featstore import FeatureStore, MissingRecordError

RNG = np.random.default_rng(0)


def grids(count, rows=3, cols=4, dim=8):
    return {
        f"image{k:03}": RNG.standard_normal((rows, cols, dim)).astype(np.float16)
        for k in range(count)
    }


@pytest.fixture(params=["zstd", "none"])
def codec(request):
    return request.param


def test_every_record_by_id(tmp_path, codec):
    records = grids(11)
    store = FeatureStore.open(make_store(tmp_path / "s", records, codec))
    assert list(store.ids) == sorted(records)
    assert (store.dim, store.grid_shapes, len(store)) == (8, ((3, 4),), 11)
    for image_id, grid in records.items():
        np.testing.assert_array_equal(store[image_id], grid)


def test_any_order_with_repeats(tmp_path, codec):
    records = grids(11)
    store = FeatureStore.open(make_store(tmp_path / "s", records, codec))
    ids = [f"image{k:03}" for k in RNG.integers(0, 11, 50)]
    batch = store.read(ids)
    expected = np.stack([records[i].reshape(12, 8) for i in ids])
    np.testing.assert_array_equal(batch.features, expected)
    assert batch.mask.all()
    assert batch.pooled is None


def test_ragged_grids_are_padded_with_zeros_and_masked(tmp_path, codec):
    records = {**grids(5), "wide": RNG.standard_normal((2, 9, 8)).astype(np.float16)}
    store = FeatureStore.open(make_store(tmp_path / "s", records, codec))
    batch = store.read(["image001", "wide"])
    assert batch.features.shape == (2, 18, 8)
    assert batch.mask.sum(axis=1).tolist() == [12, 18]
    assert batch.grid_shapes.tolist() == [[3, 4], [2, 9]]
    np.testing.assert_array_equal(batch.features[0, :12], records["image001"].reshape(12, 8))
    assert not batch.features[0, 12:].any()
    np.testing.assert_array_equal(store["wide"], records["wide"])


def test_reading_nothing_gives_nothing(tmp_path):
    batch = FeatureStore.open(make_store(tmp_path / "s", grids(2))).read([])
    assert (batch.features.shape, batch.mask.shape) == ((0, 0, 8), (0, 0))


def test_a_refused_image_raises_and_is_never_zeros(tmp_path):
    store = FeatureStore.open(make_store(tmp_path / "s", {**grids(5), "gone": None}))
    assert "gone" not in store
    assert len(store) == 5
    with pytest.raises(MissingRecordError, match=r"'gone' has no record in .*: missing, no such"):
        store["gone"]
    with pytest.raises(KeyError, match="has no image id 'other'; ids here look like 'image000'"):
        store.read(["image001", "other"])


def test_the_same_records_give_the_same_digest(tmp_path):
    records = grids(7)
    one = FeatureStore.open(make_store(tmp_path / "one", records))
    two = FeatureStore.open(make_store(tmp_path / "two", dict(reversed(records.items()))))
    other = FeatureStore.open(
        make_store(tmp_path / "three", {**records, "image000": grids(1)["image000"]})
    )
    assert one.digest == two.digest != other.digest
