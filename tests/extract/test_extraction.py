"""Images in, a finished store out: on one device, on several processes, after a kill."""

import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from logged import logged
from pictures import photograph, write_bad_files, write_photographs
from PIL import Image as PillowImage
from refused import refuses

from clipfeat.base.errors import ExtractError, UsageError
from clipfeat.cli.extract import default_out
from clipfeat.extract import ExtractConfig, extract_images
from clipfeat.extract.executors.pipeline import FeatureStream
from clipfeat.featstore import FeatureStore, Status, StoreError
from clipfeat.featstore.audit.contents import Depth
from clipfeat.featstore.audit.repair import repair
from clipfeat.featstore.audit.verify import verify
from clipfeat.manifests import Image, Manifest, folder_manifest

CONFIG = {
    "model": "RN50",
    "pretrained": "none",
    "recipe": "square:64",
    "device": "cpu",
    "batch_size": 4,
    "shard_size": 8,
    "decoders": 1,
}

pytestmark = pytest.mark.usefixtures("one_backbone")


def run(images, out, **changes):
    """Return the report of an extraction and what it logged."""
    manifest = images if isinstance(images, Manifest) else folder_manifest(images)
    with logged() as lines:
        return extract_images(manifest, out, ExtractConfig(**{**CONFIG, **changes})), lines


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("images"), 20)


@pytest.fixture(scope="module")
def store(images, tmp_path_factory):
    return run(images, tmp_path_factory.mktemp("out") / "s", vector="embedding")[0].store


@torch.no_grad()
def test_records_are_what_stock_open_clip_computes(images, store):
    torch.manual_seed(0)
    stock: Any = open_clip.create_model("RN50").visual
    stock.eval()
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)
    for image_id in ("p000", "p007", "p019"):
        picture = PillowImage.open(images / f"{image_id}.jpg").resize((64, 64), 3)
        pixels = torch.tensor(np.asarray(picture)).permute(2, 0, 1) / 255
        x = stock.stem(((pixels - mean) / std)[None])
        expected = stock.layer4(stock.layer3(stock.layer2(stock.layer1(x))))[0].permute(1, 2, 0)
        ours = torch.from_numpy(store[image_id]).float()
        # float16 on disk has 11 bits: half a unit in the last place is 2**-12 of the value.
        assert (ours - expected).abs().max() <= 2**-11 * expected.abs().max()
    assert verify(store.path) == []


def test_pooled_vectors_lie_beside_the_grids(store):
    batch = store.read(["p001", "p002"])
    assert batch.features.shape == (2, 4, 2048)
    assert batch.pooled.shape == (2, 1024)
    assert np.abs(batch.pooled).max() > 0


def test_asking_again_finds_the_store_complete(images, store):
    report, said = run(images, store.path, vector="embedding")
    assert said[-1].endswith("is already complete")
    assert (report.images, report.store.digest) == (0, store.digest)


def test_other_pictures_under_the_same_ids_are_not_taken_for_these(store, tmp_path):
    write_photographs(tmp_path, 20)
    photograph(3, 99, 48).save(tmp_path / "p003.jpg")
    with refuses("E-STORE-OTHER-IMAGES", "'p003' is 64x48 pixels there and 99x48 in"):
        run(tmp_path, store.path, vector="embedding")


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"recipe": "square:96"}, "recipe.steps.0.height is 64 in the store, 96 "),
        ({"seed": 1}, "backbone.seed is 0 in the store, 1 "),
        ({"precision": "bfloat16"}, "precision is float32 in the store, bfloat16 "),
        ({"vector": None}, "pooled_dim is 1024 in the store, None "),
    ],
)
def test_a_store_of_another_kind_is_never_touched(images, store, changes, difference):
    with refuses("E-STORE-OTHER", difference, kind=StoreError):
        run(images, store.path, **{"vector": "embedding", **changes})
    assert FeatureStore.open(store.path).digest == store.digest


def test_bad_images_are_recorded_and_the_rest_extracted(tmp_path):
    write_photographs(tmp_path / "images", 3)
    expected = write_bad_files(tmp_path / "images")
    manifest = folder_manifest(tmp_path / "images")
    gone = Image("gone", "gone.jpg", 10, 10)
    manifest = Manifest.of(manifest.root, [*manifest.images, gone])
    report, _ = run(manifest, tmp_path / "s")
    statuses = {row.image_id: row.status for row in report.store.index}
    ok = {f"p{k:03}": "ok" for k in range(3)}
    assert statuses == {**expected, **ok, "gone": "missing"}
    assert len(report.refused) == 6
    assert "1 missing (no such file; such as gone)" in report.text()
    assert verify(report.store.path) == []


def test_a_device_without_memory_says_what_to_lower(images, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")  # no GPU is here to run out of it

    monkeypatch.setattr(FeatureStream, "compute", full)
    with refuses("E-GPUS-MEMORY", "4 images", "--batch-size 2", kind=ExtractError):
        run(images, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_no_image_at_all_leaves_no_store(tmp_path):
    write_photographs(tmp_path / "images", 1)
    manifest = folder_manifest(tmp_path / "images")
    (tmp_path / "images" / "p000.jpg").write_bytes(b"broken since")
    with refuses("E-STORE-NO-RECORDS", "no store was written: 1 und", kind=ExtractError):
        run(manifest, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def weights(path, change):
    """Save the random weights that seed 0 gives, changed, as a file of a state dict."""
    torch.manual_seed(0)
    model: Any = open_clip.create_model("RN50")
    change(model.visual)
    torch.save(model.state_dict(), path)
    return str(path)


@pytest.mark.slow
def test_values_beyond_float16_are_refused_not_clipped(images, tmp_path):
    loud = weights(tmp_path / "loud.pt", lambda tower: tower.layer4[2].bn3.weight.data.fill_(1e12))
    with refuses("E-FEATURES-INVALID", "8 of the 8 images", "65504 of float16"):
        run(images, tmp_path / "s", pretrained=loud)
    few = Manifest.of(images, folder_manifest(images).images[:3])
    with refuses("E-STORE-NO-RECORDS", "1 failed (grid reaches 3.", "e+08, beyond the 65504 of f"):
        run(few, tmp_path / "few", pretrained=loud)


def test_weights_that_give_one_grid_for_every_image_stop_the_run(images, tmp_path):
    blind = weights(tmp_path / "blind.pt", lambda tower: tower.conv1.weight.data.zero_())
    with refuses("E-FEATURES-EQUAL", "grid features of 8 different images", kind=ExtractError):
        run(images, tmp_path / "s", pretrained=blind)
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_nan_stops_the_run_and_is_named(images, tmp_path):
    broken = weights(tmp_path / "nan.pt", lambda tower: tower.conv1.weight.data.fill_(np.nan))
    with refuses("E-FEATURES-INVALID", "8 of the 8 images", "grid holds NaN", kind=ExtractError):
        run(images, tmp_path / "s", pretrained=broken)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of images, one of them cut off, and their finished store."""
    folder = tmp_path_factory.mktemp("finished")
    images = write_photographs(folder / "images", 10)
    photograph(4).save(images / "p004.jpg")
    (images / "p004.jpg").write_bytes((images / "p004.jpg").read_bytes()[:200])
    run(images, folder / "s")
    return folder


class TestUpdates:
    """A finished store takes more images, and tries refused ones again."""

    @pytest.fixture
    def folder(self, finished, tmp_path):
        return shutil.copytree(finished, tmp_path, dirs_exist_ok=True)

    def test_more_images_are_added_behind(self, folder):
        old = FeatureStore.open(folder / "s")
        before = {s.path: (folder / "s" / s.path).stat().st_mtime_ns for s in old.shards}
        write_photographs(folder / "more", 13)
        for name in ("p010.jpg", "p011.jpg", "p012.jpg"):
            (folder / "more" / name).rename(folder / "images" / name)
        report, said = run(folder / "images", folder / "s", shard_size=None)
        assert said[-1] == f"{folder}/s is finished; 3 images to add"
        assert report.store.metadata.parents == (old.digest,)
        assert (report.images, len(report.store)) == (3, 12)
        assert {p: (folder / "s" / p).stat().st_mtime_ns for p in before} == before
        whole = run(folder / "images", folder / "whole")[0].store
        for image_id in whole.ids:
            np.testing.assert_array_equal(report.store[image_id], whole[image_id])
        assert verify(folder / "s", Depth.DEEP) == []

    def test_refused_images_are_tried_again_when_asked(self, folder):
        old = FeatureStore.open(folder / "s")
        assert run(folder / "images", folder / "s")[1][-1].endswith("is already complete")
        with refuses("E-STORE-NO-RECORDS", "/s is unchanged: 1 und", kind=ExtractError):
            run(folder / "images", folder / "s", retry=("undecodable",))
        assert (FeatureStore.open(folder / "s").digest, verify(folder / "s")) == (old.digest, [])
        photograph(4, 99, 77).save(folder / "images" / "p004.jpg")  # of another size even
        store = run(folder / "images", folder / "s", retry=("undecodable",))[0].store
        assert store["p004"].any()
        assert (len(store), store.metadata.counts[Status.UNDECODABLE]) == (10, 0)
        assert store.metadata.parents == (old.digest,)
        assert verify(folder / "s", Depth.DEEP) == []

    def test_a_dropped_shard_is_written_again_to_the_same_digest(self, folder):
        old = FeatureStore.open(folder / "s")
        shard = folder / "s" / old.shards[0].path
        shard.write_bytes(shard.read_bytes()[:-7])
        assert [p.path for p in repair(folder / "s").dropped] == [old.shards[0].path]
        report, said = run(folder / "images", folder / "s")
        assert said[-1].endswith("is finished; 8 images of missing shards to extract again")
        assert (report.store.digest, report.store.metadata.parents) == (old.digest, ())
        assert verify(folder / "s", Depth.DEEP) == []

    def test_an_update_of_another_kind_is_refused(self, folder):
        with refuses("E-STORE-SHARD-SIZE", "/s has 8 records a shard"):
            run(folder / "images", folder / "s", shard_size=4)
        with refuses("E-STORE-OTHER", "dtype is float16", "float32", kind=StoreError):
            run(folder / "images", folder / "s", dtype="float32")

    def test_fewer_images_are_refused(self, folder):
        (folder / "images" / "p000.jpg").unlink()
        with refuses("E-STORE-IDS", "holds 1 image", "such as 'p000'", kind=StoreError):
            run(folder / "images", folder / "s")

    def test_a_retry_needs_a_finished_store(self, folder):
        with refuses("E-STORE-UNFINISHED", kind=StoreError):
            run(folder / "images", folder / "none", retry=("missing",))


@pytest.mark.slow
def test_two_processes_make_the_store_that_one_makes(images, store, tmp_path):
    assert (
        run(images, tmp_path / "two", procs=2, vector="embedding")[0].store.digest == store.digest
    )


@pytest.mark.parametrize("batch_size", [3, 16])
def test_the_batch_size_does_not_change_a_bit(images, store, tmp_path, batch_size):
    other = run(images, tmp_path / "s", batch_size=batch_size, vector="embedding")[0].store
    assert other.digest == store.digest


@pytest.mark.slow
def test_a_killed_extraction_goes_on_and_ends_as_if_it_had_not_been(images, store, tmp_path):
    out = tmp_path / "s"
    command = [sys.executable, "-m", "clipfeat.cli", "extract", "--images", str(images)]
    command += ["--out", str(out), "--model", "RN50", "--pretrained", "none", "--pooled"]
    command += ["--recipe", "square:64", "--device", "cpu", "--batch-size", "4"]
    command += ["--shard-size", "8"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        while not list(out.glob("journal/0*.receipt")) and child.poll() is None:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    with pytest.raises(StoreError, match="is unfinished"):
        FeatureStore.open(out)
    report, said = run(images, out, vector="embedding")
    assert said[-1] in {f"{n} images already extracted; resuming" for n in (8, 16, 20)}
    assert report.store.digest == store.digest


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"model": "RN51"}, "RN5"),
        ({"recipe": "caption"}, "caption448"),
        ({"device": None, "gpus": "999"}, "torch finds"),
    ],
)
def test_a_request_that_cannot_be_met_touches_nothing(images, tmp_path, changes, remedy):
    with pytest.raises(UsageError, match=remedy):
        run(images, tmp_path / "s", **changes)
    assert not (tmp_path / "s").exists()


def test_the_store_is_named_after_images_model_and_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    name = default_out(tmp_path / "images", "RN50x4", "caption448").name
    assert name == "images-RN50x4-caption448.clipfeat"
    name = default_out(tmp_path / "m.parquet", "ViT-B-32", "square:224").name
    assert name == "m-ViT-B-32-square224.clipfeat"
