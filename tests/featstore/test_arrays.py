"""The store as a zarr group and as an xarray Dataset: the same numbers as FeatureStore.read."""

import sys
from typing import Any

import msgspec
import numpy as np
import pytest
import xarray
from refused import refuses
from stores import extend_store, make_identity, make_pooled_store, make_store, padded_store

from clipfeat.base.errors import UsageError
from clipfeat.featstore import CorruptStoreError, FeatureStore, GridShape, StoreError
from clipfeat.featstore.geometry import BICUBIC, Fit, Pad

RNG = np.random.default_rng(0)
SHARD = "features.zarr/3x4/grid/c.0.0.0.0"
ZARR_JSON = "features.zarr/3x4/grid/zarr.json"


def grids(count, rows=3, cols=4, name="a"):
    return {
        f"{name}{k}": RNG.standard_normal((rows, cols, 8)).astype(np.float16) for k in range(count)
    }


@pytest.fixture(params=["zstd", "none"])
def codec(request):
    return request.param


@pytest.fixture
def store(tmp_path, codec):
    """Two grid shapes with pooled vectors of another length, and an image without a record."""
    records = {"a9": None, **grids(6), **grids(3, 2, 5, "b")}
    pooled = {image_id: RNG.standard_normal(6).astype(np.float16) for image_id in records}
    identity = make_identity(8, codec, pooled_dim=6)
    return FeatureStore.open(make_pooled_store(tmp_path / "s", identity, records, pooled, 4))


def assert_same(dataset: xarray.Dataset, store: FeatureStore) -> None:
    """Compare all values of a dataset with what the store reads of the same ids."""
    batch = store.read(dataset.image_id.values.tolist())
    shape = dataset.sizes["row"], dataset.sizes["col"]
    images = len(batch.features)
    np.testing.assert_array_equal(dataset.grid.values.reshape(images, -1, 8), batch.features)
    np.testing.assert_array_equal(dataset.mask.values, batch.mask.reshape(images, *shape))
    assert dataset.grid.dtype == batch.features.dtype
    if batch.pooled is not None:
        np.testing.assert_array_equal(dataset.pooled.values, batch.pooled)


class TestZarr:
    def test_it_has_the_arrays_of_the_store(self, store):
        group: Any = store.zarr()
        for row in store.index:
            if row.status == "ok":
                grid = group[f"{row.shape}/grid"][row.row]
                np.testing.assert_array_equal(grid, store[row.image_id])
                pooled = group[f"{row.shape}/pooled"][row.row]
                np.testing.assert_array_equal(pooled, store.pooled([row.image_id])[0])

    def test_it_cannot_be_written_to(self, store):
        before = (store.path / SHARD).read_bytes()
        group: Any = store.zarr()
        for write in (
            lambda: group["3x4/grid"].__setitem__(0, 1),
            lambda: group.create_group("more"),
            lambda: group.create_array("more", shape=(1,), dtype="f4"),
            lambda: group.attrs.update(more=1),
        ):
            with pytest.raises(ValueError, match="read-only"):
                write()
        assert (store.path / SHARD).read_bytes() == before

    def test_metadata_that_has_changed_is_not_opened(self, store):
        path = store.path / ZARR_JSON
        path.write_text(path.read_text().replace('"little"', '"big"'))
        with refuses("E-STORE-ZARR", ZARR_JSON, "store repair", kind=CorruptStoreError):
            store.zarr()

    def test_a_missing_shard_is_not_read_as_zeros(self, store):
        (store.path / SHARD).unlink()
        with refuses("E-STORE-SHARD", SHARD, "missing", kind=CorruptStoreError):
            store.zarr()

    @pytest.mark.parametrize("name", [SHARD, ZARR_JSON])
    def test_a_link_is_not_followed(self, store, tmp_path, name):
        (store.path / name).rename(tmp_path / "moved")
        (store.path / name).symlink_to(tmp_path / "moved")
        code = "E-STORE-SHARD" if name == SHARD else "E-STORE-ZARR"
        with refuses(code, name, kind=CorruptStoreError):
            store.zarr()


class TestXarray:
    @pytest.mark.parametrize("shape", ["3x4", GridShape(2, 5)])
    def test_it_has_what_the_store_reads(self, store, shape):
        dataset = store.to_xarray(shape)
        assert dict(dataset.grid.sizes) == {
            "record": 6 if shape == "3x4" else 3,
            "row": int(str(shape)[0]),
            "col": int(str(shape)[2]),
            "dim": 8,
        }
        assert dict(dataset.pooled.sizes) == {"record": len(dataset.record), "pooled_dim": 6}
        assert dataset.attrs == {"digest": store.digest}
        assert_same(dataset, store)

    def test_a_record_is_found_by_its_id(self, store):
        dataset = store.to_xarray("3x4").set_index(record="image_id")
        np.testing.assert_array_equal(dataset.grid.sel(record="a3"), store["a3"])

    def test_a_store_of_several_shapes_wants_one_of_them(self, store):
        with refuses("E-STORE-SHAPE", "1x1, 2x5, 3x4", kind=StoreError):
            store.to_xarray()
        with refuses("E-STORE-SHAPE", "9x9", "1x1, 2x5, 3x4", kind=StoreError):
            store.to_xarray("9x9")
        assert store.to_xarray("1x1").sizes["record"] == 0  # planned for the missing image

    def test_padded_cells_are_masked(self, tmp_path):
        pad = Pad(64, 96, turn=False, odd="last", cell=(32, 32))
        recipe = {
            "name": "small",
            "steps": [msgspec.to_builtins(Fit(64, 96, **BICUBIC)), msgspec.to_builtins(pad)],
        }
        recipe["steps"].append({"step": "rgb"})
        sizes = {"a": (96, 64), "b": None, "c": (10, 20), "d": (960, 10)}
        padded = padded_store(tmp_path / "s", recipe, sizes, GridShape(2, 3))
        dataset = padded.to_xarray()
        assert dataset.image_id.values.tolist() == ["a", "c", "d"]
        for number, image_id in enumerate("acd"):
            np.testing.assert_array_equal(dataset.mask[number], padded.mask(image_id))
        assert dataset.mask.values.sum(axis=(1, 2)).tolist() == [6, 2, 3]

    def test_gaps_of_an_update_are_left_out(self, tmp_path, codec):
        records = {**grids(5), "gone": None}
        path = make_store(tmp_path / "s", records, codec, shape=GridShape(3, 4))
        new = {**records, "gone": grids(1)["a0"], "new": grids(1)["a0"]}
        store = extend_store(path, new, retry=["missing"])
        dataset = store.to_xarray()
        assert sorted(dataset.image_id.values.tolist()) == sorted(new)
        assert store.metadata.grid_shapes["3x4"] > len(new)
        assert_same(dataset, store)

    def test_nothing_is_read_before_it_is_used(self, store):
        dataset = store.to_xarray("3x4")
        (store.path / SHARD).unlink()
        assert not dataset.grid[:4].values.any()  # zarr's fill value
        assert dataset.grid[4:].values.any()

    def test_dask_reads_it_by_shards(self, store):
        chunked = store.to_xarray("3x4").chunk(record=store.metadata.shard_records)
        assert chunked.grid.chunks[0] == (4, 2)
        mean = chunked.grid.astype("f8").mean("record").compute()
        expected = store.read(chunked.image_id.values.tolist()).features.astype("f8").mean(axis=0)
        np.testing.assert_allclose(mean.values.reshape(12, 8), expected)

    def test_without_xarray_it_says_how_to_install_it(self, store, monkeypatch):
        monkeypatch.setitem(sys.modules, "xarray", None)
        with refuses("E-EXTRA-MISSING", "xarray", kind=UsageError):
            store.to_xarray("3x4")
