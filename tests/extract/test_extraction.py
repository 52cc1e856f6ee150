"""Images in, a finished store out: on one device, on several processes, after a kill."""

import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from pictures import photograph, write_bad_files, write_photographs
from PIL import Image as PillowImage

from clipfeat.extract.errors import ExtractError, ExtractUsageError
from clipfeat.extract.extraction import Request, default_out, extract_images
from clipfeat.featstore import FeatureStore, StoreError
from clipfeat.featstore.verify import verify
from clipfeat.manifests import Image, Manifest, folder_manifest

REQUEST = {
    "model": "RN50",
    "pretrained": "none",
    "recipe": "square:64",
    "device": "cpu",
    "batch_size": 4,
    "shard_size": 8,
}


def run(images, out, **changes):
    said = []
    manifest = images if isinstance(images, Manifest) else folder_manifest(images)
    request = Request(**{**REQUEST, **changes})
    return extract_images(manifest, out, request, say=said.append), said


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("images"), 20)


@pytest.fixture(scope="module")
def store(images, tmp_path_factory):
    return run(images, tmp_path_factory.mktemp("out") / "s", pooled=True)[0].store


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
    report, said = run(images, store.path, pooled=True)
    assert said[-1].endswith("is already complete")
    assert (report.images, report.store.digest) == (0, store.digest)


def test_other_pictures_under_the_same_ids_are_not_taken_for_these(store, tmp_path):
    write_photographs(tmp_path, 20)
    photograph(3, 99, 48).save(tmp_path / "p003.jpg")
    with pytest.raises(StoreError, match="'p003' is 64x48 pixels there and 99x48 in"):
        run(tmp_path, store.path, pooled=True)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"recipe": "square:96"}, "recipe.height is 64 in the store, 96 asked for"),
        ({"seed": 1}, "backbone.seed is 0 in the store, 1 asked for"),
        ({"precision": "bfloat16"}, "precision is float32 in the store, bfloat16 asked for"),
        ({"pooled": False}, "pooled_dim is 1024 in the store, None asked for"),
    ],
)
def test_a_store_of_another_kind_is_never_touched(images, store, changes, why):
    with pytest.raises(StoreError, match=why):
        run(images, store.path, **{"pooled": True, **changes})
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
    assert "1 missing (no such file; gone for one)" in report.text()
    assert verify(report.store.path) == []


def test_no_image_at_all_leaves_no_store(tmp_path):
    write_photographs(tmp_path / "images", 1)
    manifest = folder_manifest(tmp_path / "images")
    (tmp_path / "images" / "p000.jpg").write_bytes(b"broken since")
    with pytest.raises(ExtractError, match="no image gave a record, no store was written: 1 und"):
        run(manifest, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_values_beyond_float16_are_refused_not_clipped(images, tmp_path):
    torch.manual_seed(0)
    model: Any = open_clip.create_model("RN50")
    model.visual.layer4[2].bn3.weight.data.fill_(1e12)
    torch.save(model.state_dict(), tmp_path / "loud.pt")
    loud = str(tmp_path / "loud.pt")
    with pytest.raises(ExtractError, match=r"8 of the 8 images of a shard .* 65504 of float16"):
        run(images, tmp_path / "s", pretrained=loud)
    few = Manifest.of(images, folder_manifest(images).images[:3])
    with pytest.raises(
        ExtractError, match=r"3 failed .grid reaches .*e\+08, beyond the 65504 of f"
    ):
        run(few, tmp_path / "few", pretrained=loud)


def test_two_processes_make_the_store_that_one_makes(images, tmp_path):
    # bfloat16 rounds away the last bit, which depends on the number of threads in float32.
    one = run(images, tmp_path / "one", precision="bfloat16")[0].store
    two = run(images, tmp_path / "two", precision="bfloat16", procs=2)[0].store
    assert two.digest == one.digest


def test_a_killed_extraction_goes_on_and_ends_as_if_it_had_not_been(images, store, tmp_path):
    out = tmp_path / "s"
    command = [sys.executable, "-m", "clipfeat.cli", "extract", "--images", str(images)]
    command += ["--out", str(out), "--model", "RN50", "--pretrained", "none", "--pooled"]
    command += ["--recipe", "square:64", "--device", "cpu", "--batch-size", "4"]
    command += ["--shard-size", "8"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        while not list(out.glob("journal/0*.json")) and child.poll() is None:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    with pytest.raises(StoreError, match="is unfinished"):
        FeatureStore.open(out)
    report, said = run(images, out, pooled=True)
    assert said[-1] in {f"{n} images are already down; going on" for n in (8, 16, 20)}
    assert report.store.digest == store.digest


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": "RN51"}, "no such model; did you mean RN5"),
        ({"recipe": "caption"}, "did you mean caption448"),
        ({"device": None, "gpus": "999"}, "this machine has .*; type --"),
    ],
)
def test_a_request_that_cannot_be_met_touches_nothing(images, tmp_path, changes, why):
    with pytest.raises(ExtractUsageError, match=why):
        run(images, tmp_path / "s", **changes)
    assert not (tmp_path / "s").exists()


def test_the_store_is_named_after_images_model_and_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    request = Request(model="RN50x4")
    assert str(default_out(tmp_path / "images", request)) == "images-RN50x4-caption448.clipfeat"
    request = Request(model="ViT-B-32", recipe="square:224")
    assert str(default_out(tmp_path / "m.parquet", request)) == "m-ViT-B-32-square224.clipfeat"
