"""A received store against its images: same bits, same features, other features, other files."""

import json

import numpy as np
import pytest
import torch
from logged import logged
from pictures import photograph, write_photographs
from refused import refuses
from stores import make_identity

from clipfeat.base.errors import ExtractUsageError
from clipfeat.extract import ExtractConfig, extract_images
from clipfeat.extract.executors.pipeline import FeatureStream
from clipfeat.extract.planning.recipe import Recipe
from clipfeat.extract.recompute import decode_rows, recompute, sample
from clipfeat.featstore import (
    FeatureStore,
    GridShape,
    IndexRow,
    convert,
    pool,
    subset,
    write_store,
)
from clipfeat.featstore.geometry import BICUBIC, RGB, WholeCells
from clipfeat.featstore.report.deviation import deviation
from clipfeat.manifests import folder_manifest

IMAGES = 12

pytestmark = pytest.mark.usefixtures("one_backbone")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("images"), IMAGES)


def extract(images, out, **changes):
    config = ExtractConfig(**{"model": "RN50", "pretrained": "none", "recipe": "square:64",
                              "device": "cpu", "batch_size": 4, "decoders": 1, **changes})  # fmt: skip
    return extract_images(folder_manifest(images), out, config).store


@pytest.fixture(scope="module")
def store(images, tmp_path_factory):
    return extract(images, tmp_path_factory.mktemp("store") / "s")


def again(store, images, count=8, **more):
    """Return the comparison and what it logged."""
    with logged() as lines:
        return recompute(store, str(images), count, seed=3, device="cpu", **more), lines


def test_a_store_of_this_machine_has_the_same_bits(store, images):
    found, _ = again(store, images)
    assert (found.verdict, found.is_good) == ("same bits", True)
    assert len({d.image_id for d in found.deviations}) == 8
    assert all((d.relative_error, d.same_bits) == (0.0, True) for d in found.deviations)
    assert "8 records extracted again: 8 with the same bits" in found.text()
    assert json.loads(json.dumps(found.to_json()))["verdict"] == "same bits"


def test_no_image_is_decoded_in_the_process_that_compares(store, images, monkeypatch):
    def die(*_, **__):
        raise SystemError("a crash of the image library")

    monkeypatch.setattr("clipfeat.extract.pixels.images.decode", die)
    assert again(store, images)[0].verdict == "same bits"


def test_a_size_in_the_index_that_no_recipe_allows_takes_no_memory(images):
    row = IndexRow("a", "ok", "", "1x1", 0, 1 << 20, 1 << 20, "", "p000.jpg", "")
    steps = (WholeCells(1 << 15, 1 << 16, (32, 32), **BICUBIC), RGB())
    recipe = Recipe("own", steps, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    ((_, picture),) = decode_rows([row], str(images), recipe)
    assert picture.reason == "1048576x1048576 would be resized to 32768x32768"


@pytest.mark.parametrize(
    ("change", "verdict", "least", "most"),
    [
        (lambda grid: grid * 1.0007, "same features", 5e-4, 1e-3),  # as other hardware might round
        (lambda grid: grid.flip(2), "DIFFERENT", 0.1, 2.0),  # columns from right to left
    ],
)
def test_rounding_is_told_from_other_features(
    images, tmp_path, monkeypatch, change, verdict, least, most
):
    array = FeatureStream._array
    with monkeypatch.context() as patch:
        patch.setattr(FeatureStream, "_array", lambda self, grid: array(self, change(grid)))
        store = extract(images, tmp_path / "s")
    found, _ = again(store, images)
    assert (found.verdict, found.is_good) == (verdict, verdict == "same features")
    assert all(least < d.relative_error < most for d in found.deviations)


def test_files_that_are_not_those_extracted_are_named_and_not_compared(store, images, tmp_path):
    write_photographs(tmp_path, IMAGES)
    photograph(99, 64, 48).save(tmp_path / "p003.jpg")
    (tmp_path / "p004.jpg").unlink()
    found, _ = again(store, tmp_path, IMAGES)
    assert all(deviation.same_bits for deviation in found.deviations)
    assert (found.verdict, found.is_good) == ("other files", False)
    assert dict(found.skipped) == {
        "p003": "p003.jpg: another file than the one extracted (sha256)",
        "p004": "p004.jpg: no such file",
    }
    (tmp_path / "p003.jpg").unlink()  # a missing file says nothing of the others
    assert again(store, tmp_path, IMAGES)[0].verdict == "same bits"
    nothing, (weights, *said) = again(store, tmp_path / "elsewhere", 5)
    assert (nothing.verdict, nothing.is_good) == ("not compared", False)
    assert weights.startswith("Random weights")
    assert said == [f"none of the 5 sampled images could be compared; is {tmp_path}/elsewhere "
                    "their folder?"]  # fmt: skip


DERIVED = {
    "subset": lambda store, out: subset(store, out, ids=store.ids[:6]),
    "uint8": lambda store, out: convert(store, out, dtype="uint8"),
    "mantissa": lambda store, out: convert(store, out, mantissa_bits=3),
    "pool": lambda store, out: pool(store, out, GridShape(1, 2)),
    "pool twice": lambda store, out: pool(
        pool(store, out.with_name("once"), GridShape(2, 1)), out, GridShape(1, 1)
    ),
}


@pytest.mark.parametrize("name", DERIVED)
def test_a_derived_store_is_pooled_and_rounded_again(store, images, tmp_path, name):
    found, _ = again(DERIVED[name](store, tmp_path / "o"), images, 4)
    assert found.verdict == "same bits"


@pytest.mark.parametrize(
    ("change", "verdict"),
    [(lambda grid: grid * 1.0007, "same features"), (lambda grid: grid.flip(2), "DIFFERENT")],
    ids=["rounding", "columns"],
)
def test_rounding_is_told_from_other_features_in_derived_stores(
    images, tmp_path, monkeypatch, change, verdict
):
    array = FeatureStream._array
    with monkeypatch.context() as patch:
        patch.setattr(FeatureStream, "_array", lambda self, grid: array(self, change(grid)))
        store = extract(images, tmp_path / "s")
    for name in ("uint8", "mantissa", "pool"):
        found, _ = again(DERIVED[name](store, tmp_path / name), images, 4)
        assert found.verdict == verdict, name


def test_the_padding_is_not_pooled(images, tmp_path):
    (tmp_path / "padded.toml").write_text(
        'name = "padded"\n'
        'steps = [{ step = "shortest-maskrcnn", side = 64, longest = 128, '
        'interpolation = "bilinear" }, { step = "rgb" },'
        ' { step = "pad", height = 64, width = 128, turn = true, odd = "first" }]'
    )
    store = extract(images, tmp_path / "s", recipe=str(tmp_path / "padded.toml"))
    found, _ = again(pool(store, tmp_path / "o", GridShape(1, 2)), images, 4)
    assert found.verdict == "same bits"


def test_a_recipe_that_does_not_say_how_it_was_pooled(images, tmp_path):
    for number, pooling in enumerate(([1 << 20, 1 << 20], [0, 1], "7x7", None, [1, 2, 3])):
        identity = make_identity(4, recipe={"pool": pooling, "recipe": {}})
        grids = {"a": np.ones((1, 1, 4), np.float16)}
        write_store(tmp_path / str(number), identity, {"a": GridShape(1, 1)}, grids.get)
        with refuses("E-RECIPE-POOL"):
            recompute(FeatureStore.open(tmp_path / str(number)), str(images), 1)


@pytest.mark.slow
def test_other_weights_are_refused_before_any_comparison(images, tmp_path):
    from open_clip import create_model

    for seed in (5, 6):
        torch.manual_seed(seed)
        torch.save(create_model("RN50").state_dict(), tmp_path / f"{seed}.pt")
    store = extract(images, tmp_path / "s", pretrained=str(tmp_path / "5.pt"))
    with pytest.raises(ExtractUsageError, match="--pretrained PATH"):
        again(store, images)
    with pytest.raises(ExtractUsageError, match="sha256"):
        again(store, images, pretrained=str(tmp_path / "6.pt"))
    assert again(store, images, pretrained=str(tmp_path / "5.pt"))[0].verdict == "same bits"


def test_the_deviation_of_a_worked_example():
    stored = np.array([[[3.0, 4.0], [0.0, 0.0]]], np.float32)  # norm 5
    ours = np.array([[[4.0, 3.0], [0.0, 0.0]]], np.float32)  # (3*4 + 4*3) / 25; norm of (1, -1)
    found = deviation("a", ours, stored)
    assert found.cosine == pytest.approx(24 / 25)
    assert found.relative_error == pytest.approx(2**0.5 / 5)
    assert not found.same_bits


def test_every_row_is_as_likely_to_be_drawn():
    rows = [IndexRow(f"{k}", "ok", "", "1x1", k, 1, 1, "", "", "") for k in range(20)]
    drawn = [row.row for seed in range(2000) for row in sample(rows, 5, seed)]
    counts = np.bincount(drawn, minlength=20)
    # 500 expected; five standard deviations of a binomial are 97.
    assert counts.sum() == 10_000
    assert (abs(counts - 500) < 97).all()
