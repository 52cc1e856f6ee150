"""What differs between two stores."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from fault_server import serving
from stores import ONE_CELL, make_identity, make_store

from clipfeat.cli.main import clipfeat
from clipfeat.featstore import FeatureStore, convert, write_store
from clipfeat.featstore.report import diff as module
from clipfeat.featstore.report.diff import diff

RNG = np.random.default_rng(0)
RECORDS = {f"i{k:02}": RNG.normal(size=(2, 3, 8)).astype(np.float16) for k in range(40)}
MISSING = {**RECORDS, "none": None}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return FeatureStore.open(make_store(tmp_path_factory.mktemp("a") / "a", MISSING))


def other_store(folder, records, **changes):
    return FeatureStore.open(make_store(folder / "b", records, **changes))


def test_a_store_is_the_same_as_itself_and_as_a_copy_in_other_shards(store, tmp_path):
    assert diff(store, store).verdict == "same bits"
    again = other_store(tmp_path, MISSING, shard_size=16)
    assert again.digest != store.digest
    found = diff(store, again)
    assert (found.verdict, found.compared, found.same_bits) == ("same bits", 40, 40)
    assert found.identity == found.worst == []


@pytest.mark.parametrize(
    ("options", "bits", "verdict"),
    [
        ({"codec": "none"}, 40, "same bits"),
        ({"mantissa_bits": 9}, 0, "same features"),
        ({"dtype": "uint8"}, 0, "DIFFERENT"),
    ],
)
def test_a_converted_store_is_compared_record_by_record(store, tmp_path, options, bits, verdict):
    found = diff(store, convert(store, tmp_path / "b", **options))
    assert (found.compared, found.same_bits, found.verdict) == (40, bits, verdict)
    assert any(line.startswith("derived_from: A None, B {") for line in found.identity)


def test_distribution_and_the_ten_worst(store, tmp_path):
    """The k-th record is scaled by 1 + k / 1000: a relative error of k / (1000 + k)."""
    scaled = {
        i: (g.astype(np.float32) * (1 + k / 1000)) for k, (i, g) in enumerate(RECORDS.items())
    }
    b = other_store(tmp_path, {**scaled, "none": None}, dtype="float32", precision="float16")
    found = diff(store, b)
    assert (found.compared, found.same_bits, found.tolerance) == (40, 1, 1e-2)
    assert found.verdict == "DIFFERENT"
    assert [each.image_id for each in found.worst] == [f"i{k}" for k in range(39, 29, -1)]
    errors = [k / (1000 + k) for k in range(40)]
    assert list(found.relative_error.values()) == pytest.approx(
        [0, 0, errors[19], errors[39], errors[39]], rel=1e-3
    )
    assert list(found.cosine.values()) == pytest.approx([1] * 5, abs=1e-6)
    assert found.identity == ["dtype: A float16, B float32", "precision: A float32, B float16"]


def test_ids_statuses_and_grid_shapes_are_listed(store, tmp_path):
    records = {
        **MISSING,
        "i00": None,
        "i01": RECORDS["i01"].reshape(3, 2, 8),
        "new": RECORDS["i02"],
    }
    del records["i39"]
    found = diff(store, other_store(tmp_path, records))
    assert (found.only_a.first, found.only_b.first) == (["i39"], ["new"])
    assert found.statuses.first == ["i00: ok in A, missing in B"]
    assert found.grid_shapes.first == ["i01: 2x3 in A, 3x2 in B"]
    assert (found.compared, found.same_bits, found.verdict) == (37, 37, "DIFFERENT")
    assert "ids with other grid shapes: 1\n  i01: 2x3 in A, 3x2 in B\n" in found.text()


def test_many_ids_are_counted_and_a_few_named(store, tmp_path):
    found = diff(store, other_store(tmp_path, {"i00": RECORDS["i00"]}))
    assert (found.only_a.count, len(found.only_a.first)) == (40, module.EXAMPLES)
    assert "ids only in A: 40\n" in found.text()
    assert "\n  ...\n" in found.text()


def test_other_channels_are_not_compared(store, tmp_path):
    found = diff(store, other_store(tmp_path, {i: g[..., :4] for i, g in RECORDS.items()}))
    assert found.arrays == ["grid: 8 channels in A, 4 in B; it is not compared"]
    assert (found.compared, found.only_a.count, found.verdict) == (0, 1, "DIFFERENT")


class TestArraysBesideTheGrids:
    @staticmethod
    def write(path, beside, **kinds):
        """Write a store of two records, each of ones and of the arrays `beside`."""
        record = {"grid": np.ones((1, 1, 4), np.float16), **beside}
        shapes = {"a": ONE_CELL, "b": ONE_CELL}
        return write_store(path, make_identity(4, **kinds), shapes, lambda _: record)

    def test_pooled_vectors_are_compared(self, tmp_path):
        vectors = {x: np.array([1, x], np.float16) for x in (0, 0.5)}
        a, b = (
            self.write(tmp_path / f"{x}", {"pooled": vectors[x]}, pooled_dim=2) for x in vectors
        )
        found = diff(a, b)
        assert (found.same_bits, found.verdict) == (0, "DIFFERENT")
        assert found.worst[0].relative_error == pytest.approx(0.5 / 1.25**0.5, rel=1e-6)

    def test_one_class_that_differs_is_enough(self, tmp_path):
        boxes = np.ones((1, 4), np.float32)
        a, b = (
            self.write(
                tmp_path / f"{n}",
                {"boxes": boxes, "classes": np.array([n], np.int32)},
                regions=("boxes", "classes"),
            )
            for n in (1000, 1001)
        )
        assert diff(a, b).verdict == "DIFFERENT"

    def test_an_array_that_one_store_lacks(self, tmp_path):
        a = self.write(tmp_path / "a", {"pooled": np.ones(2, np.float16)}, pooled_dim=2)
        b = self.write(tmp_path / "b", {})
        found = diff(a, b)
        assert found.arrays == ["pooled: only one of the stores has it"]
        assert (found.same_bits, found.compared, found.verdict) == (2, 2, "DIFFERENT")


def test_records_are_read_a_few_at_a_time(store, tmp_path, monkeypatch):
    sizes = []
    read = FeatureStore.read
    monkeypatch.setattr(
        FeatureStore, "read", lambda self, ids, *a, **k: sizes.append(len(ids)) or read(self, ids)
    )
    diff(store, convert(store, tmp_path / "b", codec="none"))
    assert max(sizes) == module.CHUNK


def test_a_store_behind_a_url(store, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPFEAT_CACHE", str(tmp_path / "cache"))
    convert(store, tmp_path / "b", codec="none")
    with serving(tmp_path) as server:
        found = diff(store, FeatureStore.open(f"{server.url}/b"))
    assert (found.verdict, found.compared, found.same_bits) == ("same bits", 40, 40)


def test_the_command(store, tmp_path):
    b = other_store(tmp_path, {"i00": RECORDS["i00"], "none": None}, shape=ONE_CELL)
    done = CliRunner().invoke(clipfeat, ["store", "diff", str(store.path), str(store.path)])
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "verdict: same bits")
    words = ["store", "diff", str(store.path), str(b.path), "--json"]
    done = CliRunner().invoke(clipfeat, words)
    assert done.exit_code == 1
    record = json.loads(done.output)
    assert (record["verdict"], record["only_a"]["count"]) == ("DIFFERENT", 39)
    assert record["digests"] == [store.digest, b.digest]
