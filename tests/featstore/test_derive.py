"""Stores of the same records: subsets, several in one, other shards; every record is proven."""

import hashlib
import json
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fault_server import isolate
from hostile import forge_column, reseal
from refused import refuses
from stores import extend_store, make_identity, make_store, padded_store, snapshot
from test_areas import SMALL
from test_regions import write_regions

from clipfeat.base.errors import StoreUsageError, UsageError
from clipfeat.featstore import (
    CorruptStoreError,
    Depth,
    FeatureStore,
    GridShape,
    StoreError,
    convert,
    describe,
    merge,
    reshard,
    subset,
    verify,
    write_store,
)
from clipfeat.featstore.deriving import derive as derive_module
from clipfeat.featstore.deriving.copies import ids_sha256
from clipfeat.featstore.metadata import store_digest
from clipfeat.featstore.sharing.serve import StoreServer
from clipfeat.featstore.tables import index_lines

RNG = np.random.default_rng(0)
DIM = 8


def grids(first: int, count: int) -> dict[str, np.ndarray | None]:
    """Return grids of two shapes, always the same for an id, and an id without a record."""
    records: dict[str, np.ndarray | None] = {f"gone{first}": None}
    for k in range(first, first + count):
        rng = np.random.default_rng(k)
        shape = ((3, 4), (2, 3))[k % 2]
        records[f"i{k:02}"] = rng.standard_normal((*shape, DIM)).astype(np.float16)
    return records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("derive")


@pytest.fixture(scope="module")
def ragged(folder):
    return FeatureStore.open(make_store(folder / "ragged", grids(0, 20), shard_size=4))


@pytest.fixture(scope="module")
def stores(folder, ragged):
    """A store of each kind, by its name."""
    identity = make_identity(4, pooled_dim=3)
    vectors = {
        f"p{k}": {
            "grid": RNG.standard_normal((2, 2, 4)).astype(np.float16),
            "pooled": RNG.standard_normal(3).astype(np.float16),
        }
        for k in range(7)
    }
    shapes = dict.fromkeys(vectors, GridShape(2, 2))
    views = {f"v{k}": RNG.standard_normal((36, 1, 2)).astype(np.float16) for k in range(5)}
    sizes = {"a": (64, 64), "b": (96, 64), "c": None, "d": (30, 300), "e": (64, 64)}
    updated = make_store(folder / "updated", grids(0, 6), shard_size=4)
    extend_store(updated, {**grids(0, 6), **grids(6, 5)})
    regions, _ = write_regions(folder / "regions", ("pooled", "boxes", "classes", "scores"))
    return {
        "ragged": ragged,
        "raw": FeatureStore.open(make_store(folder / "raw", grids(0, 9), "none", 4)),
        "first": FeatureStore.open(
            make_store(folder / "first", grids(0, 9), order="channels_first")
        ),
        "uint8": convert(ragged, folder / "uint8", dtype="uint8"),
        "pooled": write_store(folder / "pooled", identity, shapes, vectors.get, 3),
        "regions": regions,
        "views": FeatureStore.open(
            make_store(folder / "views", views, recipe={"name": "views", "views": 36})
        ),
        "padded": padded_store(folder / "padded", SMALL, sizes, GridShape(2, 3)),
        "updated": FeatureStore.open(updated),
    }


KINDS = (
    "ragged", "raw", "first", "uint8", "pooled", "regions", "views", "padded", "updated",
)  # fmt: skip


def assert_same_records(new: FeatureStore, old: FeatureStore, ids: list[str]) -> None:
    """The rows and records of `ids` are those of the old store, apart from their places."""
    rows = {row.image_id: row for row in old.index}
    for row in new.index:
        assert row._replace(row=0) == rows[row.image_id]._replace(row=0)
    assert [row.image_id for row in new.index] == sorted(ids)
    ok = [image_id for image_id in ids if image_id in old]
    for name in ("features", "mask", "grid_shapes", "pooled", "boxes", "classes", "scores"):
        a, b = (getattr(store.read(ok), name) for store in (new, old))
        assert (a is None) == (b is None), name
        if a is not None and b is not None:
            assert np.array_equal(a, b), name
    assert verify(new.path, Depth.DEEP) == []


@pytest.fixture(scope="module")
def url(folder, stores):
    """The URL of the folder of the stores."""
    with StoreServer(folder, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.url
        server.shutdown()


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_a_parent_at_a_url_gives_the_same_subset(
        self, stores, url, tmp_path, monkeypatch, kind
    ):
        isolate(monkeypatch, tmp_path, [])
        monkeypatch.setenv("CLIPFEAT_CACHE", str(tmp_path / "cache"))
        ids = [row.image_id for row in stores[kind].index][1::2]
        store = subset(FeatureStore.open(f"{url}/{kind}"), tmp_path / "o", ids=ids)
        assert store.digest == subset(stores[kind], tmp_path / "p", ids=ids).digest

    def test_a_subset_has_the_same_records(self, stores, tmp_path, kind):
        source = stores[kind]
        ids = [row.image_id for row in source.index][1::2]
        store = subset(source, tmp_path / "o", ids=ids)
        assert_same_records(store, source, ids)
        lines = "".join(json.dumps(image_id) + "\n" for image_id in sorted(ids))
        origin = store.identity.derived_from
        assert origin is not None
        assert (origin.digest, origin.operation) == (source.digest, "subset")
        assert origin.settings == {
            "ids": len(ids),
            "ids_sha256": hashlib.sha256(lines.encode()).hexdigest(),
        }

    def test_other_shards_have_the_same_records(self, stores, tmp_path, kind):
        source = stores[kind]
        store = reshard(source, tmp_path / "o", 3)
        assert_same_records(store, source, [row.image_id for row in source.index])
        assert store.metadata.shard_records == 3
        assert max(shard.records for shard in store.shards) <= 3
        # Without the gaps of updates.
        assert sum(store.metadata.grid_shapes.values()) == store.metadata.id_count
        origin = store.identity.derived_from
        assert origin is not None
        assert (origin.digest, origin.settings) == (source.digest, {"shard_records": 3})

    def test_two_halves_merge_to_the_whole(self, stores, tmp_path, kind):
        source = stores[kind]
        ids = [row.image_id for row in source.index]
        halves = [
            subset(source, tmp_path / "a", ids=ids[:4]),
            subset(source, tmp_path / "b", ids=ids[3:]),
        ]
        store = merge(halves, tmp_path / "o")
        assert_same_records(store, source, ids)
        origin = store.identity.derived_from
        assert origin is not None
        assert (origin.digest, origin.operation) == (halves[0].digest, "merge")
        assert origin.settings == {"with": [halves[1].digest]}


class TestSubset:
    def test_ids_of_some_statuses(self, ragged, tmp_path):
        assert len(subset(ragged, tmp_path / "ok", statuses=["ok"])) == len(ragged)
        some = subset(ragged, tmp_path / "o", ids=["gone0", "i00", "i07"], statuses=["ok"])
        assert [row.image_id for row in some.index] == ["i00", "i07"]

    def test_the_digest_depends_on_the_ids_alone(self, ragged, tmp_path):
        by_status = subset(ragged, tmp_path / "a", statuses=["ok"])
        by_ids = subset(ragged, tmp_path / "b", ids=reversed([*ragged.ids, *ragged.ids]))
        assert by_status.digest == by_ids.digest != ragged.digest

    def test_an_unknown_id_is_named(self, ragged, tmp_path):
        with refuses("E-DERIVE-IDS", "2 of 3 ids", "'i99'", "'x'", kind=UsageError):
            subset(ragged, tmp_path / "o", ids=["i01", "i99", "x"])
        assert not (tmp_path / "o").exists()

    def test_nothing_chosen_is_refused(self, ragged, tmp_path):
        for options in ({"ids": []}, {"statuses": ["failed"]}):
            with refuses("E-DERIVE-EMPTY", kind=UsageError):
                subset(ragged, tmp_path / "o", **options)
        assert not (tmp_path / "o").exists()

    def test_a_second_run_changes_nothing(self, ragged, tmp_path):
        subset(ragged, tmp_path / "o", ids=["i03"])
        before = snapshot(tmp_path / "o")
        subset(ragged, tmp_path / "o", ids=["i03"])
        assert snapshot(tmp_path / "o") == before

    def test_licences_and_citation_are_kept(self, tmp_path):
        path = make_store(tmp_path / "s", grids(0, 3))
        describe(path, {"title": "all of it", "licence": "CC-BY-4.0", "citation": "Doe 2026"})
        about = subset(FeatureStore.open(path), tmp_path / "o", ids=["i01"]).metadata.about
        assert about.texts() == {"licence": "CC-BY-4.0", "citation": "Doe 2026"}

    def test_hash_of_ids(self):
        assert ids_sha256(["a", "é"]) == hashlib.sha256(b'"a"\n"\\u00e9"\n').hexdigest()


class TestMerge:
    def test_many_stores(self, tmp_path):
        """More than are merged at a time."""
        parts = [
            FeatureStore.open(make_store(tmp_path / f"s{k}", grids(2 * k, 2))) for k in range(17)
        ]
        store = merge(parts, tmp_path / "o")
        assert len(store) == 34
        for part in parts:
            for image_id in part.ids:
                assert np.array_equal(store[image_id], part[image_id])
        assert verify(store.path, Depth.DEEP) == []

    def test_other_features_are_refused_by_name(self, ragged, tmp_path):
        other = FeatureStore.open(make_store(tmp_path / "b", grids(0, 2), precision="float16"))
        with refuses("E-MERGE-IDENTITY", "precision", "float16", "float32", kind=StoreError):
            merge([ragged, other], tmp_path / "o")

    def test_stores_of_8_bits_need_the_same_scale(self, stores, tmp_path):
        plain = FeatureStore.open(make_store(tmp_path / "b", grids(50, 3)))
        other = convert(plain, tmp_path / "c", dtype="uint8")
        with refuses("E-MERGE-IDENTITY", "scale_sha256", kind=StoreError):
            merge([stores["uint8"], other], tmp_path / "o")

    @pytest.mark.parametrize("change", ["record", "status", "shape"])
    def test_conflicts_are_named(self, ragged, tmp_path, change):
        records = grids(0, 3)
        grid = records["i01"]
        assert grid is not None
        records["i01"] = {"record": grid + 1, "status": None, "shape": grid[:1]}[change]
        other = FeatureStore.open(make_store(tmp_path / "b", records, shape=GridShape(2, 3)))
        with refuses("E-MERGE-CONFLICT", "1 id", "'i01'", "ok in ragged", kind=StoreError):
            merge([ragged, other], tmp_path / "o")
        assert not (tmp_path / "o").exists()

    def test_one_store_is_refused(self, ragged, tmp_path):
        with refuses("E-MERGE-STORES", kind=UsageError):
            merge([ragged], tmp_path / "o")


class TestPlace:
    def test_the_parent_and_folders_inside_it_are_refused(self, ragged, tmp_path):
        before = snapshot(ragged.path)
        link = tmp_path / "link"
        link.symlink_to(ragged.path, target_is_directory=True)
        for out in (ragged.path, ragged.path / "new", link, link / "a/b"):
            with refuses("E-DERIVE-OUT", kind=UsageError):
                reshard(ragged, out, 2)
            with refuses("E-DERIVE-OUT", kind=UsageError):
                merge([FeatureStore.open(ragged.path), ragged], out)
        assert snapshot(ragged.path) == before

    def test_a_folder_that_cannot_be_made_is_named(self, ragged, tmp_path):
        (tmp_path / "file").write_text("")
        with refuses("E-PATH-FOLDER", f"the new store {tmp_path / 'file/o'}", kind=UsageError):
            reshard(ragged, tmp_path / "file/o", 2)

    def test_a_folder_inside_another_store_is_refused(self, ragged, tmp_path):
        other = reshard(ragged, tmp_path / "other", 2).path
        before = snapshot(other)
        with refuses("E-STORE-INSIDE", str(other), kind=UsageError):
            reshard(ragged, other / "a/b", 3)
        assert snapshot(other) == before

    def test_another_store_and_other_files_are_kept(self, ragged, tmp_path):
        subset(ragged, tmp_path / "o", ids=["i03"])
        with refuses("E-STORE-OTHER", "derived_from", kind=StoreError):
            subset(ragged, tmp_path / "o", ids=["i04"])
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/notes.txt").write_text("x")
        with refuses("E-STORE-OCCUPIED", kind=StoreError):
            reshard(ragged, tmp_path / "mine", 2)

    def test_a_small_disk_is_found_before_the_first_byte(self, ragged, tmp_path, monkeypatch):
        size = sum(shard.bytes for shard in ragged.shards)
        monkeypatch.setattr(derive_module, "free_bytes", lambda path: size // 2)
        with refuses("E-DERIVE-SPACE", kind=StoreUsageError):
            reshard(ragged, tmp_path / "o", 2)
        assert not (tmp_path / "o").exists()
        subset(ragged, tmp_path / "o", ids=["i03"])  # fits


@dataclass(frozen=True)
class Hostile:
    """A copy of a store with something changed."""

    store: FeatureStore

    def change_byte(self, name: str, at: int) -> None:
        path = self.store.path / name
        content = bytearray(path.read_bytes())
        content[at] ^= 1
        path.write_bytes(content)


@pytest.fixture
def hostile(ragged, tmp_path):
    shutil.copytree(ragged.path, tmp_path / "h")
    return Hostile(FeatureStore.open(tmp_path / "h"))


class TestHostile:
    @pytest.mark.parametrize("act", [reshard, convert], ids=lambda act: act.__name__)
    def test_a_changed_record_is_refused(self, hostile, tmp_path, act):
        hostile.change_byte("features.zarr/3x4/grid/c.0.0.0.0", 30)
        options = {"shard_records": 2} if act is reshard else {"codec": "none"}
        with refuses("E-SHARD-HASH", "'i0", "sha256", kind=CorruptStoreError):
            act(hostile.store, tmp_path / "o", **options)
        with refuses("E-STORE-UNFINISHED"):
            FeatureStore.open(tmp_path / "o")

    def test_swapped_shards_are_refused(self, hostile, tmp_path):
        folder = hostile.store.path / "features.zarr/3x4/grid"
        shutil.copy(folder / "c.0.0.0.0", folder / "c.1.0.0.0")
        with refuses("E-SHARD-HASH", kind=CorruptStoreError):
            subset(hostile.store, tmp_path / "o", statuses=["ok"])

    def test_a_missing_shard_and_a_link_are_refused(self, hostile, tmp_path):
        shard = hostile.store.path / "features.zarr/3x4/grid/c.0.0.0.0"
        shard.rename(tmp_path / "elsewhere")
        with refuses("E-STORE-FILE", kind=CorruptStoreError):
            reshard(hostile.store, tmp_path / "o", 2)
        shard.symlink_to(tmp_path / "elsewhere")
        with refuses("E-STORE-LINK", kind=CorruptStoreError):
            reshard(hostile.store, tmp_path / "p", 2)

    def test_a_changed_index_is_refused(self, hostile, tmp_path):
        hostile.change_byte("index.parquet", 100)
        with refuses("E-TABLE-CHANGED", kind=CorruptStoreError):
            reshard(hostile.store, tmp_path / "o", 2)

    def test_a_digest_of_other_tables_is_refused(self, hostile, tmp_path):
        reseal(hostile.store.path, digest="0" * 64)
        with refuses("E-STORE-DIGEST", kind=CorruptStoreError):
            reshard(FeatureStore.open(hostile.store.path), tmp_path / "o", 2)

    @pytest.mark.parametrize(
        ("column", "value", "code"),
        [
            ("row", 5000, "E-TABLE-ROW"),
            ("row", -1, "E-TABLE-ROW"),
            ("shape", "../../../x", "E-STORE-SHAPE"),
            ("shape", "1x1", "E-TABLE-ROW"),
            ("record_sha256", "0" * 32, "E-SHARD-HASH"),
            ("checksum", "", "E-TABLE-ROW"),
        ],
    )
    def test_a_forged_index_is_refused(self, hostile, tmp_path, column, value, code):
        path = hostile.store.path
        values = [getattr(row, column) for row in hostile.store.index]
        forge_column(path, "index", column, [*values[:3], value, *values[4:]])
        store = FeatureStore.open(path)
        lines = map(index_lines, store.index_batches())
        reseal(path, digest=store_digest(store.identity, store.shards, lines))
        with refuses(code, kind=StoreError):
            reshard(FeatureStore.open(path), tmp_path / "o", 2)

    def test_the_undamaged_records_can_be_saved(self, hostile, tmp_path):
        hostile.change_byte("features.zarr/3x4/grid/c.0.0.0.0", 30)
        store = subset(hostile.store, tmp_path / "o", ids=["i01", "i18"])
        assert np.array_equal(store["i18"], hostile.store["i18"])


@pytest.mark.parametrize("kind", ["raw", "first", "pooled", "regions", "updated"])
def test_another_codec_and_back_has_the_same_bytes(stores, tmp_path, kind):
    source = stores[kind]
    codecs = ("zstd", "none") if kind == "raw" else ("none", "zstd")
    store = source
    for codec in codecs:
        store = convert(store, tmp_path / codec, codec=codec)
        assert store.identity.codec == codec
        assert store.metadata.loss is not None
        assert store.metadata.loss.largest == 0
    for new, old in zip(store.index, source.index, strict=True):
        assert new._replace(row=0) == old._replace(row=0)


def test_the_parent_is_not_touched(ragged, tmp_path: Path):
    before = snapshot(ragged.path)
    merge([reshard(ragged, tmp_path / "a", 7), ragged], tmp_path / "o")
    assert snapshot(ragged.path) == before
