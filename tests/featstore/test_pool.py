"""Pooled stores: means of cells by hand, without padding, in a recipe of their own."""

import math

import numpy as np
import pytest
from refused import refuses
from stores import make_identity, make_store
from test_areas import SMALL

from clipfeat.base.errors import UsageError
from clipfeat.featstore import (
    Depth,
    FeatureStore,
    GridShape,
    IndexRow,
    Status,
    convert,
    merge,
    pool,
    subset,
    verify,
    write_store,
)
from clipfeat.featstore.deriving.pool import adaptive_average
from clipfeat.featstore.layout import Grids, lay_out
from clipfeat.featstore.shards import RecordHashes
from clipfeat.featstore.writing.writer import ShardTransaction, StoreWriter, encode_record

RNG = np.random.default_rng(0)
DIM = 3


def by_hand(grid: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the means of a grid (row, col, dim), cell by cell, in float64."""
    rows, cols = grid.shape[:2]
    means = np.zeros((*shape, grid.shape[2]))
    for i in range(shape[0]):
        for j in range(shape[1]):
            cells = [
                grid[row, col].astype(np.float64)
                for row in range(rows)
                for col in range(cols)
                if math.floor(i * rows / shape[0]) <= row < math.ceil((i + 1) * rows / shape[0])
                and math.floor(j * cols / shape[1]) <= col < math.ceil((j + 1) * cols / shape[1])
            ]
            means[i, j] = np.mean(cells, axis=0)
    return means


@pytest.mark.parametrize(
    ("size", "shape"),
    [((14, 14), (7, 7)), ((9, 12), (7, 7)), ((5, 7), (2, 3)), ((3, 2), (4, 5)), ((4, 4), (1, 1))],
)
def test_means_are_those_worked_by_hand(size, shape):
    grid = RNG.standard_normal((*size, DIM)).astype(np.float16)
    means = adaptive_average(grid, GridShape(*shape))
    assert means.dtype == np.float32
    assert np.allclose(means, by_hand(grid, shape), rtol=1e-6, atol=1e-6)


def test_sums_are_not_rounded_to_float16():
    grid = np.full((64, 64, 1), 33.0, np.float16)  # their sum is beyond float16
    assert adaptive_average(grid, GridShape(1, 1)).item() == 33


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A store of two grid shapes, with pooled vectors and an id without a record."""
    identity = make_identity(DIM, pooled_dim=2)
    records = {
        f"i{k}": {
            "grid": RNG.standard_normal(((4, 6), (5, 4))[k % 2] + (DIM,)).astype(np.float16),
            "pooled": RNG.standard_normal(2).astype(np.float16),
        }
        for k in range(9)
    }
    shapes = {image_id: GridShape(*r["grid"].shape[:2]) for image_id, r in records.items()}
    path = tmp_path_factory.mktemp("p") / "s"
    return write_store(path, identity, {**shapes, "gone": GridShape(1, 1)}, records.get, 4)


def test_all_grids_have_the_new_shape(source, tmp_path):
    store = pool(source, tmp_path / "o", GridShape(2, 3))
    assert store.metadata.grid_shapes == {"2x3": 10}
    assert store.ids == source.ids
    assert store.statuses(["gone"]) == [Status.MISSING]
    for image_id in store.ids:
        expected = by_hand(source[image_id], (2, 3)).astype(np.float16)
        assert np.allclose(store[image_id], expected, rtol=1e-3, atol=1e-4)
    assert np.array_equal(store.pooled(store.ids), source.pooled(store.ids))
    assert verify(store.path, Depth.DEEP) == []


def test_identity_says_that_it_is_pooled(source, tmp_path):
    store = pool(source, tmp_path / "o", GridShape(2, 2))
    identity = store.identity
    assert identity.recipe == {
        "name": "test, pooled to 2x2",
        "pool": [2, 2],
        "recipe": source.identity.recipe,
    }
    origin = identity.derived_from
    assert origin is not None
    assert (origin.digest, origin.operation) == (source.digest, "pool")
    assert origin.settings == {"shape": "2x2"}
    assert store.metadata.loss is None
    parts = [subset(store, tmp_path / k, ids=[k]) for k in ("i1", "i2")]
    assert merge(parts, tmp_path / "m").ids == ("i1", "i2")
    with refuses("E-MERGE-IDENTITY", "recipe"):
        merge([store, source], tmp_path / "n")


@pytest.mark.parametrize("options", [{"dtype": "uint8"}, {"mantissa_bits": 5}], ids=str)
def test_numbers_of_the_parent_stay(source, tmp_path, options):
    few = convert(source, tmp_path / "few", **options)
    store = pool(few, tmp_path / "o", GridShape(2, 2))
    for key in ("dtype", "mantissa_bits", "scale_sha256"):
        assert getattr(store.identity, key) == getattr(few.identity, key)
    for image_id in store.ids:
        expected = by_hand(few[image_id], (2, 2))
        if few.scale is None:
            raw = store[image_id].view(np.uint16)
            assert not (raw & 0b11111).any()
            assert np.allclose(store[image_id], expected, rtol=2**-6, atol=1e-6)
        else:
            assert (np.abs(store[image_id] - expected) <= few.scale.step * 0.51 + 2e-3).all()
    assert verify(store.path, Depth.DEEP) == []


def test_padding_is_left_out(tmp_path):
    """96 x 64 pixels fill the grid of 2 x 3 cells, 20 x 64 lie in its middle column."""
    identity = make_identity(1, recipe=SMALL)
    sizes = {"tall": (20, 64), "unknown": (0, 0), "whole": (96, 64)}
    shape = GridShape(2, 3)
    grid = np.arange(6, dtype=np.float16).reshape(2, 3, 1)
    layout = lay_out(Grids.of(dict.fromkeys(sizes, shape)), 4)
    with StoreWriter(tmp_path / "s", identity, layout) as writer:
        (shard,) = writer.pending
        with ShardTransaction(tmp_path / "s", identity, 4, shard, {}) as files:
            rows = []
            for position, image_id in enumerate(shard.ids):
                encoded = encode_record(identity, shape, {"grid": grid})
                files.append(position, encoded)
                place = (image_id, Status.OK, "", "2x3", position, *sizes[image_id], "", image_id)
                rows.append(IndexRow(*place, *RecordHashes.of(encoded.values())))
            files.commit(tuple(rows))
        source = writer.commit()
    store = pool(source, tmp_path / "o", GridShape(1, 1))
    for image_id in sizes:
        real = grid[source.mask(image_id)].astype(np.float64)
        assert store[image_id].item() == real.mean(), image_id
    assert source.mask("tall").tolist() == [[False, True, False]] * 2
    assert store.metadata.areas == ()
    assert store.read(sorted(sizes)).mask.all()
    assert verify(store.path, Depth.DEEP) == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"recipe": {"views": 36}}, "views"), ({"regions": ("boxes",)}, "regions")],
)
def test_cells_without_neighbours_are_refused(tmp_path, changes, word):
    record: dict[str, np.ndarray] = {"grid": np.ones((36, 1, 2), np.float16)}
    if "regions" in changes:
        record["boxes"] = np.zeros((36, 4), np.float32)
    shapes = {"a": GridShape(36, 1)}
    source = write_store(tmp_path / "s", make_identity(2, **changes), shapes, {"a": record}.get)
    with refuses("E-POOL-CELLS", word, kind=UsageError):
        pool(source, tmp_path / "o", GridShape(6, 1))
    assert not (tmp_path / "o").exists()


def test_a_number_that_is_not_finite_is_refused(tmp_path):
    grid = np.full((2, 2, 1), np.nan, np.float16)
    source = FeatureStore.open(make_store(tmp_path / "s", {"a": grid}))
    with refuses("E-STORE-RANGE"):
        pool(source, tmp_path / "o", GridShape(1, 1))


def test_more_cells_than_any_grid_has_are_refused(source, tmp_path):
    with refuses("E-POOL-SHAPE", "24 cells", kind=UsageError):
        pool(source, tmp_path / "o", GridShape(5, 5))
    assert not (tmp_path / "o").exists()
