"""Other readers of Zarr read what we write, and we read what zarr-python writes."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
import tensorstore
import zarr
from stores import make_identity, make_pooled_store
from zarr.codecs import BytesCodec, Crc32cCodec, TransposeCodec, ZstdCodec

from clipfeat.featstore import FeatureStore
from clipfeat.featstore.audit.verify import verify

RNG = np.random.default_rng(0)


@pytest.fixture(params=["zstd", "none"])
def codec(request):
    return request.param


@pytest.fixture(params=[("float16", "channels_first"), ("float32", "channels_last")])
def made(tmp_path, codec, request):
    """A store of two grid shapes with pooled vectors and a missing image, and its numbers."""
    dtype, order = request.param
    values = RNG.standard_normal(40).astype(dtype)  # few, so that zstd finds something

    records: dict[str, np.ndarray | None] = {"gone": None}
    records |= {f"a{k}": RNG.choice(values, (3, 4, 8)) for k in range(11)}
    records |= {f"b{k}": RNG.choice(values, (2, 5, 8)) for k in range(6)}
    pooled = {image_id: RNG.choice(values, 6) for image_id in records}
    identity = make_identity(8, codec, dtype=dtype, pooled_dim=6, order=order)
    return make_pooled_store(tmp_path / "s", identity, records, pooled, 4), records, pooled


def by_zarr_python(path):
    array: Any = zarr.open_array(path, mode="r")
    return array[:]


def by_zarrs(path):
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return by_zarr_python(path)


def by_tensorstore(path):
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    return tensorstore.open(spec, read=True).result().read().result()


@pytest.mark.parametrize("read", [by_zarr_python, by_zarrs, by_tensorstore])
def test_another_reader_gives_the_very_same_bytes(made, read):
    path, records, pooled = made
    store = FeatureStore.open(path)
    arrays = {
        (str(shape), name): read(path / f"features.zarr/{shape}/{name}")
        for shape in store.grid_shapes
        for name in ("grid", "pooled")
    }
    assert {array.dtype for array in arrays.values()} == {store.identity.numpy_dtype}
    for row in store.index:
        for name, wanted in (("grid", records), ("pooled", pooled)):
            record = arrays[row.shape, name][row.row]
            if row.status == "ok":
                assert record.tobytes() == wanted[row.image_id].tobytes()
            else:
                assert not record.any()  # the fill value
        if row.status == "ok":
            assert store[row.image_id].tobytes() == records[row.image_id].tobytes()


def test_zarr_python_sees_the_names_and_the_shards(made):
    group: Any = zarr.open_group(made[0] / "features.zarr", mode="r")
    assert sorted(group.group_keys()) == ["1x1", "2x5", "3x4"]
    array = group["3x4/grid"]
    assert (array.shape, array.chunks, array.shards) == ((11, 3, 4, 8), (1, 3, 4, 8), (4, 3, 4, 8))
    assert array.metadata.dimension_names == ("record", "row", "col", "dim")
    assert group["3x4/pooled"].metadata.dimension_names == ("record", "dim")


def test_what_zarr_python_writes_with_the_same_metadata_reads_here(made, tmp_path, codec):
    path, records, pooled = made
    for shape in ("3x4", "2x5"):
        for name in ("grid", "pooled"):
            rewrite_with_zarr_python(
                path / f"features.zarr/{shape}/{name}", tmp_path / "theirs", codec
            )
    store = FeatureStore.open(path)
    assert len(store.ids) == 17
    for image_id in store.ids:
        batch = store.read([image_id])
        assert batch.features.tobytes() == records[image_id].tobytes()
        assert batch.pooled is not None
        assert batch.pooled.tobytes() == pooled[image_id].tobytes()
    # Their shards hold the same records at other offsets: other files, the same features.
    assert all(problem.path.split("/")[-1].startswith("c.") for problem in verify(path))


def rewrite_with_zarr_python(folder, scratch, codec):
    """Replace the shards of an array by those that zarr-python writes with the same settings."""
    original: Any = zarr.open_array(folder, mode="r")
    codecs = json.loads((folder / "zarr.json").read_text())["codecs"][0]["configuration"]["codecs"]
    turned = [codec["configuration"]["order"] for codec in codecs if codec["name"] == "transpose"]
    rewritten: Any = zarr.create_array(
        scratch,
        shape=original.shape,
        dtype=original.dtype,
        chunks=original.chunks,
        shards=original.shards,
        filters=[TransposeCodec(order=order) for order in turned],
        serializer=BytesCodec(endian="little"),
        compressors=[ZstdCodec(level=1, checksum=True) if codec == "zstd" else Crc32cCodec()],
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=original.metadata.dimension_names,
        fill_value=0.0,
    )
    rewritten[:] = original[:]
    assert rewritten.metadata.to_dict()["codecs"] == original.metadata.to_dict()["codecs"]
    names = sorted(path.name for path in scratch.glob("c.*"))
    assert names == sorted(path.name for path in folder.glob("c.*"))
    for name in names:
        shutil.copy(scratch / name, folder / name)
    shutil.rmtree(scratch)
