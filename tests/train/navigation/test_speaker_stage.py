"""The speaker's stage: it learns to describe paths, is scored by BLEU-4, and resumes exactly."""

from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from nav_files import write_r2r
from nav_world import make_nav_world, nav_settings, read_json, train_nav
from refused import refuses
from stopped import Stopped, stop_in_update

from clipfeat.train.devices import accelerator_on
from clipfeat.train.metrics.bleu import corpus_bleu
from clipfeat.train.navigation.words import END, UNKNOWN, split_words
from clipfeat.train.tasks import load_run
from clipfeat.train.tasks.navigation.data import EpisodeBatch, read_training
from clipfeat.train.tasks.navigation.speaker import SpeakerTask, bleu_percent, load_speaker
from clipfeat.train.tasks.navigation.training import format_stages

SPEAKER = (
    "speaker={word=32, hidden=96, angle_repeats=1, dropout=0.0, feature_dropout=0.0, "
    "max_words=24, updates=180, batch_size=32, lr=5e-3}"
)
SHORT = (
    "speaker={word=16, hidden=32, angle_repeats=2, dropout=0.2, feature_dropout=0.2, "
    "max_words=24, updates=14, batch_size=16, lr=1e-2}"
)
TEXTS = ("max_tokens=20", "log_every=1", "checkpoint_every=3", "eval_every=4")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nav_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def trained(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A speaker's run, and its results."""
    out = tmp_path_factory.mktemp("trained") / "run"
    often = ("log_every=60", "eval_every=90")
    return out, train_nav(world, out, SPEAKER, "max_tokens=20", *often, stages=("speaker",))


def test_a_speaker_learns_to_describe_paths(
    world: Path, trained: tuple[Path, dict[str, Any]]
) -> None:
    """It knows the training split by heart, and has learned where colours are seen."""
    out, results = trained
    result = results["speaker"]
    task = new_task(world, SPEAKER)
    model = load_speaker(out / "speaker").model
    assert bleu_percent(task.describe(model, task.world.training)) > 90
    bleu = result["splits"]["val_seen"]["bleu4"]
    described = task.describe(model, task.world.held_out[0])
    assert bleu == bleu_percent(described)
    others = [a._replace(references=b.references) for a, b in pairwise([*described, described[0]])]
    assert bleu > bleu_percent(others) + 20, "the form alone gives no such score"
    assert result == read_json(out / "speaker" / "result.json")
    assert (result["metric"], result["selected_on"]) == ("bleu4", "val_seen")
    said = format_stages(results)
    assert f"{result['splits']['val_seen']['bleu4']:.2f}  BLEU-4 on val_seen, 14 paths" in said


def test_written_instructions_stand_beside_the_references(
    world: Path, trained: tuple[Path, dict[str, Any]]
) -> None:
    """The file has each path once, and its BLEU is that of the result."""
    out, results = trained
    for split, scores in results["speaker"]["splits"].items():
        written = read_json(out / "speaker" / f"predictions_{split}.json")
        records = read_json(world / "data" / f"R2R_{split}.json")
        assert scores["n"] == len(written) == len(records)
        for each, record in zip(written, records, strict=True):
            assert each["path_id"] == str(record["path_id"])
            assert each["scan"] == record["scan"]
            assert each["references"] == record["instructions"]
        references = [
            [" ".join(split_words(text)) for text in each["references"]] for each in written
        ]
        bleu = corpus_bleu([each["instruction"] for each in written], references)
        assert scores["bleu4"] == pytest.approx(100 * bleu, abs=0.01)


def test_a_speaker_is_loaded_as_one(trained: tuple[Path, dict[str, Any]]) -> None:
    out, _ = trained
    run = load_speaker(out / "speaker")
    assert run.settings.speaker.hidden == 96
    assert run.model.norm.statistics.mean.shape == (12,)
    with refuses("E-RUN-BEST"):
        load_run(out)  # it cannot walk
    with refuses("E-RUN-TASK"):
        load_run(out / "speaker")


def new_task(world: Path, *changes: str) -> SpeakerTask:
    settings = nav_settings(*TEXTS, *changes)
    accelerator = accelerator_on("cpu", settings)
    data = read_training(
        settings, store=world / "views.clipfeat", data=world / "data", device=accelerator.device
    )
    return SpeakerTask(settings, data, accelerator)


def test_the_loss_is_the_mean_over_words(world: Path) -> None:
    """Of each word and the end, from log-probabilities of one instruction at a time."""
    task = new_task(world, SPEAKER)
    model = task.model.eval()
    with torch.no_grad():
        model.classifier.weight *= 10  # so that words differ in their losses
    batch = cast(EpisodeBatch, task.batch(np.array([3, 40, 8]), 0))
    total, count = torch.zeros(()), 0
    for row in (3, 40, 8):
        one = cast(EpisodeBatch, task.batch(np.array([row]), 0))
        n = int(one.lengths[0]) - 1  # words, and the end
        total += n * task.loss(model, one).detach()
        count += n
    assert torch.allclose(task.loss(model, batch), total / count, rtol=1e-5)
    tokens = batch.tokens[0]
    assert tokens[0] == task.world.written.begin
    assert tokens[batch.lengths[0] - 1] == END


def test_paths_with_several_instructions_are_described_once(tmp_path: Path, world: Path) -> None:
    """All of a path's instructions are its references, wherever they stand in the file."""
    for name in ("data/connectivity", "views.clipfeat"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(world / name)
    data = tmp_path / "data"
    records = read_json(world / "data" / "R2R_train.json")
    write_r2r(data, "train", records)
    held_out = read_json(world / "data" / "R2R_val_unseen.json")[:3]
    for number, record in enumerate(held_out):
        record["instructions"] = [f"Go to room {k} of path {number}." for k in range(number + 1)]
    write_r2r(data, "val_unseen", held_out)
    task = new_task(tmp_path, SHORT, "eval_split=val_unseen", "select_split=val_unseen")
    described = task.describe(task.model, task.world.held_out[0])
    assert [each.references for each in described] == [
        tuple(record["instructions"]) for record in held_out
    ]
    assert [each.path_id for each in described] == [str(r["path_id"]) for r in held_out]


def test_unknown_words_are_not_written(world: Path) -> None:
    task = new_task(world, SHORT)
    with torch.no_grad():
        task.model.classifier.bias[UNKNOWN] = 1000
    for each in task.describe(task.model, task.world.held_out[0]):
        assert len(each.instruction.split()) == 24  # without them, untrained, up to the limit


def test_a_stopped_speaker_goes_on_bit_for_bit(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped twice; with dropout, and checkpoints inside of epochs."""

    def train(run: str) -> Any:
        return train_nav(world, tmp_path / run, SHORT, *TEXTS, stages=("speaker",))

    whole = train("whole")
    for update in (6, 5):
        with pytest.raises(Stopped), stop_in_update(monkeypatch, SpeakerTask, update):
            train("run")
    assert train("run")["speaker"]["splits"].keys() == whole["speaker"]["splits"].keys()
    for name in ("last.safetensors", "best.safetensors", "predictions_val_unseen.json"):
        ended, other = (tmp_path / run / "speaker" / name for run in ("run", "whole"))
        assert ended.read_bytes() == other.read_bytes(), name
