"""Training that starts from a run of VQA or visual entailment: what it takes over."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import ve_world
import vqa_world
from refused import refuses
from stores import make_store
from ve_world import rows_of, write_rows

from clipfeat.train import fit
from clipfeat.train.checkpoint import read_checkpoint
from clipfeat.train.models.settings import UpDnSettings
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.entailment import EntailmentTask
from clipfeat.train.tasks.pretraining.task import PretrainingTask
from clipfeat.train.tasks.settings import PretrainSettings, VeSettings, VqaSettings
from clipfeat.train.tasks.vqa import VqaTask

World = tuple[Path, Path, Path]  # store, data of ve, data of vqa
LAST = ("classifier.3.weight", "classifier.3.bias")
WORDS = "question.words.weight"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    store, ve = ve_world.make_world(folder)
    for subset, ids in (("train2014", range(1, 61)), ("val2014", range(61, 81))):
        vqa_world.write_split(folder / "vqa", subset, list(ids))
    return store, ve, folder / "vqa"


def vqa_task(world: World, *changes: str) -> VqaTask:
    settings = load_settings(
        VqaSettings, config=None, assignments=[*vqa_world.FAST, "epochs=1", *changes]
    )
    return VqaTask(settings, store=world[0], data=world[2], device="cpu")


def ve_task(world: World, *changes: str) -> EntailmentTask:
    sets = [change for change in ve_world.FAST if not change.startswith("model.")]
    settings = load_settings(VeSettings, config=None, assignments=[*sets, *changes])
    return EntailmentTask(settings, store=world[0], data=world[1], device="cpu")


@pytest.fixture(scope="module")
def questions(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of VQA, with sizes that are not the default's."""
    run = tmp_path_factory.mktemp("runs") / "questions"
    fit(vqa_task(world), run)
    return run


@pytest.fixture(scope="module")
def statements(world: World, questions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of visual entailment that has started from that of VQA."""
    run = tmp_path_factory.mktemp("runs") / "statements"
    fit(ve_task(world, "epochs=1", f"init={questions}"), run)
    return run


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def best_of(run: Path) -> dict[str, torch.Tensor]:
    tensors, _ = read_checkpoint(run / "best.safetensors")
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def test_entailment_starts_with_all_that_vqa_has_but_its_answers(
    world: World, questions: Path
) -> None:
    task = ve_task(world, f"init={questions}")
    assert task.settings.model == UpDnSettings(hidden=32, embedding=16)
    own, started = best_of(questions), dict(task.model.state_dict())
    words, known = task.vocabulary.words.spelled, read(questions / "vocabulary.json")["words"]
    assert words[: 2 + len(known)] == ("", "", *known)
    assert words[2 + len(known) :] == ("be", "green", "it", "may", "old")  # of the statements
    assert torch.equal(started.pop(WORDS)[: 2 + len(known)], own.pop(WORDS))
    assert len(started.pop("classifier.3.weight")) == 3 + 2  # labels, and words to name
    for name in LAST:
        own.pop(name)
        started.pop(name, None)
    assert own.keys() == started.keys()
    for name, tensor in started.items():
        assert torch.equal(tensor, own[name]), name


def test_rows_of_classes_are_found_by_their_names(world: World, statements: Path) -> None:
    """Those of words to name are there only where words are hidden."""
    own = best_of(statements)
    assert read(statements / "vocabulary.json")["hideable"] == ["red", "green"]  # as tokens
    again = ve_task(world, f"init={statements}").model.state_dict()
    without = ve_task(world, f"init={statements}", "word_weight=0").model.state_dict()
    for name in LAST:
        assert torch.equal(again[name], own[name])
        assert torch.equal(without[name], own[name][:3])
    assert torch.equal(again[WORDS], own[WORDS])


def test_answers_in_another_order_keep_their_rows(
    world: World, questions: Path, tmp_path: Path
) -> None:
    answers = read(questions / "vocabulary.json")["answers"]
    listed = tmp_path / "answers.txt"
    listed.write_text("\n".join(["new", *reversed(answers)]))
    started = vqa_task(world, f"init={questions}", f"answer_list={listed}").model.state_dict()
    own = best_of(questions)
    for name in LAST:
        assert torch.equal(started[name][1:].flip(0), own[name])


def test_a_weight_normed_classifier_keeps_the_rows_of_known_answers(
    world: World, tmp_path: Path
) -> None:
    """Its rows share one length, which depends on all of them."""
    changes = ("model=updn_large", "model.hidden=16", "model.embedding=8", "min_answer_count=1")
    run, listed = tmp_path / "run", tmp_path / "answers.txt"

    def task_of(*changes: str) -> VqaTask:
        settings = load_settings(VqaSettings, config=None, assignments=changes)
        return VqaTask(settings, store=world[0], data=world[2], device="cpu")

    fit(task_of(*changes, "updates=1"), run)
    own = best_of(run)
    length, direction = (own[f"classifier.3.parametrizations.weight.original{n}"] for n in (0, 1))
    answers = read(run / "vocabulary.json")["answers"]
    listed.write_text("\n".join(["new", "newer", *answers[1:]]))
    model = task_of(f"init={run}", f"answer_list={listed}", "word_weight=0").model
    started = model.get_submodule("classifier.3").weight
    assert isinstance(started, torch.Tensor)
    known = length * direction / direction.square().sum().sqrt()
    torch.testing.assert_close(started[2:], known[1 : len(answers)])


def test_the_start_is_part_of_a_run(statements: Path) -> None:
    assert read(statements / "settings.json")["data_files"].keys() == {
        *("snli_ve_train.jsonl", "snli_ve_dev.jsonl", "best.safetensors")
    }


@pytest.mark.parametrize("model", ["mcan", "pythia", "movie_mcan", "single_stream"])
def test_every_model_starts_from_its_run(world: World, tmp_path: Path, model: str) -> None:
    sizes = {
        "mcan": ("model.layers=1", "model.heads=2", "model.joint=16"),
        "pythia": ("model.joint=16", "model.text_head=8", "model.image_head=8"),
        "movie_mcan": ("model.layers=1", "model.movie_layers=1", "model.heads=2", "model.joint=16"),
        "single_stream": ("model.layers=1", "model.heads=2", "model.vocab_size=60"),
    }[model]
    wide = () if model == "single_stream" else ("model.embedding=8",)
    changes = (f"model={model}", "model.hidden=16", *sizes, *wide, "max_tokens=12", "updates=1")
    settings = load_settings(VqaSettings, config=None, assignments=["min_answer_count=1", *changes])
    run = tmp_path / "run"
    fit(VqaTask(settings, store=world[0], data=world[2], device="cpu"), run)
    own = best_of(run)
    started = ve_task(world, f"init={run}", "max_tokens=12", "word_weight=0").model.state_dict()
    assert own.keys() == started.keys()
    changed = {name for name in own if not torch.equal(own[name], started[name])}
    resized = {name for name in changed if own[name].shape != started[name].shape}
    assert changed == resized  # rows of words and of classes
    assert 0 < len(changed) <= 1 + 2 * 3


def test_a_start_that_does_not_fit_is_refused(
    world: World, questions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with refuses("E-INIT-MODEL", "leave out model"):
        ve_task(world, f"init={questions}", "model.hidden=64")
    with refuses("E-RUN-TASK", "'vqa', not pretrain"):
        settings = load_settings(PretrainSettings, config=None, assignments=[f"init={questions}"])
        PretrainingTask(settings, store=world[0], data=world[1], device="cpu")
    shutil.copytree(questions, out)
    card = read(out / "settings.json")
    (out / "settings.json").write_text(json.dumps(card | {"task": "caption"}))
    with refuses("E-RUN-TASK", "'caption', not pretrain or vqa or ve"):
        ve_task(world, f"init={out}")
    card["settings"]["model"]["hidden"] = 64
    (out / "settings.json").write_text(json.dumps(card))
    with refuses("E-INIT-FIT", "do not fit its settings"):
        ve_task(world, f"init={out}")
    card["settings"]["model"]["hidden"] = 32
    (out / "settings.json").write_text(json.dumps(card))
    words = read(out / "vocabulary.json")
    (out / "vocabulary.json").write_text(json.dumps(words | {"answers": ["new"] * 9}))
    with refuses("E-INIT-FIT"):
        vqa_task(world, f"init={out}", f"answer_list={_listed(tmp_path, 'new', 'red')}")


def _listed(folder: Path, *answers: str) -> Path:
    path = folder / "answers.txt"
    path.write_text("\n".join(answers))
    return path


def test_a_store_of_other_features_is_refused(
    world: World, questions: Path, tmp_path: Path
) -> None:
    grids = {str(i): vqa_world.grid(i) for i in range(1, 4)}
    other = make_store(tmp_path / "other.clipfeat", grids, backbone={"model": "other"})
    for split in ("train", "dev"):
        write_rows(tmp_path / f"snli_ve_{split}.jsonl", rows_of(1))
    with refuses("E-INIT-FEATURES", "another backbone"):
        ve_task((other, tmp_path, tmp_path), f"init={questions}")
