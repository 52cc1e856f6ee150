"""`clipfeat train pretrain`, `eval pretrain` and `--init` as typed, on a tiny world."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from children import Child, wait_for_update
from pretrain_world import FAST, NAME, make_world, write_corpus
from stores import make_store
from test_processes import LAUNCH, losses
from test_resume import metrics
from transformers import BertConfig, BertForMaskedLM
from ve_world import rows_of, write_rows
from vqa_world import COLOURS, DIM, grid

from clipfeat.featstore import FeatureStore
from clipfeat.train import fit
from clipfeat.train.checkpoint import read_checkpoint, write_checkpoint
from clipfeat.train.data.lxmert import Sentence, find_corpus
from clipfeat.train.data.vocabulary import SPECIAL_PIECES, WordPieces
from clipfeat.train.devices import accelerator_on
from clipfeat.train.records import RecordReader
from clipfeat.train.schedule import learning_rate, total_updates
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.pretraining.examples import BatchReader, Corpus, encode, read_corpus
from clipfeat.train.tasks.pretraining.task import (
    LXMERT_SENTENCES,
    PretrainingTask,
    load_run,
    note_on_regions,
    score_corpus,
)
from clipfeat.train.tasks.settings import PRETRAIN_PRESETS, PretrainSettings

Typed = Callable[..., tuple[int, str, str]]
World = tuple[Path, Path]
STILL = ("updates=1", "lr=1e-12", "warmup=0")  # the weights stay where they start
STAGE1 = ("epochs=4", "checkpoint_every=3")  # of 4 updates an epoch
ANSWERS = ("yes", "unicorn", "red")


def words(world: World, out: Path, *changes: str) -> list[str]:
    """Return what follows `clipfeat train TASK`."""
    sets = [f"--set={change}" for change in changes]
    paths = ["--store", str(world[0]), "--data", str(world[1]), "--out", str(out)]
    return [*paths, *sets, "--device", "cpu"]


def pretrain(world: World, out: Path, *changes: str) -> list[str]:
    return ["train", "pretrain", "demo", *words(world, out, *FAST, *changes)]


def trained(world: World, out: Path, *changes: str) -> dict[str, Any]:
    """Train here, with the settings that the command line has by `pretrain`."""
    path = PRETRAIN_PRESETS / "demo.toml"
    settings = load_settings(PretrainSettings, config=path, assignments=[*FAST, *changes])
    return fit(PretrainingTask(settings, store=world[0], data=world[1], device="cpu"), out)[0]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def weights(run: Path, part: str = "") -> dict[str, torch.Tensor]:
    tensors, _ = read_checkpoint(run / "best.safetensors")
    return {name: t for name, t in tensors.items() if name.startswith(f"model.{part}")}


def assert_same(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-9, msg=name)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A store with a corpus, and files of VQA v2 and SNLI-VE beside it."""
    store, data = make_world(tmp_path_factory.mktemp("world"))
    for split, images in (("train", range(1, 25)), ("dev", range(25, 30))):
        rows = [row | {"Flickr30K_ID": NAME.format(i)} for i in images for row in rows_of(i)]
        write_rows(data / f"snli_ve_{split}.jsonl", rows)
    (data / "answers.txt").write_text("\n".join(ANSWERS))
    return store, data


@pytest.fixture(scope="module")
def stage1(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "stage1"
    trained(world, run, *STAGE1, "objectives.answers=0", "objectives.cells=1.0")
    return run


@pytest.fixture(scope="module")
def stage2(world: World, stage1: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "stage2"
    sizes = load_settings(PretrainSettings, config=None, assignments=FAST).model
    assert load_run(stage1).settings.model == sizes
    changes = (f"init={stage1}", f"answer_list={world[1] / 'answers.txt'}", "epochs=1")
    trained(world, run, *changes)
    return run


@pytest.mark.slow
def test_a_killed_run_goes_on_bit_for_bit(world: World, stage1: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    objectives = ("objectives.answers=0", "objectives.cells=1.0")
    child = Child(*pretrain(world, run, *STAGE1, *objectives))
    wait_for_update(run, 6, child)  # in the middle of the second epoch
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert not (run / "result.json").exists()
    trained(world, run, *STAGE1, *objectives)
    assert metrics(run) == metrics(stage1)
    assert len(losses(stage1)) == 4 * 4
    for name in ("last.safetensors", "best.safetensors", "result.json"):
        assert (run / name).read_bytes() == (stage1 / name).read_bytes(), name


def test_a_run_folder_is_whole(stage1: Path) -> None:
    result, card = read(stage1 / "result.json"), read(stage1 / "settings.json")
    scores = [line["score"] for line in metrics(stage1) if "score" in line]
    assert max(scores) == result["score"] == scores[result["epoch"] - 1]
    assert (result["split"], result["n"], result["blind"]) == ("heldout", 45, False)
    assert result["score"] == pytest.approx(
        -sum(result[f"{name}_loss"] for name in ("words", "matching", "cells")), abs=2e-4
    )
    assert (card["task"], card["data_files"].keys()) == ("pretrain", {"train.json", "heldout.json"})
    assert (stage1 / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert read(stage1 / "vocabulary.json").keys() == {"pieces", "keeps_marks", "answers"}


def test_eval_gives_the_result_of_training(stage1: Path, typed: Typed) -> None:
    command = ("eval", "pretrain", stage1, "--split", "heldout", "--device", "cpu")
    code, out, err = typed(*command, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result == read(stage1 / "result.json")
    assert result["without_image"].keys() == {
        *("score", "words", "words_loss", "matching", "matching_loss", "cells_loss")
    }
    lines = typed(*command)[1].splitlines()
    assert lines[0] == f"corpus heldout: 45 sentences, epoch {result['epoch']}"
    told = f"{result['words']:6.2f}  masked word pieces ("
    assert lines[1] == f"{told}{result['without_image']['words']:.2f} without the image)"
    assert len(lines) == 4
    code, out, _ = typed("eval", "pretrain", stage1, "--split", "train+heldout", "--json")
    assert (code, json.loads(out)["n"]) == (0, 165)


def test_a_score_does_not_depend_on_the_size_of_batches(world: World, stage2: Path) -> None:
    store = FeatureStore.open(world[0])
    found = []
    for size in (64, 7):
        run = load_run(stage2)
        run = dataclasses.replace(run, settings=dataclasses.replace(run.settings, batch_size=size))
        pieces = run.vocabulary.words
        assert isinstance(pieces, WordPieces)
        sentences = encode(
            read_corpus(find_corpus(world[1], "heldout")), "heldout", store,
            words=pieces, answers=run.vocabulary.answers, max_tokens=12, skip_missing=0,
        )  # fmt: skip
        device = accelerator_on("cpu", run.settings)
        batches = BatchReader(
            RecordReader(store, device.device), sentences, pieces, run.settings, sampled_cells=0
        )
        found.append(score_corpus(run.model, run.model, batches, device, "heldout", run.epoch))
    assert found[0].pop("without_image") == pytest.approx(found[1].pop("without_image"), abs=2e-4)
    for name, value in found[0].items():
        assert value == pytest.approx(found[1][name], abs=2e-4), name


def test_the_second_stage_starts_with_the_weights_of_the_first(
    world: World, stage1: Path, tmp_path: Path, typed: Typed
) -> None:
    run = tmp_path / "run"
    command = pretrain(world, run, *STILL, "objectives.answers=1.0", "objectives.cells=1.0")
    code, out, err = typed(*command, "--init", stage1, "--json")
    assert code == 0, err
    assert err.splitlines()[-1] == f"starting from {stage1}"
    assert 0 <= json.loads(out)["answers"] <= 100
    answer = weights(run, "answer.")
    assert_same({n: t for n, t in weights(run).items() if n not in answer}, weights(stage1))
    vocabulary, before = read(run / "vocabulary.json"), read(stage1 / "vocabulary.json")
    assert vocabulary["pieces"] == before["pieces"]
    assert (sorted(vocabulary["answers"]), before["answers"]) == (
        sorted([*COLOURS, "yes", "no"]),
        [],
    )
    assert "best.safetensors" in read(run / "settings.json")["data_files"]


def test_an_answer_of_the_list_that_no_question_has_costs_nothing(stage2: Path) -> None:
    assert tuple(read(stage2 / "vocabulary.json")["answers"]) == ANSWERS
    assert 0 <= read(stage2 / "result.json")["answers"] <= 100


def test_vqa_starts_with_the_encoder_and_the_answers_that_are_known(
    world: World, stage2: Path, tmp_path: Path, typed: Typed
) -> None:
    run = tmp_path / "run"
    changes = (*STILL, "min_answer_count=1", "eval_split=", "max_tokens=12")
    code, _, err = typed("train", "vqa", *words(world, run, *changes), "--init", stage2)
    assert code == 0, err
    assert err.splitlines()[-1] == f"starting from {stage2}, which knows 2 of 5 answers"
    for part in ("encoder.", "norm."):
        assert_same(weights(run, part), weights(stage2, part))
    found, theirs = weights(run, "answer."), weights(stage2, "answer.")
    for name in ("0.weight", "0.bias", "2.weight", "2.bias"):
        torch.testing.assert_close(found[f"model.answer.{name}"], theirs[f"model.answer.{name}"])
    answers = read(run / "vocabulary.json")["answers"]
    assert sorted(answers) == ["blue", "green", "no", "red", "yes"]
    for name in ("model.answer.3.weight", "model.answer.3.bias"):
        for row, answer in zip(found[name], answers, strict=True):
            known = answer in ANSWERS
            expected = theirs[name][ANSWERS.index(answer)] if known else torch.zeros_like(row)
            torch.testing.assert_close(row, expected, rtol=0, atol=1e-9)
            assert (row.abs().max() > 1e-4) == known
    assert read(run / "vocabulary.json")["pieces"] == read(stage2 / "vocabulary.json")["pieces"]


def test_a_run_has_the_norm_of_the_run_that_it_starts_from(
    world: World, tmp_path: Path, typed: Typed
) -> None:
    start, run = tmp_path / "start", tmp_path / "run"
    trained(world, start, *STILL, "norm=whiten", "components=3", "objectives.cells=1.0")
    assert weights(start, "cell.")["model.cell.project.weight"].shape == (3, 16)
    changes = (*STILL, "min_answer_count=1", "eval_split=", "max_tokens=12", "norm=channel")
    code, _, err = typed("train", "vqa", *words(world, run, *changes), "--init", start)
    assert code == 0, err
    settings = read(run / "settings.json")["settings"]
    assert (settings["norm"], settings["components"]) == ("whiten", 3)
    assert weights(run, "norm.")["model.norm.projection"].shape == (8, 3)
    assert_same(weights(run, "norm."), weights(start, "norm."))


@pytest.mark.parametrize("init", ["stage1", "stage2"])
def test_ve_starts_with_the_encoder(
    world: World, init: str, request: pytest.FixtureRequest, tmp_path: Path, typed: Typed
) -> None:
    start = request.getfixturevalue(init)
    run = tmp_path / "run"
    command = ("train", "ve", *words(world, run, *STILL, "max_tokens=12"), "--init", start)
    code, out, err = typed(*command, "--json")
    assert code == 0, err
    assert err.splitlines()[-1] == f"starting from {start}, which knows 0 of 3 answers"
    assert_same(weights(run, "encoder."), weights(start, "encoder."))
    code, again, err = typed("eval", "ve", run, "--split", "dev", "--json", "--device", "cpu")
    assert (code, err) == (0, "")
    assert json.loads(again)["accuracy"] == json.loads(out)["accuracy"]


def test_a_bert_gives_its_pieces_and_weights(world: World, tmp_path: Path, typed: Typed) -> None:
    pieces = [
        *SPECIAL_PIECES,
        *"abcdefghinorstuy?.",
        *(f"##{c}" for c in "abcdefghinorstuy"),
        "shape",
    ]
    config = BertConfig(
        vocab_size=len(pieces), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64,
    )  # fmt: skip
    bert = BertForMaskedLM(config)
    bert.save_pretrained(tmp_path / "bert")
    (tmp_path / "bert" / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    run = tmp_path / "run"
    command = pretrain(world, run, *STILL, f"model.bert={tmp_path / 'bert'}")
    code, _, err = typed(*command)
    assert code == 0, err
    assert err.splitlines()[-1] == f"starting from {tmp_path / 'bert'}, a BERT"
    assert read(run / "vocabulary.json")["pieces"] == pieces
    theirs = bert.state_dict()
    found = weights(run, "encoder.bert.")
    assert_same(found, {name: theirs[name.removeprefix("model.encoder.")] for name in found})
    head = {
        "transform.0.weight": "transform.dense.weight",
        "transform.0.bias": "transform.dense.bias",
        "transform.2.weight": "transform.LayerNorm.weight",
        "transform.2.bias": "transform.LayerNorm.bias",
        "bias": "bias",
    }
    expected = {f"model.word.{n}": theirs[f"cls.predictions.{t}"] for n, t in head.items()}
    assert_same(weights(run, "word."), expected)
    assert {"vocab.txt", "model.safetensors"} < read(run / "settings.json")["data_files"].keys()


def test_the_first_stage_starts_from_a_bert_or_names_the_other_ways(
    world: World, tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And before it reads the corpus, which takes minutes."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    command = ["train", "pretrain", *words((world[0], tmp_path / "nowhere"), tmp_path / "run")]
    err = refusal(command, typed, tmp_path / "run")
    assert "model.bert bert-base-uncased: not a folder" in err
    for remedy in (
        "pass a folder with config.json, vocab.txt",
        '--set model.bert=""',
        "E-BERT-FILE",
    ):
        assert remedy in err


def test_the_first_stage_is_the_published_one() -> None:
    """AdamW's linear schedule over 20 epochs, of which 2.5 % are warm-up, stopped after 9."""
    path = PRETRAIN_PRESETS / "stage1.toml"
    settings = load_settings(PretrainSettings, config=path, assignments=[])
    bert = BertConfig()  # of bert-base-uncased
    assert settings.model.bert == "bert-base-uncased"
    assert (settings.model.hidden, settings.model.layers, settings.model.heads) == (
        bert.hidden_size,
        bert.num_hidden_layers,
        bert.num_attention_heads,
    )
    steps = total_updates(settings, LXMERT_SENTENCES)
    assert steps == pytest.approx(161_000, rel=0.005)
    whole = steps * 20 / 9
    warmup = 0.025 * whole
    for step in (0, 999, 5000, 10_000, 80_000, steps - 1):
        rises, falls = (step + 1) / warmup, (whole - step) / (whole - warmup)
        expected = 1e-4 * min(rises, falls)
        assert learning_rate(step, steps, settings) == pytest.approx(expected, rel=1e-3), step


def test_a_corpus_without_region_captions_says_how_many_updates_it_leads_to() -> None:
    corpus = Corpus(sources={"mscoco", "vqa", "visual7w", "gqa"})
    settings = PretrainSettings(epochs=9, batch_size=512)
    # LXMERT's files without region captions: 9.18 - 5.4 million.
    note = note_on_regions(corpus, settings, 3_780_000)
    assert note.startswith(f"corpus '{settings.train_split}' has no region captions")
    assert "66,447 updates, and about 161,000 with" in note  # 9 * ceil(3780000 / 512)
    assert note.endswith("--set updates=161000")
    own = dataclasses.replace(settings, train_split="mine")
    stated = dataclasses.replace(settings, updates=161_000)
    assert note_on_regions(corpus, own, 1000) == note_on_regions(corpus, stated, 1000) == ""
    corpus.add(Sentence("1", "a dog", "vg", None))
    assert note_on_regions(corpus, settings, 3_780_000) == ""


@pytest.mark.slow
def test_two_processes_and_parts_of_a_batch_learn_nearly_as_one(
    world: World, tmp_path: Path
) -> None:
    """Of each part the mean over what it asks counts, and the parts ask of different numbers."""
    quiet = ("model.dropout=0", "epochs=1", "batch_size=60", "lr=1e-3")
    trained(world, tmp_path / "one", *quiet)
    trained(world, tmp_path / "parts", *quiet, "gradient_accumulation_steps=3")
    command = pretrain(world, tmp_path / "two", *quiet)
    subprocess.run(
        [sys.executable, "-c", LAUNCH, sys.executable, "-m", "clipfeat.cli", *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    assert len(losses(tmp_path / "one")) == 2
    for name in ("parts", "two"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "one"), rel=0.03)
    result, alone = (read(tmp_path / name / "result.json") for name in ("two", "one"))
    assert result["score"] == pytest.approx(alone["score"], rel=0.01)
    assert result.keys() == alone.keys()


RECORDS = {NAME.format(i): grid(i) for i in range(1, 34)}


def refusal(command: list[Any], typed: Typed, out: Path) -> str:
    """Return the one line that a command says; no run is made."""
    code, said, err = typed(*command)
    assert (code, said, err.count("\n")) == (2, "", 1), err
    assert not out.exists()
    return err


@pytest.mark.parametrize("task", ["pretrain", "vqa", "ve"])
def test_a_start_that_is_none_is_refused(
    world: World, stage1: Path, tmp_path: Path, typed: Typed, task: str
) -> None:
    out = tmp_path / "run"
    splits = ["--set", "train_split=train", "--set", "eval_split="]
    command = ["train", task, *(["demo"] if task == "pretrain" else [])]
    command += [*words(world, out, "max_tokens=12"), *splits]
    err = refusal([*command, "--init", tmp_path / "nowhere"], typed, out)
    nowhere = tmp_path / "nowhere"
    assert err.startswith(
        f"Error: init {nowhere}, the run to start from, does not exist; pass --init "
    )
    assert err.endswith(" [E-INIT-FOLDER]\n")
    err = refusal([*command, "--init", tmp_path], typed, out)
    assert err.startswith(f"Error: {tmp_path} is not a run folder: it has no settings.json")

    begun = shutil.copytree(stage1, tmp_path / "begun")
    (begun / "best.safetensors").unlink()
    err = refusal([*command, "--init", begun], typed, out)
    assert err.startswith(f"Error: {begun} has no best.safetensors: ")
    assert err.endswith("[E-RUN-BEST]\n")
    card = read(begun / "settings.json")
    (begun / "settings.json").write_text(json.dumps(card | {"task": "caption"}))
    err = refusal([*command, "--init", begun], typed, out)
    known = "pretrain" if task == "pretrain" else "pretrain or vqa or ve"
    assert err == f"Error: {begun} is a run of task 'caption', not {known} [E-RUN-TASK]\n"

    more = ["--set", "model=single_stream", "--set", "model.hidden=32", "--set", "model.heads=2"]
    err = refusal([*command, *more, "--init", stage1], typed, out)
    assert "determines the model, and the settings name another: hidden was " in err
    assert err.endswith("; leave out model [E-INIT-MODEL]\n")
    assert "--set max_tokens" not in err


def test_eval_of_what_is_no_pretraining_run(stage1: Path, tmp_path: Path, typed: Typed) -> None:
    code, _, err = typed("eval", "pretrain", tmp_path, "--split", "heldout")
    assert (code, err) == (
        2,
        f"Error: {tmp_path} is not a run folder: it has no settings.json [E-RUN-FOLDER]\n",
    )
    code, _, err = typed("eval", "pretrain", stage1, "--split", "nothing")
    assert (code, err.count("\n")) == (2, 1)
    assert "part 'nothing' of corpus 'nothing'; pass" in err


def test_a_store_of_other_features_is_refused(
    world: World, stage1: Path, tmp_path: Path, typed: Typed
) -> None:
    backbone = make_store(tmp_path / "b.clipfeat", RECORDS, backbone={"model": "other"})
    out = tmp_path / "run"
    err = refusal([*pretrain((backbone, world[1]), out), "--init", stage1], typed, out)
    assert "another backbone than those of" in err
    assert ": backbone.model was 'test' and is 'other'; extract" in err
    wide = make_store(tmp_path / "w.clipfeat", {NAME.format(1): np.ones((1, 1, 9), np.float16)})
    err = refusal([*pretrain((wide, world[1]), out), "--init", stage1], typed, out)
    assert "was trained on features of 8 channels, and those of" in err
    code, _, err = typed("eval", "pretrain", stage1, "--split", "heldout", "--store", wide)
    assert (code, ": dim was 8 and is 9; extract" in err) == (2, True)
    long = make_store(tmp_path / "l.clipfeat", {NAME.format(1): np.ones((1, 26, DIM), np.float16)})
    code, _, err = typed("eval", "pretrain", stage1, "--split", "heldout", "--store", long)
    assert (code, "l.clipfeat has grids of 26 rows or columns" in err) == (2, True)


def test_another_recipe_gets_a_remark(
    world: World, stage1: Path, tmp_path: Path, typed: Typed
) -> None:
    recipe = make_store(tmp_path / "r.clipfeat", RECORDS, recipe={"name": "larger"})
    command = pretrain((recipe, world[1]), tmp_path / "run", *STILL, "eval_split=")
    code, out, err = typed(*command, "--init", stage1)
    assert (code, out) == (0, "trained to epoch 1; no eval_split, so that nothing is scored\n")
    assert (
        f"init {stage1} was trained on another recipe: recipe.name was 'test' and is 'larger'"
        in err
    )


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"model.norm.mean": torch.tensor(0.0)}, "E-RUN-STATISTICS"),
        ({"model.norm.std": torch.ones(7)}, "E-RUN-STATISTICS"),
        ({"model.norm.mean": torch.ones(8).int()}, "E-RUN-STATISTICS"),
        (
            {"model.encoder.grid.rows.weight": torch.ones(9, 9)},
            "its weights do not fit its settings",
        ),
    ],
)
def test_a_checkpoint_that_was_tampered_with_is_refused(
    world: World,
    stage1: Path,
    tmp_path: Path,
    typed: Typed,
    tensors: dict[str, torch.Tensor],
    message: str,
) -> None:
    run = shutil.copytree(stage1, tmp_path / "start")
    found, state = read_checkpoint(run / "best.safetensors")
    write_checkpoint(run / "best.safetensors", found | tensors, state)
    command = pretrain(world, tmp_path / "run", "eval_split=")
    code, _, err = typed(*command, "--init", run)
    assert (code > 0, err.count("\n")) == (True, 1)
    assert message in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.max_grid_side=2", "model.max_grid_side is 2, and"),
        ("max_tokens=2", "max_tokens must be at least 3; got 2"),
        ("objectives.mask_words=1", "mask_words must be at least 0 and below 1; got 1.0"),
        ("model=mcan", "model must be one of single_stream; got 'mcan'"),
        ("eval_split=train", "eval_split train shares 24 images with train_split train"),
        ("train_split=nothing", "part 'nothing' of corpus 'nothing'; pass"),
        ("model.vocab_size=10", "model.vocab_size must be at least"),
        ("answer_list=nowhere", "answer_list nowhere: not a readable list of answers"),
        ("model.bert=/nowhere/at/all", "model.bert /nowhere/at/all: not a folder"),
        ("objectives.color=1", "no setting is named 'objectives.color'"),
    ],
)
def test_mistakes_get_one_line(
    world: World,
    tmp_path: Path,
    typed: Typed,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    message: str,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command = [*pretrain(world, tmp_path / "run"), "--set", change]
    assert message in refusal(command, typed, tmp_path / "run")


@pytest.mark.parametrize("task", ["pretrain", "vqa", "ve"])
def test_a_grid_that_only_held_out_images_have_needs_its_places(
    world: World, tmp_path: Path, typed: Typed, task: str
) -> None:
    records = {NAME.format(i): np.ones((1, 4 if i > 24 else 2, DIM), np.float16) for i in (1, 33)}
    store, out = make_store(tmp_path / "a.clipfeat", records), tmp_path / "run"
    preset = ["demo"] if task == "pretrain" else []
    changes = ("model=single_stream", "model.max_grid_side=3")
    command = ["train", task, *preset, *words((store, world[1]), out, *changes)]
    err = refusal(command, typed, out)
    assert f"model.max_grid_side is 3, and {store} has grids of 4 rows or columns; " in err


def test_no_answer_is_common_enough(world: World, tmp_path: Path, typed: Typed) -> None:
    command = [*pretrain(world, tmp_path / "run"), "--set", "min_answer_count=100"]
    code, _, err = typed(*command)
    assert (code, err.count("\n")) == (1, 1)
    assert "no answer of corpus 'train' is that of 100 questions; pass --set min_answer" in err


def test_one_image_under_two_names_is_not_held_out(
    world: World, tmp_path: Path, typed: Typed
) -> None:
    """Image 3 is held out as 000000000003, and the store has both names by COCO's own."""
    store = make_store(tmp_path / "a.clipfeat", {f"{i:012}": grid(i) for i in range(1, 6)})
    write_corpus(tmp_path / "corpus" / "train.json", range(1, 5))
    (tmp_path / "corpus" / "heldout.csv").write_text("image_id,caption\n000000000003,A shape\n")
    out = tmp_path / "run"
    err = refusal(pretrain((store, tmp_path / "corpus"), out), typed, out)
    assert "eval_split heldout shares 1 images with train_split train" in err


def caption_world(folder: Path) -> World:
    """Write images of one colour each, and captions that tell it."""
    random = np.random.default_rng(0)
    grids = random.normal(size=(90, 2, 2, 8))
    grids[np.arange(90), :, :, np.arange(90) % 3] += 4
    records = {str(i): features.astype(np.float16) for i, features in enumerate(grids)}
    store = make_store(folder / "a.clipfeat", records)
    for name, images in (("train", range(60)), ("heldout", range(60, 90))):
        rows = [f"{i},{text} {COLOURS[i % 3]}" for i in images for text in ("a nice", "it is")]
        (folder / f"{name}.csv").write_text("\n".join(["image_id,caption", *rows]))
    return store, folder


@pytest.mark.slow
def test_with_images_more_words_are_found_than_by_the_blind_twin(tmp_path: Path) -> None:
    world = caption_world(tmp_path)
    learn = (
        *("objectives.answers=0", "objectives.matching=0", "objectives.mask_words=0.5"),
        *("epochs=13", "batch_size=16", "lr=5e-3", "model.hidden=32", "model.dropout=0"),
        "log_every=100",
    )
    seeing = trained(world, tmp_path / "seeing", *learn)
    blind = trained(world, tmp_path / "blind", *learn, "blind=true")
    assert seeing["words"] > blind["words"] + 10
    assert seeing["words"] > seeing["without_image"]["words"] + 10
    assert seeing["words_loss"] < blind["words_loss"] - 0.2
    assert (blind["blind"], blind["without_image"]) == (True, None)
