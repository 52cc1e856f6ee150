"""What goes in comes out: by id, in any order, padded, and by other readers of Zarr."""

import json
import multiprocessing as mp
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hostile import reseal
from stores import make_store

from clipfeat.featstore import CorruptStoreError, FeatureStore, MissingRecordError, StoreError

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


def test_zarr_python_reads_the_very_same_values(tmp_path, codec):
    records = grids(11)
    store = FeatureStore.open(make_store(tmp_path / "s", records, codec))
    array: Any = zarr.open_group(tmp_path / "s" / "features.zarr", mode="r")["3x4/grid"]
    assert array.shape == (11, 3, 4, 8)
    assert array.metadata.dimension_names == ("record", "row", "col", "dim")
    for row in store.index:
        np.testing.assert_array_equal(array[row.row], records[row.image_id])


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


def read_in_child(store, pipe):
    pipe.send(store["image003"].tobytes())


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_child_process_reads(tmp_path, method):
    records = grids(5)
    store = FeatureStore.open(make_store(tmp_path / "s", records))
    store.read(store.ids)  # threads and indexes have been used before the child starts
    ours, theirs = mp.get_context(method).Pipe()
    child = mp.get_context(method).Process(target=read_in_child, args=(store, theirs))
    child.start()
    assert ours.recv() == records["image003"].tobytes()
    child.join()


def test_threads_share_a_store(tmp_path):
    records = grids(9)
    store = FeatureStore.open(make_store(tmp_path / "s", records))
    ids = sorted(records) * 20
    with ThreadPoolExecutor(8) as threads:
        for image_id, grid in zip(ids, threads.map(store.__getitem__, ids), strict=True):
            np.testing.assert_array_equal(grid, records[image_id])


def test_it_pickles_as_its_path(tmp_path):
    store = FeatureStore.open(make_store(tmp_path / "s", grids(3)))
    assert pickle.loads(pickle.dumps(store)).digest == store.digest


def test_the_same_records_give_the_same_digest(tmp_path):
    records = grids(7)
    one = FeatureStore.open(make_store(tmp_path / "one", records))
    two = FeatureStore.open(make_store(tmp_path / "two", dict(reversed(records.items()))))
    other = FeatureStore.open(
        make_store(tmp_path / "three", {**records, "image000": grids(1)["image000"]})
    )
    assert one.digest == two.digest != other.digest
