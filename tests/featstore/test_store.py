"""What goes in comes out: by id, in any order, padded, and by other readers of Zarr."""

import json
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from refused import refuses
from stores import extend_store, make_store

from clipfeat import featstore
from clipfeat.base.files import sha256_file
from clipfeat.featstore import CorruptStoreError, FeatureStore, MissingRecordError, Status, tables
from clipfeat.featstore.audit.verify import verify
from clipfeat.featstore.tables import IndexRow, reasons_text

RNG = np.random.default_rng(0)


def test_the_public_names():
    assert set(featstore.__all__) == {
        "FeatureBatch", "FeatureStore", "StoreMetadata", "Identity", "GridShape",
        "IndexRow", "ShardRow", "Status",
        "write_store", "subset", "merge", "reshard", "convert", "pool",
        "describe", "verify", "Depth", "Problem", "repair", "Repair",
        "StoreError", "CorruptStoreError", "MissingRecordError",
    }  # fmt: skip
    assert all(hasattr(featstore, name) for name in featstore.__all__)


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
    with refuses("E-STORE-NO-RECORD", "'gone'", "missing, no such file", kind=MissingRecordError):
        store["gone"]
    with refuses("E-STORE-NO-ID", "'other'", "look like 'image000'", kind=MissingRecordError):
        store.read(["image001", "other"])


def test_the_same_records_give_the_same_digest(tmp_path):
    records = grids(7)
    one = FeatureStore.open(make_store(tmp_path / "one", records))
    two = FeatureStore.open(make_store(tmp_path / "two", dict(reversed(records.items()))))
    other = FeatureStore.open(
        make_store(tmp_path / "three", {**records, "image000": grids(1)["image000"]})
    )
    assert one.digest == two.digest != other.digest


class TestWholeNumbers:
    """COCO, VQA and Visual Genome name images by numbers."""

    # As the annotations of COCO have them: {"id": 391895, ...}.
    IMAGES = json.loads('[{"id": 391895}, {"id": 42}, {"id": 522418}]')

    @pytest.fixture
    def records(self):
        names = [str(image["id"]) for image in self.IMAGES]
        return {**dict(zip(names, grids(3).values(), strict=True)), "7": None}

    @pytest.fixture
    def store(self, tmp_path, records):
        return FeatureStore.open(make_store(tmp_path / "s", records))

    @pytest.mark.parametrize("kind", [int, np.int64, np.uint32, np.int32, str])
    def test_a_number_is_its_decimal_text_everywhere(self, store, records, kind):
        ids = [kind(image["id"]) for image in self.IMAGES]
        texts = [str(image["id"]) for image in self.IMAGES]
        for image_id, text in zip(ids, texts, strict=True):
            assert image_id in store
            assert store[image_id].tobytes() == records[text].tobytes()
            assert store.mask(image_id).shape == (3, 4)
        batch = store.read(ids)
        assert batch.features.tobytes() == b"".join(records[t].tobytes() for t in texts)
        assert store.shapes(ids).tolist() == [[3, 4]] * 3
        assert store.statuses([*ids, kind(7), kind(8)]) == [Status.OK] * 3 + [Status.MISSING, None]
        assert kind(7) not in store
        assert kind(8) not in store

    @pytest.mark.parametrize(
        "ids", [np.array([391895, 42]), np.array(["391895", "42"]), (391895, 42)]
    )
    def test_arrays_and_tuples_are_lists_of_ids(self, store, records, ids):
        expected = [records["391895"].tobytes(), records["42"].tobytes()]
        assert [grid.tobytes() for grid in store.read(ids).features] == expected

    @pytest.mark.parametrize(
        "bad", [True, 391895.0, np.float32(1), np.True_, None, b"42", ("42",), ["42"]], ids=repr
    )
    def test_anything_else_is_a_type_error_that_names_it(self, store, bad):
        wanted = f"an image id is a string or a whole number; got {bad!r}"
        for use in (
            lambda: bad in store,
            lambda: store[bad],
            lambda: store.mask(bad),
            lambda: store.read([bad]),
            lambda: store.statuses(["42", bad]),
            lambda: store.shapes([bad]),
        ):
            with pytest.raises(TypeError) as refused:
                use()
            assert str(refused.value).startswith(wanted)

    @pytest.mark.parametrize("single", ["391895", b"391895", 391895, None])
    def test_a_single_id_is_not_a_list(self, store, single):
        for use in (store.read, store.statuses, store.shapes):
            with pytest.raises(TypeError, match=r"pass \[id\]") as refused:
                use(single)
            assert repr(single) in str(refused.value)


def test_a_store_shows_what_it_is(tmp_path):
    store = FeatureStore.open(make_store(tmp_path / "a\nb", grids(2)))
    assert repr(store) == (
        f"<FeatureStore {tmp_path}/a\\nb: 2 records, dim 8, float16, zstd, "
        f"digest {store.digest[:16]}...>"
    )


def test_iterating_gives_the_ids_that_are_in_it(tmp_path):
    records = {**grids(5), "gone": None}
    store = FeatureStore.open(make_store(tmp_path / "s", records))
    assert list(store) == list(store.ids) == [i for i, grid in records.items() if grid is not None]
    assert len(store) == len(list(store)) == sum(image_id in store for image_id in records)


COFFEE = "caf\u00e9"  # NFC; its NFD is five characters and an accent


@pytest.mark.parametrize(("stored", "queried"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_an_accent_may_be_written_in_either_normal_form(tmp_path, stored, queried):
    records = dict(grids(2))
    stored_id, image_id = normalize(stored, COFFEE), normalize(queried, COFFEE)
    records[stored_id] = grids(1)["image000"]
    gone = normalize(stored, "g\u00e2teau")
    store = FeatureStore.open(make_store(tmp_path / "s", {**records, gone: None}))
    assert image_id in store
    assert store[image_id].tobytes() == records[stored_id].tobytes()
    batch = store.read(["image001", image_id, stored_id])
    assert [g.tobytes() for g in batch.features[1:]] == [records[stored_id].tobytes()] * 2
    assert store.statuses([image_id, "th\u00e9"]) == [Status.OK, None]
    with refuses("E-STORE-NO-RECORD", "missing, no such file", kind=MissingRecordError):
        store[normalize(queried, "g\u00e2teau")]


def test_both_forms_of_a_name_may_be_there(tmp_path):
    forms = [normalize("NFC", COFFEE), normalize("NFD", COFFEE)]
    records = dict(zip(forms, grids(2).values(), strict=True))
    store = FeatureStore.open(make_store(tmp_path / "s", records))
    for image_id in forms:
        assert store[image_id].tobytes() == records[image_id].tobytes()


def test_names_that_look_the_same_are_told_apart_in_an_error(tmp_path):
    mixed = "e\u0301t\u00e9"  # neither NFC nor NFD, so that it cannot be found by its look
    store = FeatureStore.open(make_store(tmp_path / "s", {mixed: grids(1)["image000"]}))
    with pytest.raises(MissingRecordError) as refused:
        store[normalize("NFC", mixed)]
    assert refused.value.code == "E-STORE-NO-ID"
    assert r"'\xe9t\xe9'; ids here look like 'e\u0301t\xe9'" in str(refused.value)


def test_ids_that_are_not_there_do_not_read_the_index_each_time(tmp_path, monkeypatch):
    gone = {f"gone{k:02}": None for k in range(20)}
    path = make_store(tmp_path / "s", {**grids(9), **gone})
    hashed = []
    monkeypatch.setattr(tables, "sha256_file", lambda p: hashed.append(p) or sha256_file(p))
    store = FeatureStore.open(path)
    codes = []
    for image_id in [*gone, *(f"other{k}" for k in range(20))]:
        assert image_id not in store
        with pytest.raises(MissingRecordError) as refused:
            store[image_id]
        codes.append(refused.value.code)
    assert codes == ["E-STORE-NO-RECORD"] * 20 + ["E-STORE-NO-ID"] * 20
    assert hashed == [path / "index.parquet"] * 2  # once for reasons, once for an example


def test_more_reasons_than_are_kept_name_where_to_look(tmp_path, monkeypatch):
    monkeypatch.setattr("clipfeat.featstore.store.MAX_REASONS", 1)
    store = FeatureStore.open(make_store(tmp_path / "s", {**grids(2), "x": None, "y": None}))
    with refuses("E-STORE-NO-RECORD", "missing, no such file", kind=MissingRecordError):
        store["x"]
    with refuses("E-STORE-NO-RECORD", "clipfeat store ls", kind=MissingRecordError):
        store["y"]


def test_images_with_reasons_that_are_not_shown_are_counted():
    rows = [IndexRow(f"i{n}", Status.FAILED, f"why {n}", "", 0, 0, 0, "", "", "") for n in range(8)]
    assert reasons_text(rows).count("such as") == 5
    assert reasons_text(rows).endswith("; 3 for other reasons")
    assert not reasons_text(rows[:5]).endswith("reasons")


def test_an_id_that_a_changed_lookup_has_lost_is_not_said_to_be_absent(tmp_path):
    path = make_store(tmp_path / "s", grids(3))
    content = bytearray((path / "lookup.bin").read_bytes())
    keys = np.frombuffer(content, "<u8", count=3, offset=16)
    keys[:] = np.sort(keys ^ np.uint64(1))
    (path / "lookup.bin").write_bytes(content)
    store = FeatureStore.open(path)
    for use in (
        lambda: store["image000"],
        lambda: "image000" in store,
        lambda: store.statuses(["?"]),
    ):
        with pytest.raises(CorruptStoreError) as refused:
            use()
        assert refused.value.code == "E-LOOKUP-CHANGED"


def test_another_working_directory_changes_nothing(tmp_path, monkeypatch):
    records = grids(6)
    monkeypatch.chdir(tmp_path)
    store = FeatureStore.open(make_store(tmp_path / "s", records).relative_to(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert store["image003"].tobytes() == records["image003"].tobytes()
    assert list(store.ids) == sorted(records)
    assert len(store.read(store.ids).features) == 6
    assert [shard.records for shard in store.shards] == [4, 2]


def test_a_store_is_written_extended_and_verified_at_a_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = grids(6)
    path = make_store(Path("s"), dict(list(records.items())[:3]))
    assert extend_store(path, records).digest == FeatureStore.open(path).digest
    assert verify(path) == []
    (path / "lookup.1.bin").write_bytes(b"short")
    assert [problem.path for problem in verify(path)] == ["lookup.1.bin"]


def tables_of(path):
    store = FeatureStore.open(path)
    return [*store.index, *store.shards]


@pytest.mark.parametrize("table", ["lookup.bin", "index.parquet", "shards.parquet"])
def test_a_table_that_is_a_link_is_said_to_be_one(tmp_path, table):
    path = make_store(tmp_path / "s", grids(3))
    (path / table).rename(tmp_path / table)
    (path / table).symlink_to(tmp_path / table)
    with refuses("E-STORE-LINK", table, kind=CorruptStoreError):
        tables_of(path)


def test_a_shard_that_is_a_link_is_said_to_be_one(tmp_path):
    path = make_store(tmp_path / "s", grids(3))
    shard = path / "features.zarr/3x4/grid/c.0.0.0.0"
    shard.rename(tmp_path / "moved")
    shard.symlink_to(tmp_path / "moved")
    for ids in (["image000"], ["image000", "image001"]):
        with refuses("E-STORE-LINK", "c.0.0.0.0", kind=CorruptStoreError):
            FeatureStore.open(path).read(ids)
    assert "is a symbolic link" in " ".join(problem.problem for problem in verify(path))
