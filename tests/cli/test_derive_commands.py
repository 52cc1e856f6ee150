"""clipfeat store subset, merge, convert, pool and reshard as they are typed."""

import json

import numpy as np
import pytest
from command_lines import run_here as clipfeat
from stores import make_store

from clipfeat.featstore import FeatureStore


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(0)
    names = [f"COCO_val2014_{number:012}" for number in range(6)]
    records = {name: rng.standard_normal((4, 4, 8)).astype(np.float16) for name in names}
    return make_store(tmp_path_factory.mktemp("c") / "s.clipfeat", {**records, "gone": None})


def names(path):
    return [row.image_id for row in FeatureStore.open(path).index]


def karpathy(path, splits):
    """Write a file in Karpathy's format: {split: COCO numbers}."""
    images = [
        {"cocoid": n, "filename": f"COCO_val2014_{n:012}.jpg", "split": split, "sentences": []}
        for split, numbers in splits.items()
        for n in numbers
    ]
    path.write_text(json.dumps({"images": images}))
    return path


def assert_refused(done, exit_code, code):
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().endswith(f"[{code}]"), done.stderr


class TestSubset:
    def test_ids_of_a_file(self, store, tmp_path):
        (tmp_path / "ids.txt").write_text("gone\r\nCOCO_val2014_000000000002\n\n")
        out = tmp_path / "o"
        done = clipfeat("store", "subset", store, out, "--ids", tmp_path / "ids.txt")
        assert done.returncode == 0, done.stderr
        assert names(out) == ["COCO_val2014_000000000002", "gone"]
        assert ", by subset (ids 2, ids_sha256 " in done.stdout
        done = clipfeat(
            "store", "subset", store, out, "--ids", tmp_path / "ids.txt", "--status", "ok"
        )
        assert_refused(done, 2, "E-STORE-OTHER")

    def test_splits_of_data_sets(self, store, tmp_path):
        file = karpathy(tmp_path / "dataset_coco.json", {"train": [0, 1], "val": [3], "test": [5]})
        (tmp_path / "captions.json").write_text(
            json.dumps({"images": [{"id": 4, "file_name": "COCO_val2014_000000000004.jpg"}]})
        )
        for number, (splits, wanted) in enumerate(
            {
                (f"karpathy:{file}",): [0, 1, 3, 5],
                (f"karpathy:{file}:val",): [3],
                (f"karpathy:{file}:val+test",): [3, 5],
                (f"karpathy:{file}:val", f"coco:{tmp_path}/captions.json"): [3, 4],
            }.items()
        ):
            options = [word for split in splits for word in ("--split", split)]
            done = clipfeat("store", "subset", store, tmp_path / f"{number}", *options, "--json")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["records"] == len(wanted)
            assert names(tmp_path / f"{number}") == [f"COCO_val2014_{n:012}" for n in wanted]

    def test_images_without_features_are_named(self, store, tmp_path):
        file = karpathy(tmp_path / "val.json", {"val": [3, 77]})
        words = ("store", "subset", store, tmp_path / "o", "--split", f"karpathy:{file}")
        done = clipfeat(*words)
        assert_refused(done, 1, "E-IMAGES-MISSING")
        assert "COCO_val2014_000000000077" in done.stderr
        assert clipfeat(*words, "--skip-missing", 1).returncode == 0
        assert names(tmp_path / "o") == ["COCO_val2014_000000000003"]

    @pytest.mark.parametrize(
        ("options", "code"),
        [
            ((), "E-DERIVE-CHOICE"),
            (("--split", "val"), "E-SPLIT-OPTION"),
            (("--split", "vqa:x.json"), "E-SPLIT-OPTION"),
            (("--split", "karpathy:"), "E-SPLIT-OPTION"),
        ],
    )
    def test_what_is_not_a_choice(self, store, tmp_path, options, code):
        assert_refused(clipfeat("store", "subset", store, tmp_path / "o", *options), 2, code)

    def test_an_unknown_split_is_refused(self, store, tmp_path):
        file = karpathy(tmp_path / "k.json", {"val": [3]})
        done = clipfeat("store", "subset", store, tmp_path / "o", "--split", f"karpathy:{file}:x")
        assert_refused(done, 2, "E-SPLIT-UNKNOWN")


def test_merge(store, tmp_path):
    for number in (0, 1):
        (tmp_path / "ids.txt").write_text("\n".join(names(store)[number::2]))
        clipfeat("store", "subset", store, tmp_path / f"{number}", "--ids", tmp_path / "ids.txt")
    parts, out = (tmp_path / "0", tmp_path / "1"), tmp_path / "o"
    done = clipfeat("store", "merge", *parts, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["identity"]["derived_from"]["operation"] == "merge"
    assert names(out) == names(store)
    assert_refused(clipfeat("store", "merge", store, "-o", tmp_path / "p"), 2, "E-MERGE-STORES")
    done = clipfeat("store", "merge", *parts, parts[0], "-o", tmp_path / "p")
    assert_refused(done, 2, "E-MERGE-STORES")


def test_pool(store, tmp_path):
    done = clipfeat("store", "pool", store, tmp_path / "o", "2x2")
    assert done.returncode == 0, done.stderr
    assert "recipe    test, pooled to 2x2; before: test" in done.stdout
    (first, *_), old = FeatureStore.open(tmp_path / "o"), FeatureStore.open(store)
    means = old[first].astype(np.float64).reshape(2, 2, 2, 2, 8).mean(axis=(1, 3))
    assert np.allclose(FeatureStore.open(tmp_path / "o")[first], means, atol=1e-3)
    for shape in ("7", "0x0"):
        done = clipfeat("store", "pool", store, tmp_path / "p", shape)
        assert_refused(done, 2, "E-STORE-SHAPE")


def test_reshard(store, tmp_path):
    done = clipfeat("store", "reshard", store, tmp_path / "o", "--shard-size", 2, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["shard_records"] == 2
    assert names(tmp_path / "o") == names(store)
    assert_refused(
        clipfeat("store", "reshard", store, store / "x", "--shard-size", 2), 2, "E-DERIVE-OUT"
    )


def test_the_loss_of_each_channel_is_a_document(store, tmp_path):
    done = clipfeat("store", "convert", store, tmp_path / "o", "--mantissa-bits", 4, "--json")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "o/documents/loss.csv").read_text().splitlines()
    assert lines[0] == "channel,rms,rms_error,largest_error"
    old, new = FeatureStore.open(store), FeatureStore.open(tmp_path / "o")
    x, y = (np.concatenate([s[i].reshape(-1, 8) for i in old]).astype(float) for s in (old, new))
    for k, line in enumerate(lines[1:]):
        rms, error, largest = map(float, line.split(",")[1:])
        assert rms == pytest.approx(np.sqrt((x[:, k] ** 2).mean()), rel=1e-4)
        assert error == pytest.approx(np.sqrt(((x - y)[:, k] ** 2).mean()), rel=1e-4)
        assert largest == pytest.approx(np.abs(x - y)[:, k].max(), rel=1e-4)
    assert len(lines) == 9
    (tmp_path / "o/documents/loss.csv").write_text("0")
    assert clipfeat("store", "verify", tmp_path / "o").returncode == 1
