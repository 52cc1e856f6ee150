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


class TestOpenRefuses:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(StoreError, match="does not exist: expected a folder that holds store"):
            FeatureStore.open(tmp_path / "none")

    def test_another_folder(self, tmp_path):
        with pytest.raises(StoreError, match="is no feature store"):
            FeatureStore.open(tmp_path)

    def test_an_unfinished_store(self, tmp_path):
        (make_store(tmp_path / "s", grids(3)) / "store.json").unlink()
        (tmp_path / "s" / "journal").mkdir()
        with pytest.raises(StoreError, match=r"is unfinished: .*run the same clipfeat extract"):
            FeatureStore.open(tmp_path / "s")

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"format": 2}, "format 2; this clipfeat reads format 1"),
            ({"digest": 5}, "digest must be a str"),
            ({"shard_records": 0}, "shard_records must be 1 to 1048576"),
            ({"shard_records": True}, "shard_records must be a int"),
            ({"created": None}, "created must be a str"),
            ({"generation": -1}, "generation must be 0 or more"),
            ({"tables": {"index": "../../etc/passwd"}}, "tables must have the keys index, shards"),
            ({"identity": {}}, "identity must have the keys"),
            ({"counts": {"ok": 2**62}}, "counts must have a number for each of"),
            ({"grid_shapes": {"4096x4096": 3}}, "expected 1 to .* of at most 134,217,728 bytes"),
            ({"grid_shapes": {"9999999999x1": 3}}, "a grid has 1 to 4096 rows and cols"),
            ({"grid_shapes": {"3x4": 2**62}}, "4611686018427387904 records of 192 bytes at 3x4"),
            ({"grid_shapes": {f"1x{k}": 1 for k in range(1, 4097)} | {"2x1": 1}}, "at most 4096"),
        ],
    )
    def test_a_strange_card(self, tmp_path, change, why):
        reseal(make_store(tmp_path / "s", grids(3)), **change)
        with pytest.raises(StoreError, match=why):
            FeatureStore.open(tmp_path / "s")

    def test_more_ids_than_the_lookup_has(self, tmp_path):
        store = make_store(tmp_path / "s", grids(3))
        counts = json.loads((store / "store.json").read_text())["counts"]
        reseal(store, counts={**counts, "ok": 2**39})
        with pytest.raises(CorruptStoreError, match="112 bytes are no lookup of 549755813888 ids"):
            FeatureStore.open(store)

    def test_a_group_that_is_a_link(self, tmp_path):
        store = make_store(tmp_path / "s", grids(3))
        (store / "features.zarr").rename(tmp_path / "elsewhere")
        (store / "features.zarr").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(CorruptStoreError, match="is a link; a store holds no links"):
            FeatureStore.open(store)

    def test_a_lookup_that_is_a_link(self, tmp_path):
        store = make_store(tmp_path / "s", grids(3))
        (store / "lookup.bin").rename(tmp_path / "elsewhere")
        (store / "lookup.bin").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(
            CorruptStoreError, match=r"lookup\.bin: cannot open it .Too many levels"
        ):
            FeatureStore.open(store)

    @pytest.mark.parametrize("content", ["[" * 100_000, "", "\0", " " * (1 << 23)])
    def test_a_card_beyond_reason(self, tmp_path, content):
        (make_store(tmp_path / "s", grids(3)) / "store.json").write_text(content)
        with pytest.raises(CorruptStoreError, match=r"not valid JSON|more than 4,194,304 bytes"):
            FeatureStore.open(tmp_path / "s")


class TestForgedTables:
    """Tables whose hashes fit, but whose content does not."""

    def forge(self, store, table, column, values):
        path = store / f"{table}.parquet"
        old = pq.read_table(path)
        at = old.schema.get_field_index(column)
        pq.write_table(old.set_column(at, old.schema.field(at), [values]), path)
        reseal(store)
        return FeatureStore.open(store)

    @pytest.mark.parametrize(
        ("path", "first_row", "records"),
        [
            ("../secret", 0, 3),
            ("/etc/passwd", 0, 3),
            ("features.zarr/3x4/grid/../../../c.0.0.0.0", 0, 3),
            ("features.zarr/9x9/grid/c.0.0.0.0", 0, 3),
            ("features.zarr/3x4/grid/c.0.0.0.0", 4, 3),
            ("features.zarr/3x4/grid/c.0.0.0.0", 0, 2**62),
        ],
    )
    def test_a_packing_list_that_points_elsewhere(self, tmp_path, path, first_row, records):
        store = make_store(tmp_path / "s", grids(3))
        self.forge(store, "shards", "path", pa.array([path]))
        self.forge(store, "shards", "first_row", pa.array([first_row]))
        forged = self.forge(store, "shards", "records", pa.array([records]))
        with pytest.raises(CorruptStoreError, match="cannot be the shard of"):
            assert forged.shards

    @pytest.mark.parametrize("ids", [["image000"] * 3, ["image001", "image000", "image002"]])
    def test_ids_twice_or_out_of_order(self, tmp_path, ids):
        forged = self.forge(
            make_store(tmp_path / "s", grids(3)), "index", "image_id", pa.array(ids)
        )
        with pytest.raises(CorruptStoreError, match="ids must be sorted, none empty, none twice"):
            list(forged.index)

    def test_a_null(self, tmp_path):
        store = make_store(tmp_path / "s", grids(3))
        forged = self.forge(store, "index", "reason", pa.array(["", None, ""], pa.string()))
        with pytest.raises(CorruptStoreError, match="holds a null"):
            list(forged.index)

    def test_a_text_that_says_one_gigabyte_a_million_times(self, tmp_path):
        store = make_store(tmp_path / "s", grids(3))
        texts = pa.DictionaryArray.from_arrays(pa.array([0] * 3, pa.int32()), ["x" * 10**8])
        forged = self.forge(store, "index", "reason", texts.cast(pa.string()))
        assert (store / "index.parquet").stat().st_size < 10**7
        with pytest.raises(CorruptStoreError, match="a text of 100,000,000 bytes; expected at mo"):
            list(forged.index)

    @pytest.mark.parametrize("table", ["index", "shards"])
    def test_a_table_that_is_none(self, tmp_path, table):
        store = make_store(tmp_path / "s", grids(3))
        (store / f"{table}.parquet").write_bytes(b"PAR1 and so on")
        reseal(store)
        with pytest.raises(CorruptStoreError, match=f"{table}.parquet: not a readable Parquet fil"):
            list(getattr(FeatureStore.open(store), table))

    def test_a_table_with_other_columns(self, tmp_path):
        store = make_store(tmp_path / "s", grids(3))
        table = pq.read_table(store / "index.parquet").drop_columns(["status"])
        pq.write_table(table, store / "index.parquet")
        reseal(store)
        with pytest.raises(CorruptStoreError, match="columns must be image_id string, status str"):
            list(FeatureStore.open(store).index)
