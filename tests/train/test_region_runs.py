"""Every trainer on a store of regions: it learns, evaluates and answers, or is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import caption_world
import numpy as np
import pretrain_world
import pytest
import torch
import ve_world
import vqa_world
from refused import refuses
from region_world import as_regions, write_regions

from clipfeat.base.errors import UsageError
from clipfeat.featstore import FeatureStore
from clipfeat.train.checkpoint import read_checkpoint
from clipfeat.train.models.regions import require_regions
from clipfeat.train.models.settings import (
    LinearProbeSettings,
    McanSettings,
    MovieMcanSettings,
    SingleStreamSettings,
    UpDnSettings,
)
from clipfeat.train.records import RecordReader, relative_boxes
from clipfeat.train.settings import LoopSettings
from clipfeat.train.task import make_order

Typed = Callable[..., tuple[int, str, str]]
CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
QUICK = ("updates=3", "batch_size=16", "min_answer_count=1", "model.embedding=8")
SMALL = (*QUICK, "model.hidden=16")
# Tiny forms of every model that reads regions; `updn`, the default, comes first.
MODELS = {
    "updn": (),
    "updn_large": (),
    "pythia": ("model.joint=16", "model.text_head=8", "model.image_head=16"),
    "mcan_small": ("model.layers=1", "model.heads=2", "model.reduction=8", "model.joint=16"),
    "attentive_probe": ("model.heads=2",),
    "linear_probe": (),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The store of grids, whose cells are the regions of `regions`, and the questions."""
    return vqa_world.make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def regions(world: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return as_regions(world[0], tmp_path_factory.mktemp("regions") / "r.clipfeat").path


def words(store: Path, data: Path, out: Path, *changes: str) -> list[object]:
    sets = [f"--set={change}" for change in changes]
    return ["--store", store, "--data", data, "--out", out, *sets, "--device", "cpu"]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_boxes_become_shares_of_the_image() -> None:
    boxes = np.array([[[0, 0, 640, 480], [160, 120, 480, 240]], [[1, 2, 3, 4]] * 2], np.float32)
    found = relative_boxes(boxes, np.array([[640, 480], [0, 480]]))
    assert found[0].tolist() == [[0, 0, 1, 1, 1], [0.25, 0.25, 0.75, 0.5, 0.125]]
    assert not found[1].any()  # of an image whose width is not known


@pytest.mark.parametrize("cache", ["none", "memory", "device"])
def test_regions_are_read_with_their_boxes(tmp_path: Path, cache: str) -> None:
    counts = {"a": 3, "b": 1, "c": 5}
    held = {
        image_id: (RNG.normal(size=(n, 4)), RNG.uniform(0, 100, (n, 4)).astype(np.float32))
        for image_id, n in counts.items()
    }
    sizes = {"a": (100, 200), "b": (50, 25), "c": (3, 7)}
    store = write_regions(tmp_path / "s.clipfeat", held, sizes)
    reader = RecordReader(store, CPU, cache)
    for ids in (["b", "a"], ["a", "c", "b"], ["b"]):
        records = reader.read(ids)
        assert records.boxes.shape == (len(ids), max(counts[i] for i in ids), 5)
        for row, image_id in enumerate(ids):
            (width, height), n = sizes[image_id], counts[image_id]
            left, top, right, bottom = held[image_id][1].astype(float).T
            expected = np.stack(
                (
                    *(left / width, top / height, right / width, bottom / height),
                    (right - left) * (bottom - top) / (width * height),
                ),
                axis=1,
            )
            np.testing.assert_allclose(records.boxes[row, :n], expected, rtol=1e-5)
            assert not records.boxes[row, n:].any()


@pytest.mark.parametrize("model", MODELS)
def test_vqa_trains_evaluates_and_answers(
    world: tuple[Path, Path], regions: Path, tmp_path: Path, typed: Typed, model: str
) -> None:
    changes = (*QUICK, *MODELS[model])
    if model != "linear_probe":
        changes += ("model.hidden=16", "model.positions=true")
    run = tmp_path / "run"
    preset = () if model == "updn" else (model,)
    code, _, err = typed("train", "vqa", *preset, *words(regions, world[1], run, *changes))
    assert (code, err) == (0, "")
    assert read(run / "settings.json")["features"]["regions"] is True
    trained = read(run / "result.json")
    code, out, _ = typed("eval", "vqa", run, "--split", "val", "--json", "--device", "cpu")
    assert code == 0
    assert json.loads(out)["overall"] == trained["overall"]

    image_id = FeatureStore.open(regions).ids[0]
    question = ["--image-id", image_id, "--question", "Is the shape red?"]
    code, out, _ = typed("predict", "vqa", run, *question, "--json", "--device", "cpu")
    assert code == 0
    answered = json.loads(out)
    assert answered["grid"] == [len(FeatureStore.open(regions)[image_id]), 1]
    assert np.isclose(np.sum(answered["attention"]), 1)
    assert (run / "answer.png").stat().st_size > 1000


def test_regions_without_positions_train_as_grids_do(
    world: tuple[Path, Path], regions: Path, tmp_path: Path, typed: Typed
) -> None:
    """The regions are the cells of the grids: whatever reads no place cannot tell them apart."""
    changes = (*SMALL, *MODELS["mcan_small"], "model.positions=false")
    for store, name in ((world[0], "grids"), (regions, "regions")):
        arguments = words(store, world[1], tmp_path / name, *changes)
        assert typed("train", "vqa", "mcan_small", *arguments)[0] == 0
    one, other = (
        read_checkpoint(tmp_path / name / "best.safetensors")[0] for name in ("grids", "regions")
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_entailment_trains_and_evaluates(tmp_path: Path, typed: Typed) -> None:
    grids, data = ve_world.make_world(tmp_path / "world", train=20, dev=5)
    store = as_regions(grids, tmp_path / "r.clipfeat").path
    changes = [change for change in SMALL if not change.startswith("min_answer")]
    assert typed("train", "ve", *words(store, data, tmp_path / "run", *changes))[0] == 0
    evaluated = typed("eval", "ve", tmp_path / "run", "--split", "test", "--device", "cpu")
    assert evaluated[0] == 0


@pytest.mark.parametrize("model", ["TRANSFORMER", "UPDN"])
def test_captions_train_and_are_written(tmp_path: Path, typed: Typed, model: str) -> None:
    grids, data = caption_world.make_world(tmp_path / "world", train=10, val=4, test=4)
    store = as_regions(grids, tmp_path / "r.clipfeat").path
    settings = getattr(caption_world, model).replace("}", ", positions=true}")
    changes = (*caption_world.FAST, settings, "updates=3", "scst.updates=2")
    run = tmp_path / "run"
    assert typed("train", "caption", *words(store, data, run, *changes))[0] == 0
    image_id = FeatureStore.open(store).ids[0]
    assert typed("predict", "caption", run, image_id, "--device", "cpu")[0] == 0


@pytest.mark.slow
def test_a_page_of_captions_shows_regions(tmp_path: Path, typed: Typed) -> None:
    grids, data = caption_world.make_world(tmp_path / "world", train=10, val=4, test=4)
    store = as_regions(grids, tmp_path / "r.clipfeat").path
    changes = (*caption_world.FAST, caption_world.TRANSFORMER)
    run = tmp_path / "run"
    arguments = words(store, data, run, *changes)
    assert typed("train", "caption", "--stage", "xe", *arguments)[0] == 0
    code, _, err = typed("eval", "caption", run, "--split", "test", "--page", "--device", "cpu")
    assert (code, err) == (0, "")
    assert "data:image/png" in (run / "examples.html").read_text()


def test_pretraining_trains_and_is_fine_tuned(tmp_path: Path, typed: Typed) -> None:
    grids, data = pretrain_world.make_world(tmp_path / "world")
    store = as_regions(grids, tmp_path / "r.clipfeat").path
    run = tmp_path / "run"
    changes = (*pretrain_world.FAST, "updates=3", "objectives.cells=1", "sampled_cells=2")
    typed_words = words(store, data, run, *changes)
    assert typed("train", "pretrain", "demo", *typed_words)[0] == 0
    code, out, _ = typed("eval", "pretrain", run, "--split", "heldout", "--json", "--device", "cpu")
    assert code == 0
    assert json.loads(out)["score"] == read(run / "result.json")["score"]
    split = ("train_split=train", "eval_split=", "updates=3", "batch_size=16", "min_answer_count=1")
    tuned = words(store, data, tmp_path / "vqa", *split)
    assert typed("train", "vqa", *tuned, "--init", run)[0] == 0
    code, _, err = typed("train", "vqa", *words(grids, data, tmp_path / "g", *split), "--init", run)
    assert code != 0
    assert "was trained on regions" in err
    assert "has grids" in err


def test_a_run_of_grids_and_one_of_regions_refuse_the_other(
    world: tuple[Path, Path], regions: Path, tmp_path: Path, typed: Typed
) -> None:
    for own, other, name in ((world[0], regions, "grids"), (regions, world[0], "regions")):
        run = tmp_path / name
        assert typed("train", "vqa", *words(own, world[1], run, *SMALL))[0] == 0
        code, _, err = typed("eval", "vqa", run, "--split", "val", "--store", other)
        assert code != 0
        assert "the run was trained on features unlike those of" in err
        assert "regions was" in err


def test_sizes_must_be_known_where_boxes_are_read(
    world: tuple[Path, Path], tmp_path: Path, typed: Typed
) -> None:
    ids = FeatureStore.open(world[0]).ids
    sizes = dict.fromkeys(ids[1:], (640, 480)) | {ids[2]: (640, 0)}
    store = as_regions(world[0], tmp_path / "r.clipfeat", sizes)
    for model in (UpDnSettings(), McanSettings(positions=True), SingleStreamSettings()):
        with refuses("E-REGIONS-SIZE", "of 2 of 33 images", ids[0], "--sizes", kind=UsageError):
            require_regions(model, store)
    for model in (UpDnSettings(positions=False), McanSettings(), LinearProbeSettings()):
        require_regions(model, store)

    code, _, err = typed("train", "vqa", *words(store.path, world[1], tmp_path / "run", *SMALL))
    assert code != 0
    assert "does not know width and height" in err
    assert not (tmp_path / "run").exists()
    without = words(store.path, world[1], tmp_path / "run", *SMALL, "model.positions=false")
    assert typed("train", "vqa", *without)[0] == 0


def test_movie_refuses_regions(
    world: tuple[Path, Path], regions: Path, tmp_path: Path, typed: Typed
) -> None:
    with refuses("E-REGIONS-MOVIE", "movie_mcan", "mcan", kind=UsageError):
        require_regions(MovieMcanSettings(), FeatureStore.open(regions))
    arguments = words(regions, world[1], tmp_path / "run")
    code, _, err = typed("train", "vqa", "movie_mcan", *arguments)
    assert code != 0
    assert "movie_mcan reads maps" in err


def test_buckets_of_regions_are_few(tmp_path: Path) -> None:
    """Adaptive bottom-up features have 10 to 100 regions, each number a grid shape of its own."""
    counts = range(10, 34)
    held = {f"{n:03}": (np.ones((n, 2)), np.ones((n, 4))) for n in counts}
    store = write_regions(tmp_path / "s.clipfeat", held)
    settings = LoopSettings(bucket_by_grid_shape=True)
    order = make_order(np.arange(len(counts)), store.ids, store, settings)
    assert order.shape_of_image is not None
    buckets = [set() for _ in range(order.shape_of_image.max() + 1)]
    for count, bucket in zip(counts, order.shape_of_image.tolist(), strict=True):
        buckets[bucket].add(count)
    assert len(buckets) == 4
    assert all(max(bucket) - min(bucket) < 8 for bucket in buckets)
