"""Readers in threads and in other processes, what they hold open, and what they read."""

import gc
import json
import multiprocessing as mp
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from refused import refuses
from stores import make_identity, make_pooled_store, make_store
from torch.utils.data import DataLoader, Dataset

from clipfeat.featstore import CorruptStoreError, FeatureStore, MissingRecordError
from clipfeat.featstore import shards as shard_file
from clipfeat.featstore.shards import thread_count

RNG = np.random.default_rng(0)


def grids(count, rows=3, cols=4, dim=8):
    return {
        f"image{k:03}": RNG.standard_normal((rows, cols, dim)).astype(np.float16)
        for k in range(count)
    }


@pytest.fixture(autouse=True)
def threads_for_small_records_too(monkeypatch):
    monkeypatch.setattr("clipfeat.featstore.reading.INLINE_BYTES", 0)


@pytest.fixture(params=["zstd", "none"])
def codec(request):
    return request.param


def read_in_child(store, pipe):
    pipe.send(store["image003"].tobytes())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_child_process_reads(tmp_path, method):
    records = grids(5)
    store = FeatureStore.open(make_store(tmp_path / "s", records))
    store.read(store.ids)  # threads and indexes have been used before the child starts
    parent_end, child_end = mp.get_context(method).Pipe()
    child = mp.get_context(method).Process(target=read_in_child, args=(store, child_end))
    child.start()
    assert parent_end.recv() == records["image003"].tobytes()
    child.join()


def test_threads_share_a_store(tmp_path):
    records = grids(9)
    store = FeatureStore.open(make_store(tmp_path / "s", records))
    ids = sorted(records) * 20
    with ThreadPoolExecutor(8) as threads:
        for image_id, grid in zip(ids, threads.map(store.__getitem__, ids), strict=True):
            np.testing.assert_array_equal(grid, records[image_id])


def our_threads():
    return [t for t in threading.enumerate() if t.name.startswith("clipfeat reader")]


def test_the_threads_stay_and_end_with_the_store(tmp_path):
    gc.collect()  # stores of earlier tests
    before = our_threads()
    store = FeatureStore.open(make_store(tmp_path / "s", grids(9)))
    for _ in range(50):
        store.read(store.ids)
    ours = [t for t in our_threads() if t not in before]
    assert 1 <= len(ours) <= thread_count()
    gc.disable()  # counting references is enough
    try:
        del store
        for thread in ours:
            thread.join(10)
            assert not thread.is_alive()
    finally:
        gc.enable()


def test_a_batch_that_fails_has_ended_when_it_raises(tmp_path):
    """No thread may still write into memory that the caller has back."""
    path = make_store(tmp_path / "s", grids(40), "none", shard_size=2)
    (path / "features.zarr/3x4/grid/c.0.0.0.0").write_bytes(b"")
    store = FeatureStore.open(path)
    out = np.empty((40, 12, 8), np.float16)
    for _ in range(20):
        with refuses("E-SHARD-SIZE", "0 bytes", kind=CorruptStoreError):
            store.read(store.ids, out=out)
        out[:] = 7
        assert (out == 7).all()
    assert store.read(store.ids[2:]).features.shape == (38, 12, 8)


# Python 3.12 warns of every fork where there are threads; this is the case that it warns of.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_reading_reads(tmp_path):
    records = grids(9)
    store = FeatureStore.open(make_store(tmp_path / "s", records))
    ids, stop = store.ids, threading.Event()

    def read_on():
        while not stop.is_set():
            store.read(ids)

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        context = mp.get_context("fork")
        for _ in range(10):
            parent_end, child_end = context.Pipe()
            child = context.Process(target=read_all_in_child, args=(store, child_end))
            child.start()
            assert parent_end.poll(60), "the child hangs"
            assert parent_end.recv() == [records[i].tobytes() for i in ids]
            child.join()
            assert child.exitcode == 0
    finally:
        stop.set()
        reader.join()


def read_all_in_child(store, pipe):
    pipe.send([grid.tobytes() for grid in store.read(store.ids).features])


def test_a_lookup_that_is_cut_short_in_its_place_does_not_end_the_reader(tmp_path):
    """As cp or rsync --inplace over an open store do; a mapped file would raise SIGBUS."""
    records = grids(5)
    path = make_store(tmp_path / "s", records)
    store = FeatureStore.open(path)
    os.truncate(path / "lookup.bin", 0)
    for image_id, grid in records.items():
        assert store[image_id].tobytes() == grid.tobytes()
    assert "other" not in store
    with refuses("E-LOOKUP-SIZE", "0 bytes", "5 ids", kind=CorruptStoreError):
        FeatureStore.open(path)


def test_it_pickles_as_its_path(tmp_path):
    store = FeatureStore.open(make_store(tmp_path / "s", grids(3)))
    assert pickle.loads(pickle.dumps(store)).digest == store.digest


class Features(Dataset):
    """What a trainer's data set does: hold a store, and read one image at a time."""

    def __init__(self, store):
        self.store = store

    def __len__(self):
        return len(self.store)

    def __getitem__(self, index):
        image_id = self.store.ids[index]
        return image_id, torch.from_numpy(self.store[image_id])


# Python 3.12 warns of every fork where there are threads; torch keeps some of its own.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_of_a_data_loader_read_the_right_records(tmp_path, method):
    records = grids(10)
    store = FeatureStore.open(make_store(tmp_path / "s", records))
    store.read(store.ids)  # threads and shard indexes have been used before the workers start
    loader = DataLoader(
        Features(store),
        batch_size=3,
        num_workers=2,
        multiprocessing_context=method,
        persistent_workers=True,
    )
    for _ in range(2):
        seen = []
        for image_ids, features in loader:
            for image_id, grid in zip(image_ids, features, strict=True):
                assert grid.numpy().tobytes() == records[image_id].tobytes()
                seen.append(image_id)
        assert seen == sorted(records)
    store.read(store.ids)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_file_stays_open_however_many_shards_are_read(tmp_path, codec):
    records = {**grids(60), "gone": None}
    store = FeatureStore.open(make_store(tmp_path / "s", records, codec, shard_size=2))
    store.read(["image000"])
    gc.collect()  # what earlier tests left to it
    before = open_files()
    for k in range(300):
        store.read([f"image{(k * 7 + j) % 60:03}" for j in range(4)])
        if k % 50 == 0:
            for image_id in ("gone", "unknown"):
                with pytest.raises(MissingRecordError, match=image_id):
                    store.read([image_id])
            assert next(store.index).image_id == "gone"
    assert open_files() <= before


def test_files_are_closed_after_reads_that_fail(tmp_path, codec):
    path = make_store(tmp_path / "s", grids(8), codec)
    (path / "features.zarr/3x4/grid/c.1.0.0.0").write_bytes(b"")
    store = FeatureStore.open(path)
    gc.collect()  # what earlier tests left to it
    before = open_files()
    for _ in range(20):
        with refuses("E-SHARD-SIZE", "0 bytes", kind=CorruptStoreError):
            store.read([f"image{k:03}" for k in range(8)])
    assert open_files() <= before


@pytest.mark.parametrize("pooled", [False, True])
def test_a_record_asked_for_again_and_again_is_read_once(tmp_path, monkeypatch, codec, pooled):
    records = grids(6)
    vectors = {i: RNG.standard_normal(5).astype(np.float16) for i in records} if pooled else None
    identity = make_identity(8, codec, pooled_dim=5 if pooled else None)
    store = FeatureStore.open(make_pooled_store(tmp_path / "s", identity, records, vectors, 4))
    store.read(["image000", "image004"])  # the shard indexes are in memory from here on
    reads = []

    def counted(read):
        def count(*arguments):
            reads.append(arguments)
            return read(*arguments)

        return count

    for name in ("pread", "preadv"):
        monkeypatch.setattr(shard_file.os, name, counted(getattr(os, name)))
    ids = ["image004", "image001", "image004", "image004", "image000", "image001"] * 10
    batch = store.read(ids)
    assert len(reads) == (6 if vectors else 3)
    for image_id, features in zip(ids, batch.features, strict=True):
        assert features.tobytes() == records[image_id].tobytes()
    if vectors:
        assert batch.pooled is not None
        for image_id, vector in zip(ids, batch.pooled, strict=True):
            assert vector.tobytes() == vectors[image_id].tobytes()


class TestOut:
    """Memory of the caller's that records are read into."""

    @pytest.fixture
    def records(self):
        return {**grids(5), "wide": RNG.standard_normal((2, 9, 8)).astype(np.float16)}

    @pytest.fixture
    def store(self, tmp_path, records):
        return FeatureStore.open(make_store(tmp_path / "s", records, "none"))

    @pytest.mark.parametrize("cells", [18, 25])
    def test_it_is_filled_padded_with_zeros_and_masked(self, store, records, cells):
        ids = ["image001", "wide", "image001", "image003"]
        out = np.full((4, cells, 8), 7, np.float16)
        batch = store.read(ids, out=out)
        assert batch.features is out
        assert batch.mask.shape == (4, cells)
        assert batch.mask.sum(axis=1).tolist() == [12, 18, 12, 12]
        for image_id, features, mask in zip(ids, out, batch.mask, strict=True):
            assert features[mask].tobytes() == records[image_id].tobytes()
            assert not features[~mask].any()

    @pytest.mark.parametrize(
        ("out", "why"),
        [
            (np.empty((2, 18, 8), np.float32), r"expected float16 of \(2, 18 or more, 8\); got fl"),
            (np.empty((2, 18, 8), ">f2"), "out: expected float16 of"),
            (np.empty((3, 18, 8), np.float16), r"got float16 of \(3, 18, 8\)"),
            (np.empty((2, 17, 8), np.float16), r"got float16 of \(2, 17, 8\)"),
            (np.empty((2, 18, 9), np.float16), r"got float16 of \(2, 18, 9\)"),
            (np.empty((2, 2, 9, 8), np.float16), r"got float16 of \(2, 2, 9, 8\)"),
            (np.empty((2, 18, 16), np.float16)[:, :, ::2], "C-contiguous and writeable"),
            (np.empty((2, 8, 18), np.float16).transpose(0, 2, 1), "C-contiguous and writeable"),
            (np.broadcast_to(np.float16(0), (2, 18, 8)), "C-contiguous and writeable"),
            (np.frombuffer(bytes(576), np.float16).reshape(2, 18, 8), "C-contiguous and writeable"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, store, out, why):
        with pytest.raises(ValueError, match=why):
            store.read(["image001", "wide"], out=out)


def test_opening_and_reading_do_not_need_the_index_table(tmp_path):
    records = grids(5)
    path = make_store(tmp_path / "s", records)
    for table in ("index.parquet", "shards.parquet"):
        (path / table).unlink()
    store = FeatureStore.open(path)
    assert "image003" in store
    assert "other" not in store
    batch = store.read(["image003", "image001"])
    assert batch.features[0].tobytes() == records["image003"].tobytes()
    assert json.loads((path / "store.json").read_text())["counts"]["ok"] == len(store) == 5
