"""Whatever changes in a store is found, and a changed record never reads as another value."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hostile import forge_column, reseal
from refused import refuses
from stores import extend_store, files_of, make_identity, make_pooled_store, make_store

from clipfeat.featstore import CorruptStoreError, FeatureStore, StoreError
from clipfeat.featstore.audit.verify import verify
from clipfeat.featstore.shards import decode_index, encode, encode_index, index_bytes

RNG = np.random.default_rng(0)
FLIPS = 250  # for each codec
# Two grid shapes, pooled vectors, two missing images, a short last shard: 24 files, 7 KB.
TINY = {f"t{k}": RNG.standard_normal((1, 2, 4)).astype(np.float16) for k in range(5)}
TINY |= {f"u{k}": RNG.standard_normal((2, 1, 4)).astype(np.float16) for k in range(3)}
TINY |= {"gone": None, "lost": None}
POOLED = {i: RNG.standard_normal(3).astype(np.float16) for i in TINY}

RECORDS = {
    f"i{k}": np.random.default_rng(k).standard_normal((2, 3, 16)).astype(np.float16)
    for k in range(10)
}
SHARD = "features.zarr/2x3/grid/c.1.0.0.0"
OTHER_SHARD = "features.zarr/2x3/grid/c.0.0.0.0"


@pytest.fixture(params=["zstd", "none"])
def codec(request):
    return request.param


@pytest.fixture
def store(tmp_path, codec):
    return make_store(tmp_path / "s", RECORDS, codec)


@pytest.fixture
def tiny(tmp_path, codec):
    identity = make_identity(4, codec, pooled_dim=3)
    return make_pooled_store(tmp_path / "tiny", identity, TINY, POOLED, 2)


def problems(store):
    return [(p.path, p.problem.split()[0]) for p in verify(store)]


def is_found(store):
    """Return whether verify reports something or refuses the store."""
    try:
        return bool(verify(store))
    except StoreError:
        return True


def readable(path, pooled=POOLED, records=TINY):
    """Read every id on its own, and all at once: return the ids that could be read.

    Each gives the very bytes that were written or raises StoreError, and nothing else.
    """
    try:
        store = FeatureStore.open(path)
    except StoreError:
        return set()
    read = set()
    for image_id, grid in records.items():
        try:
            batch = store.read([image_id])
        except StoreError:
            continue
        assert grid is not None, f"{image_id} has no record"
        assert batch.features.tobytes() == grid.tobytes()
        assert batch.pooled is None or batch.pooled.tobytes() == pooled[image_id].tobytes()
        read.add(image_id)
    ids = [i for i, grid in records.items() if grid is not None]
    try:
        batch = store.read(ids)
    except StoreError:
        assert read < set(ids)
    else:
        assert read == set(ids)
        for image_id, features, mask in zip(ids, batch.features, batch.mask, strict=True):
            assert features[mask].tobytes() == records[image_id].tobytes()
    return read


def in_shard(path, name):
    """Return the ids whose records lie in a shard file."""
    store = FeatureStore.open(path)
    shard = next(shard for shard in store.shards if shard.path == name)
    rows = range(shard.first_row, shard.first_row + shard.records)
    return {r.image_id for r in store.index if r.shape == shard.shape and r.row in rows}


def is_shard(name):
    return name.split("/")[-1].startswith("c.")


def test_a_store_as_written_has_no_problem(store, tiny):
    assert problems(store) == problems(tiny) == []
    assert readable(tiny) == {i for i, grid in TINY.items() if grid is not None}


def test_a_flipped_bit_in_any_file_is_found_and_never_gives_other_values(tiny):
    rng = np.random.default_rng(1)
    names = files_of(tiny)
    assert {"store.json", "index.parquet", "shards.parquet", "lookup.bin"} < set(names)
    for number in range(FLIPS):
        path = tiny / names[number % len(names)]
        content = path.read_bytes()
        bit = int(rng.integers(len(content) * 8))
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert is_found(tiny), f"bit {bit} of {path}"
        readable(tiny)
        path.write_bytes(content)
    assert problems(tiny) == []


def test_a_file_cut_short_is_found_and_its_records_do_not_read(tiny):
    everything = readable(tiny)
    for name in files_of(tiny):
        content = (tiny / name).read_bytes()
        lost = in_shard(tiny, name) if is_shard(name) else set()
        for length in (0, 1, len(content) // 2, len(content) - 1):
            (tiny / name).write_bytes(content[:length])
            assert is_found(tiny), f"{name} cut to {length} bytes"
            read = readable(tiny)
            if is_shard(name):
                assert read == everything - lost
            elif name in ("store.json", "lookup.bin"):
                assert read == set()
            else:
                assert read == everything
        (tiny / name).write_bytes(content)
    assert problems(tiny) == []


def test_bytes_behind_the_end_of_a_file_are_found(tiny):
    for name in files_of(tiny):
        content = (tiny / name).read_bytes()
        (tiny / name).write_bytes(content + b"\0")
        assert is_found(tiny), name
        readable(tiny)
        (tiny / name).write_bytes(content)


def test_a_deleted_file_is_found_and_its_records_do_not_read(tiny, tmp_path):
    everything = readable(tiny)
    for name in files_of(tiny):
        lost = in_shard(tiny, name) if is_shard(name) else set()
        (tiny / name).rename(tmp_path / "aside")
        assert is_found(tiny), name
        assert name == "store.json" or name in {p.path for p in verify(tiny)}
        read = readable(tiny)
        opens = name not in ("store.json", "lookup.bin")
        assert read == (everything - lost if opens else set())
        (tmp_path / "aside").rename(tiny / name)
    assert problems(tiny) == []


@pytest.mark.parametrize(
    "name",
    [
        "thumbs.db",
        ".hidden",
        "index.1.parquet",  # a table of another generation
        "notes/mine.txt",
        "features.zarr/c.0.0.0.0",
        "features.zarr/1x2/grid/c.9.0.0.0",
        "features.zarr/1x2/more/zarr.json",
        "features.zarr/1x2/grid/.zarr.json.0123456789abcdef.tmp",
    ],
)
def test_a_file_too_many_is_named(store, name):
    (store / name).parent.mkdir(parents=True, exist_ok=True)
    (store / name).write_bytes(b"")
    assert problems(store) == [(name, "does")]


@pytest.mark.parametrize("array", ["grid/c.{}.0.0.0", "pooled/c.{}.0"])
def test_two_shards_swapped_do_not_read(tiny, array):
    one, two = (f"features.zarr/1x2/{array.format(k)}" for k in (0, 1))
    lost = in_shard(tiny, one) | in_shard(tiny, two)
    if FeatureStore.open(tiny).identity.codec == "none":
        assert (tiny / one).stat().st_size == (tiny / two).stat().st_size
    everything = readable(tiny)
    content = (tiny / one).read_bytes()
    shutil.copy(tiny / two, tiny / one)
    (tiny / two).write_bytes(content)
    assert [path for path, _ in problems(tiny)] == [one, two]
    assert readable(tiny) == everything - lost
    for image_id in lost & everything:
        with refuses("E-SHARD-DATA", kind=CorruptStoreError):
            FeatureStore.open(tiny).read([image_id])


def test_two_records_swapped_within_a_shard_do_not_read(store):
    path = store / SHARD
    content = path.read_bytes()
    index = decode_index(content[-index_bytes(4) :], len(content)).copy()
    index[[0, 1]] = index[[1, 0]]
    path.write_bytes(content[: -index_bytes(4)] + encode_index(index))
    assert problems(store) == [(SHARD, "sha256")]
    for image_id in ("i4", "i5"):
        with refuses("E-SHARD-DATA", kind=CorruptStoreError):
            FeatureStore.open(store)[image_id]
    assert FeatureStore.open(store)["i6"].tobytes() == RECORDS["i6"].tobytes()


def test_the_swapped_record_of_another_image_is_refused_without_verify_too(tmp_path):
    path = make_store(tmp_path / "s", RECORDS, "none")
    content = (path / SHARD).read_bytes()
    (path / SHARD).write_bytes((path / OTHER_SHARD).read_bytes())
    with refuses("E-SHARD-DATA", kind=CorruptStoreError):
        FeatureStore.open(path, verify=False)["i5"]
    changed = bytearray(content)
    changed[0] ^= 1
    (path / SHARD).write_bytes(changed)
    assert FeatureStore.open(path, verify=False)["i4"].tobytes() != RECORDS["i4"].tobytes()
    with refuses("E-SHARD-DATA", kind=CorruptStoreError):
        FeatureStore.open(path)["i4"]


@pytest.mark.parametrize(
    ("length", "code", "name"),
    [
        (0, "E-SHARD-SIZE", "0 bytes"),
        (10, "E-SHARD-SIZE", "10 bytes"),
        (-1, "E-SHARD-INDEX", "crc32c"),
    ],
)
def test_a_truncated_shard_says_so(store, length, code, name):
    content = (store / SHARD).read_bytes()
    (store / SHARD).write_bytes(content[:length])
    assert problems(store) == [(SHARD, "has")]
    with refuses(code, name, kind=CorruptStoreError):
        FeatureStore.open(store)["i5"]


def test_changed_zarr_metadata(store):
    path = store / "features.zarr/2x3/grid/zarr.json"
    path.write_text(path.read_text().replace('"little"', '"big"'))
    assert problems(store) == [("features.zarr/2x3/grid/zarr.json", "is")]


def test_a_store_of_a_future_format_is_not_guessed_at(store):
    reseal(store, format=3)
    with refuses("E-STORE-FORMAT", "format 3", "format 2", kind=StoreError):
        verify(store)


class TestTablesFromElsewhere:
    """Files that are sound, but not those of this store."""

    @pytest.fixture
    def versions(self, tmp_path, codec):
        """A store as it was, and as it is after an update that keeps the number of ids."""
        before = {**RECORDS, "j0": None}
        after = {**RECORDS, "j0": np.ones((2, 3, 16), np.float16)}
        path = make_store(tmp_path / "s", before, codec)
        shutil.copytree(path, tmp_path / "old")
        extend_store(path, after, retry={"missing"})
        assert problems(path) == []
        return tmp_path / "old", path, after

    @pytest.mark.parametrize(
        ("old_file", "file"),
        [
            ("index.parquet", "index.1.parquet"),
            ("shards.parquet", "shards.1.parquet"),
            ("lookup.bin", "lookup.1.bin"),
        ],
    )
    def test_a_stale_table_is_found(self, versions, old_file, file):
        old, path, after = versions
        shutil.copy(old / old_file, path / file)
        assert file in {p.path for p in verify(path)}
        read = readable(path, records=after)
        assert read == (set(RECORDS) if file == "lookup.1.bin" else set(after))

    def test_a_stale_store_json_is_found(self, versions):
        old, path, _ = versions
        shutil.copy(old / "store.json", path / "store.json")
        assert problems(path) != []
        with refuses("E-STORE-FILE", "lookup.bin", kind=CorruptStoreError):
            FeatureStore.open(path)

    def test_stale_zarr_metadata_is_found(self, versions):
        old, path, _ = versions
        name = "features.zarr/2x3/grid/zarr.json"
        shutil.copy(old / name.replace("2x3", "1x1"), path / name)
        assert problems(path) == [(name, "is")]

    @pytest.mark.parametrize("file", ["index.parquet", "shards.parquet", "lookup.bin"])
    def test_a_table_of_another_store_with_the_same_ids_is_found(self, tmp_path, codec, file):
        path = make_store(tmp_path / "s", RECORDS, codec)
        other = {image_id: grid + 1 for image_id, grid in RECORDS.items()}
        shutil.copy(make_store(tmp_path / "other", other, codec) / file, path / file)
        assert (file, "sha256") in problems(path) or file == "shards.parquet"
        assert is_found(path)
        assert readable(path, records=RECORDS) == (set() if file == "lookup.bin" else set(RECORDS))

    def test_a_shard_of_another_store_with_the_same_ids_does_not_read(self, tmp_path, codec):
        path = make_store(tmp_path / "s", RECORDS, codec)
        other = {image_id: -grid for image_id, grid in RECORDS.items()}
        shutil.copy(make_store(tmp_path / "other", other, codec) / SHARD, path / SHARD)
        assert [name for name, _ in problems(path)] == [SHARD]
        assert readable(path, records=RECORDS) == {"i0", "i1", "i2", "i3", "i8", "i9"}


class TestResealed:
    """Changes after which every hash of the store fits again."""

    def test_an_index_that_gives_one_image_the_features_of_another(self, store):
        rows = pq.read_table(store / "index.parquet")["row"].to_pylist()
        rows[0], rows[1] = rows[1], rows[0]
        forge_column(store, "index", "row", rows)
        assert problems(store) == [("store.json", "digest"), ("lookup.bin", "is")]

    def test_counts_that_are_not_those_of_the_index(self, store):
        counts = json.loads((store / "store.json").read_text())["counts"]
        reseal(store, counts={**counts, "ok": counts["ok"] - 1, "missing": 1})
        assert problems(store) == [("store.json", "counts")]

    def test_another_digest_in_store_json(self, store):
        reseal(store, digest="0" * 64)
        assert problems(store) == [("store.json", "digest")]

    def test_longer_arrays_than_there_are_records(self, store):
        reseal(store, grid_shapes={"2x3": 12})
        for name, content in FeatureStore.open(store).zarr_metadata().items():
            (store / name).write_bytes(content)
        assert problems(store) == [("store.json", "grid_shapes")]

    def test_a_grid_shape_that_no_record_has(self, store):
        reseal(store, grid_shapes={"2x3": 10, "9x9": 3})
        for name, content in FeatureStore.open(store).zarr_metadata().items():
            (store / name).parent.mkdir(parents=True, exist_ok=True)
            (store / name).write_bytes(content)
        assert problems(store) == [("store.json", "grid_shapes")]

    def test_rows_that_no_shard_holds(self, store):
        forge_column(store, "index", "row", pa.array([*range(9), 11], pa.int64()))
        assert ("index.parquet", "ids") in problems(store)

    def test_store_json_with_other_spaces_is_not_as_it_was_written(self, store):
        content = json.loads((store / "store.json").read_text())
        (store / "store.json").write_text(json.dumps(content))
        assert problems(store) == [("store.json", "is")]


def test_a_raw_record_and_its_checksum_both_changed_do_not_read(tmp_path):
    path = make_store(tmp_path / "s", RECORDS, "none")
    content = (path / SHARD).read_bytes()
    forged = encode("none", np.zeros(192, np.uint8))
    (path / SHARD).write_bytes(forged + content[len(forged) :])
    with refuses("E-SHARD-DATA", kind=CorruptStoreError):
        FeatureStore.open(path)["i4"]
