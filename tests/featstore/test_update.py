"""A finished store is updated: old files do not change, readers see the old store or the new."""

from typing import Any

import numpy as np
import pytest
import zarr
from refused import refuses
from stores import (
    encoded_records,
    extend_store,
    make_store,
    shapes_of,
    snapshot,
    write_encoded,
    write_shard,
)

from clipfeat.featstore import FeatureStore, GridShape, MissingRecordError, Status, StoreError
from clipfeat.featstore.audit.contents import Depth
from clipfeat.featstore.audit.verify import verify
from clipfeat.featstore.layout import Grids
from clipfeat.featstore.writing.run import update_layout
from clipfeat.featstore.writing.writer import StoreWriter

RNG = np.random.default_rng(0)
SHAPE = GridShape(2, 3)


def grids(ids, rows=2, cols=3):
    return {i: RNG.standard_normal((rows, cols, 4)).astype(np.float16) for i in ids}


FIRST: dict[str, np.ndarray | None] = {**grids("abcdef"), "gone": None, "lost": None}
MORE = {**grids(["a1", "g", "z"]), **grids(["wide"], 1, 5)}
FOUND = grids(["gone", "lost"])


@pytest.fixture(params=["zstd", "none"])
def store(tmp_path, request):
    return make_store(tmp_path / "s", FIRST, request.param, shape=SHAPE)


def shards_of(path):
    return {name: entry for name, entry in snapshot(path).items() if "/c." in name}


def check(path, records):
    """Every record reads right, by id, in a batch, and through zarr-python; verify is content."""
    assert verify(path, Depth.DEEP) == []
    store = FeatureStore.open(path)
    group: Any = zarr.open_group(path / "features.zarr", mode="r")
    arrays = {str(shape): group[f"{shape}/grid"] for shape in store.grid_shapes}
    for shape, array in arrays.items():
        assert array.shape[0] == store.metadata.grid_shapes[shape]
    assert [row.image_id for row in store.index] == sorted(records)
    for row in store.index:
        grid = records[row.image_id]
        if grid is None:
            with refuses("E-STORE-NO-RECORD", "missing, no such", kind=MissingRecordError):
                store[row.image_id]
        else:
            assert store[row.image_id].tobytes() == grid.tobytes()
            assert arrays[row.shape][row.row].tobytes() == grid.tobytes()
    return store


def test_appended_ids_leave_every_old_file_as_it_was(store):
    before, old = FeatureStore.open(store), shards_of(store)
    records = {**FIRST, **MORE}
    extend_store(store, records)
    now = check(store, records)
    assert now.metadata.parents == (before.digest,) != [now.digest]
    assert now.metadata.grid_shapes == {"1x5": 1, "2x3": 11}  # 8 rows, then 3
    assert {name: shards_of(store)[name] for name in old} == old
    assert now.table_path("index").name == "index.1.parquet"
    assert not (store / "index.parquet").exists()


def test_an_open_reader_still_reads_what_it_has_opened(store):
    reader = FeatureStore.open(store)
    extend_store(store, {**FIRST, **MORE})
    assert reader["a"].tobytes() == FIRST["a"].tobytes()  # pyright: ignore
    assert "z" not in reader


def test_ids_without_a_record_are_tried_again_behind_all_others(store):
    before, old = FeatureStore.open(store), shards_of(store)
    records = {**FIRST, **FOUND}
    assert extend_store(store, records).digest == before.digest  # without retry: nothing to do
    extend_store(store, records, retry={"missing"})
    now = check(store, records)
    assert now.metadata.parents == (before.digest,)
    assert now.metadata.counts[Status.MISSING] == 0
    assert {name: shards_of(store)[name] for name in old} == old
    rows = {row.image_id: row.row for row in now.index}
    assert rows["gone"] >= 8
    assert rows["lost"] >= 8


def test_an_id_may_be_tried_again_more_than_once(store):
    for image_id in ("gone", "lost"):
        records = {**FIRST, **{i: g for i, g in FOUND.items() if i <= image_id}}
        extend_store(store, records, retry={"missing"})
        check(store, records)


def test_only_the_statuses_asked_for_are_tried_again(store):
    layout = update_layout(
        FeatureStore.open(store),
        Grids.of(dict.fromkeys(FIRST, SHAPE)),
        retry={"failed", "undecodable"},
    )
    assert layout.shards == ()


@pytest.mark.parametrize("retry_first", [True, False])
def test_updates_upon_updates(store, retry_first):
    steps: list[dict[str, np.ndarray | None]] = [{**FIRST, **MORE}]
    steps += [{**steps[-1], **FOUND}, {**steps[-1], **FOUND, **grids(["h", "i", "j", "k", "l"])}]
    if retry_first:
        steps[0] = {**FIRST, **FOUND}
        steps[1] = {**steps[0], **MORE}
        steps[2] = {**steps[1], **grids(["h", "i", "j", "k", "l"])}
    digest = FeatureStore.open(store).digest
    for generation, records in enumerate(steps, 1):
        old = shards_of(store)
        extend_store(store, records, retry={"missing"})
        now = check(store, records)
        assert now.metadata.parents == (digest,)
        assert now.metadata.generation == generation
        assert {name: shards_of(store)[name] for name in old} == old
        digest = now.digest


def test_a_dropped_shard_of_a_store_that_has_grown_comes_back_the_same(store):
    records = {**FIRST, **MORE, **FOUND}
    extend_store(store, {**FIRST, **MORE})
    digest = extend_store(store, records, retry={"missing"}).digest
    for shard in FeatureStore.open(store).shards:
        content = (store / shard.path).read_bytes()
        (store / shard.path).unlink()
        assert [problem.path for problem in verify(store)] == [shard.path]
        assert extend_store(store, records).digest == digest
        assert (store / shard.path).read_bytes() == content
        check(store, records)


def test_a_shard_whose_ids_have_all_moved_away_is_written_again_too(tmp_path):
    first = {**dict.fromkeys("abcd"), **grids("efgh")}
    path = make_store(tmp_path / "s", first, shape=SHAPE)
    full = {**first, **grids("abcd")}
    store = extend_store(path, full, retry=["missing"])
    (path / "features.zarr/2x3/grid/c.0.0.0.0").unlink()
    assert [p.ids for p in verify(path)] == [()]
    assert extend_store(path, full).digest == store.digest
    check(path, full)


def test_a_store_that_has_lost_every_record_is_a_store_and_grows_again(tmp_path):
    """As where the shards were broken, and the images are gone too."""
    full, gone = grids("abcdef"), dict.fromkeys("abcdef")
    path = make_store(tmp_path / "s", full)
    for shard in FeatureStore.open(path).shards:
        (path / shard.path).unlink()
    empty = extend_store(path, gone)
    assert (len(empty), bool(empty)) == (0, True)
    store = extend_store(path, full, retry={"missing"})
    assert store.metadata.parents[-1] == empty.digest
    check(path, full)


def test_dropped_shards_and_new_ids_in_one_update(store):
    first = FeatureStore.open(store)
    content = (store / first.shards[0].path).read_bytes()
    (store / first.shards[0].path).unlink()
    records = {**FIRST, **MORE, **FOUND}
    extend_store(store, records, retry={"missing"})
    check(store, records)
    # The missing ids of the shard that was written again were found there, where they were.
    assert (store / first.shards[0].path).read_bytes() != b"" != content


def test_an_interrupted_update_is_resumed_and_the_old_store_reads_meanwhile(store):
    before = FeatureStore.open(store)
    records = {**FIRST, **MORE}
    encoded = encoded_records(before.identity, records)
    layout = update_layout(before, Grids.of(shapes_of(records, SHAPE)))
    with StoreWriter(store, before.identity, layout, parent=before) as writer:
        write_shard(store, before.identity, layout, writer.pending[0], encoded)
    assert FeatureStore.open(store).digest == before.digest
    assert FeatureStore.open(store)["a"].tobytes() == records["a"].tobytes()  # pyright: ignore
    assert "journal" in {problem.path for problem in verify(store)}
    with StoreWriter(store, before.identity, layout, parent=before) as writer:
        assert len(writer.pending) == len(layout.shards) - 1
    write_encoded(store, before.identity, layout, encoded, parent=before)
    check(store, records)


def test_an_update_that_is_rolled_back_leaves_the_store_as_it_was(store):
    before = FeatureStore.open(store)
    records = {**FIRST, **MORE}
    layout = update_layout(before, Grids.of(shapes_of(records, SHAPE)))
    with StoreWriter(store, before.identity, layout, parent=before) as writer:
        encoded = encoded_records(before.identity, records)
        write_shard(store, before.identity, layout, writer.pending[0], encoded)
        writer.rollback()
    assert check(store, FIRST).digest == before.digest


def test_an_update_of_a_store_that_has_been_updated_since_is_refused(store):
    before = FeatureStore.open(store)
    records = {**FIRST, **MORE}
    layout = update_layout(before, Grids.of(shapes_of(records, SHAPE)))
    extend_store(store, records)
    with (
        refuses("E-STORE-OVERTAKEN", kind=StoreError),
        StoreWriter(store, before.identity, layout, parent=before),
    ):
        pass
    check(store, records)


def test_ids_may_not_be_left_out(store):
    shapes = dict.fromkeys(["a", "b"], SHAPE)
    with refuses("E-STORE-IDS", "holds 6 images", "such as 'c'", kind=StoreError):
        update_layout(FeatureStore.open(store), Grids.of(shapes))
