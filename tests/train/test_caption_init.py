"""Captioning that starts from another captioning run: what it takes over."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from caption_world import FAST, caption_of, make_world, name_of, row_of, train_world, write_rows
from refused import refuses
from stores import make_store

from clipfeat.base.errors import UsageError
from clipfeat.featstore import FeatureStore
from clipfeat.train.data.caption_vocabulary import build_bpe
from clipfeat.train.devices import accelerator_on
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.captioning.model import load_stage
from clipfeat.train.tasks.captioning.start import add_words, find_start
from clipfeat.train.tasks.captioning.training import CrossEntropyTask, read_data
from clipfeat.train.tasks.settings import CaptionSettings

World = tuple[Path, Path]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    train_world(world, out, "epochs=2", "norm=channel", stages=("xe",))
    return out


def settings_of(*changes: str) -> CaptionSettings:
    return load_settings(CaptionSettings, config=None, assignments=[*FAST, *changes])


def test_all_weights_are_kept_and_new_words_are_fresh(
    world: World, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = ["train"] * 30 + ["val"] * 10
    rows = [
        row_of(i, split, caption_of(i), "A huge thing stands here.")
        for i, split in enumerate(splits, start=1)
    ]
    data = write_rows(tmp_path / "captions", rows)
    store = FeatureStore.open(world[0])
    with caplog.at_level("INFO"):
        settings, start = find_start(settings_of(f"init={run}", "bpe=30"), store)
        read = read_data(settings, store, data, start)
        task = CrossEntropyTask(settings, read, accelerator_on("cpu", settings))
    first = load_stage(run / "xe")
    assert (settings.model, settings.norm) == (first.settings.model, "channel")
    assert settings.bpe == 0, "the words are those of the run"
    old = ["a", "blue", "green", "here", "red", "shape"]
    assert task.vocabulary_record()["words"] == [*old, "huge", "stands", "thing"]
    assert "6 that the start knows, 3 new ones" in caplog.text
    assert read.files[-1] == run / "xe" / "best.safetensors"
    kept, state = 4 + len(old), task.model.state_dict()
    longer = {
        name
        for name, tensor in first.model.state_dict().items()
        if not torch.equal(state[name][: len(tensor)] if tensor.dim() else state[name], tensor)
        or state[name].shape != tensor.shape
    }
    assert longer == {"words.weight", "classifier.weight", "classifier.bias"}
    for name in longer:
        assert torch.equal(state[name][:kept], first.model.state_dict()[name])
        assert state[name].shape[0] == kept + 3
        assert state[name][kept:].abs().min() > 0


def test_a_run_is_trained_from_another(world: World, run: Path, tmp_path: Path) -> None:
    scores = json.loads((run / "xe" / "result.json").read_text())
    results = train_world(world, tmp_path / "out", "epochs=1", f"init={run}", stages=("xe",))
    assert results["xe"]["cider_d"] >= scores["cider_d"]
    written = json.loads((tmp_path / "out" / "xe" / "settings.json").read_text())
    assert written["settings"]["norm"] == "channel"
    assert written["data_files"].keys() == {"dataset_coco.json", "best.safetensors"}


def test_what_cannot_be_started_from_is_refused(world: World, run: Path, tmp_path: Path) -> None:
    store = FeatureStore.open(world[0])
    with refuses("E-INIT-FOLDER", "nowhere", kind=UsageError):
        find_start(settings_of("init=nowhere"), store)
    with refuses("E-INIT-MODEL", "leave out model", kind=UsageError):
        find_start(settings_of(f"init={run}", "model=updn"), store)
    with refuses("E-RUN-BEST", kind=UsageError):
        find_start(settings_of(f"init={tmp_path}"), store)
    grids = {name_of(i, "train"): np.ones((2, 2, 4), np.float16) for i in (1, 2)}
    other = FeatureStore.open(make_store(tmp_path / "other.clipfeat", grids))
    with refuses("E-INIT-FEATURES", "8 channels", kind=UsageError):
        find_start(settings_of(f"init={run}"), other)


def test_parts_of_words_stay_as_they_are() -> None:
    pieces = build_bpe(["a red shape"] * 9, size=16)
    assert add_words(pieces, ["a huge thing"], min_count=1) is pieces
