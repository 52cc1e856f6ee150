"""Stores of regions: boxes, classes and scores beside the cells, read by the same call."""

import shutil
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from refused import refuses
from stores import make_identity

from clipfeat.featstore import (
    CorruptStoreError,
    FeatureStore,
    GridShape,
    MissingRecordError,
    StoreError,
    write_store,
)
from clipfeat.featstore.audit.contents import Depth
from clipfeat.featstore.audit.verify import verify

RNG = np.random.default_rng(0)


def regions_of(count: int, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the arrays of an image of `count` regions."""
    arrays = {
        "grid": RNG.standard_normal((count, 1, 4)).astype(np.float16),
        "pooled": RNG.standard_normal(6).astype(np.float16),
        "boxes": RNG.uniform(0, 640, (count, 4)).astype(np.float32),
        "classes": RNG.integers(0, 1600, count).astype(np.int32),
        "scores": RNG.uniform(0, 1, count).astype(np.float32),
    }
    return {name: array for name, array in arrays.items() if name in ("grid", *names)}


def write_regions(path, names, codec="zstd"):
    """Write a store of images of 1 to 5 regions; return it and its records."""
    records = {f"i{k}": regions_of(1 + k % 5, names) for k in range(8)}
    kinds = tuple(name for name in names if name != "pooled")
    pooled_dim = 6 if "pooled" in names else None
    identity = make_identity(4, codec, pooled_dim=pooled_dim, regions=kinds)
    shapes = {i: GridShape(len(arrays["grid"]), 1) for i, arrays in records.items()}
    shapes["gone"] = GridShape(1, 1)
    sizes = {"i1": (640, 480), "i5": (1, 2**31 - 1)}
    return write_store(path, identity, shapes, records.get, 2, sizes=sizes), records


def test_the_sizes_of_images_are_found_by_id(tmp_path):
    store, _ = write_regions(tmp_path / "s", ("boxes",))
    ids = ["i5", "i0", "i1", "i5"]
    assert store.image_sizes(ids).tolist() == [[1, 2**31 - 1], [0, 0], [640, 480], [1, 2**31 - 1]]
    assert store.image_sizes([]).shape == (0, 2)
    with refuses("E-STORE-NO-RECORD", "'gone' has no record", kind=MissingRecordError):
        store.image_sizes(["gone"])


@pytest.mark.parametrize("codec", ["zstd", "none"])
@pytest.mark.parametrize(
    "names", [("boxes",), ("boxes", "classes"), ("pooled", "boxes", "classes", "scores")]
)
def test_what_was_written_is_read_with_the_features(tmp_path, names, codec):
    store, records = write_regions(tmp_path / "s", names, codec)
    ids = ["i4", "i0", "i3", "i4"]
    batch = store.read(ids)
    for name in ("pooled", "boxes", "classes", "scores"):
        values = getattr(batch, name)
        if name not in names:
            assert values is None
            continue
        for image_id, read in zip(ids, values, strict=True):
            wanted = records[image_id][name]
            count = len(wanted)
            assert np.array_equal(read[:count], wanted)
            assert not read[count:].any()
    assert verify(store.path, Depth.DEEP) == []


def test_other_readers_see_the_arrays_with_their_names(tmp_path):
    store, records = write_regions(tmp_path / "s", ("boxes", "classes", "scores"))
    folder = store.path / "features.zarr/2x1"
    row = next(row for row in store.index if row.image_id == "i1").row
    dims = {"boxes": ("record", "region", "side"), "classes": ("record", "region")}
    for name in ("boxes", "classes", "scores"):
        array: Any = zarr.open_array(folder / name, mode="r")
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / name)}}
        other = tensorstore.open(spec, read=True).result().read().result()
        assert np.array_equal(array[row], records["i1"][name])
        assert np.array_equal(other[row], records["i1"][name])
        assert array.metadata.dimension_names == dims.get(name, ("record", "region"))
    dataset = store.to_xarray("2x1")
    assert np.array_equal(dataset.boxes.sel(record=0), records["i1"]["boxes"])


def test_boxes_of_another_image_are_found(tmp_path):
    names = ("boxes", "classes")
    store, _ = write_regions(tmp_path / "s", names)
    other, _ = write_regions(tmp_path / "t", names)
    shard = "features.zarr/2x1/boxes/c.0.0.0"
    shutil.copy(other.path / shard, store.path / shard)
    with refuses("E-SHARD-DATA", "boxes, classes", kind=CorruptStoreError):
        FeatureStore.open(store.path).read(["i1"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"boxes": np.zeros((1, 4))}, "boxes"),
        ({"grid": np.zeros((2, 2, 4))}, "grid"),
        ({}, "there is none"),
    ],
)
def test_arrays_of_other_shapes_are_refused(tmp_path, change, named):
    record = {
        **{k: v for k, v in regions_of(2, ("boxes",)).items() if change or k == "grid"},
        **change,
    }
    identity = make_identity(4, regions=("boxes",))
    with refuses("E-STORE-RECORD", named, kind=StoreError):
        write_store(tmp_path / "s", identity, {"a": GridShape(2, 1)}, {"a": record}.get)


@pytest.mark.parametrize("regions", [("classes", "boxes"), ("scores", "scores")])
def test_the_parts_of_a_region_have_an_order(regions):
    with refuses("E-STORE-IDENTITY", "identity.regions", kind=StoreError):
        make_identity(4, regions=regions)
