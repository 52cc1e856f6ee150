"""Whatever changes in a store is found, and a changed record never reads."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import reseal
from stores import make_store

from clipfeat.featstore import CorruptStoreError, FeatureStore
from clipfeat.featstore.verify import verify

RECORDS = {
    f"i{k}": np.random.default_rng(k).standard_normal((2, 3, 16)).astype(np.float16)
    for k in range(10)
}
SHARD = "features.zarr/2x3/grid/c.1.0.0.0"


@pytest.fixture(params=["zstd", "none"])
def store(tmp_path, request):
    return make_store(tmp_path / "s", RECORDS, request.param)


def problems(store):
    return [(p.path, p.problem.split()[0]) for p in verify(store)]


def test_a_store_as_written_has_no_problem(store):
    assert problems(store) == []


def test_a_flipped_bit_anywhere_in_a_shard_is_found_and_never_read(store):
    path = store / SHARD
    content = bytearray(path.read_bytes())
    for bit in map(int, np.random.default_rng(0).choice(len(content) * 8, 60, replace=False)):
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        assert problems(store) == [(SHARD, "sha256")]
        fresh = FeatureStore.open(store)
        wrong = 0
        for image_id, grid in RECORDS.items():
            try:
                np.testing.assert_array_equal(fresh[image_id], grid)
            except CorruptStoreError:
                wrong += 1
        assert wrong >= 1
        content[bit // 8] ^= 1 << bit % 8


def test_two_shards_swapped(store):
    other = store / "features.zarr/2x3/grid/c.0.0.0.0"
    content = other.read_bytes()
    shutil.copy(store / SHARD, other)
    (store / SHARD).write_bytes(content)
    assert [path for path, _ in problems(store)] == [
        "features.zarr/2x3/grid/c.0.0.0.0",
        SHARD,
    ]


@pytest.mark.parametrize("length", [0, 10, -1])
def test_a_truncated_shard(store, length):
    content = (store / SHARD).read_bytes()
    (store / SHARD).write_bytes(content[:length])
    assert problems(store) == [(SHARD, "has")]
    with pytest.raises(CorruptStoreError, match=r"are no shard|does not match its crc32c"):
        FeatureStore.open(store)["i5"]


def test_a_deleted_shard(store):
    (store / SHARD).unlink()
    assert problems(store) == [(SHARD, "the")]
    with pytest.raises(CorruptStoreError, match="cannot open the shard"):
        FeatureStore.open(store)["i5"]


def test_a_shard_that_is_a_link_out_of_the_store(store, tmp_path):
    shutil.move(store / SHARD, tmp_path / "outside")
    (store / SHARD).symlink_to(tmp_path / "outside")
    assert problems(store) == [(SHARD, "the")]
    with pytest.raises(CorruptStoreError, match="cannot open the shard"):
        FeatureStore.open(store)["i5"]


def test_a_file_too_many(store):
    (store / "features.zarr/2x3/grid/c.9.0.0.0").write_bytes(b"")
    assert problems(store) == [("features.zarr/2x3/grid/c.9.0.0.0", "does")]


def test_changed_zarr_metadata(store):
    path = store / "features.zarr/2x3/grid/zarr.json"
    path.write_text(path.read_text().replace('"little"', '"big"'))
    assert problems(store) == [("features.zarr/2x3/grid/zarr.json", "is")]


def test_an_index_that_gives_one_image_the_features_of_another(store):
    path = store / "index.parquet"
    table = pq.read_table(path)
    rows = table["row"].to_pylist()
    rows[0], rows[1] = rows[1], rows[0]
    pq.write_table(table.set_column(4, "row", pa.array(rows, pa.int64())), path)
    assert problems(store) == [("index.parquet", "sha256")]
    with pytest.raises(CorruptStoreError, match="has changed: its sha256 is not the one in"):
        next(FeatureStore.open(store).index)
    reseal(store)
    assert problems(store) == [("store.json", "digest"), ("lookup.bin", "is")]


def test_counts_that_are_not_those_of_the_index(store):
    counts = json.loads((store / "store.json").read_text())["counts"]
    reseal(store, counts={**counts, "ok": counts["ok"] - 1, "missing": 1})
    assert problems(store) == [("store.json", "counts")]


def test_another_digest_in_the_card(store):
    reseal(store, digest="0" * 64)
    assert problems(store) == [("store.json", "digest")]


def test_a_card_with_other_spaces_is_not_as_it_was_written(store):
    card = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps(card))
    assert problems(store) == [("store.json", "is")]
