"""Agents that read word pieces: BERT's, or those of a pre-training run with its text encoder."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pretrain_world
import pytest
import torch
from nav_world import FAST, make_nav_world, read_json, text_of, train_nav
from refused import refuses
from safetensors.torch import load_file
from stopped import Stopped, stop_in_update
from transformers import BertTokenizer

from clipfeat.base.errors import UsageError
from clipfeat.base.files import sha256_file
from clipfeat.train.data.vocabulary import SPECIAL_PIECES, WordPieces
from clipfeat.train.engine import fit
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks import load_run
from clipfeat.train.tasks.navigation import training
from clipfeat.train.tasks.navigation.evaluation import NavigationRequest, eval_run
from clipfeat.train.tasks.navigation.follower import FollowerTask
from clipfeat.train.tasks.navigation.map import MapTask
from clipfeat.train.tasks.navigation.task import NavigationTask
from clipfeat.train.tasks.pretraining.task import PretrainingTask
from clipfeat.train.tasks.settings import PRETRAIN_PRESETS, PretrainSettings

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = (
    *SPECIAL_PIECES,
    *(".", ",", "go", "to", "the", "room", "then", "red", "gold", "gr", "##een", "##ey", "bl"),
    *(*LETTERS, *(f"##{letter}" for letter in LETTERS)),
)
MAP = (
    "model={name='map', hidden=8, heads=2, text_layers=2, panorama_layers=1, cross_layers=1, "
    "dropout=0.1, feature_dropout=0.0}"
)
SHORT = ("updates=3", "eval_every=3", "checkpoint_every=1", "batch_size=8", "max_tokens=32")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nav_world(tmp_path_factory.mktemp("nav") / "world", houses=2)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert") / "vocab.txt"
    path.write_text("".join(f"{piece}\n" for piece in PIECES))
    return path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of pre-training with three layers of 16 channels."""
    folder = tmp_path_factory.mktemp("pretrained")
    store, corpus = pretrain_world.make_world(folder, train=8, held_out=4)
    settings = load_settings(
        PretrainSettings,
        config=PRETRAIN_PRESETS / "demo.toml",
        assignments=[*pretrain_world.FAST, "model.layers=3", "updates=2"],
    )
    fit(PretrainingTask(settings, store=store, data=corpus, device="cpu"), folder / "run")
    return folder / "run"


def best_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "best.safetensors")


def test_a_follower_learns_from_pieces(world: Path, vocabulary: Path, tmp_path: Path) -> None:
    """It learns by heart where paths from one room end, which only their texts tell apart."""
    changes = (f"pieces={vocabulary}", "teacher_weight=10", "entropy=0", "max_actions=4")
    task = task_of(FollowerTask, world, tmp_path, *changes)
    split = task.world.training
    starts = split.tensors.start.viewpoints
    rows = (starts == starts[0]).nonzero()[:4, 0].numpy()
    goals = split.tensors.goals[rows]
    assert len(set(goals.tolist())) > 2
    batch = split.batch(np.tile(rows, 2))  # the first half follows the teacher
    optimizer = torch.optim.Adam(task.model.parameters(), lr=5e-3)
    torch.manual_seed(0)
    for _ in range(60):
        task.loss(task.model.train(), batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.inference_mode():
        walks = task.walk(task.model.eval(), split, rows)
    assert [walk[-1] for walk in walks] == goals.tolist()


def test_a_run_with_pieces_needs_their_file_no_more(
    world: Path, vocabulary: Path, tmp_path: Path
) -> None:
    file, out = tmp_path / "vocab.txt", tmp_path / "run"
    shutil.copy(vocabulary, file)
    changes = (*SHORT, f"pieces={file}", "eval_split=val_seen")
    scores = train_nav(world, out, *changes)["follower"]["splits"]["val_seen"]
    run = out / "follower"
    assert read_json(run / "settings.json")["data_files"]["vocab.txt"] == sha256_file(file)
    file.unlink()
    trained = load_run(run)
    assert trained.vocabulary == WordPieces(PIECES)
    again = eval_run(out, NavigationRequest(split="val_seen", device="cpu"))
    assert (again["sr"], again["ndtw"]) == (scores["sr"], scores["ndtw"])


def test_instructions_are_split_as_by_bert(world: Path, vocabulary: Path, tmp_path: Path) -> None:
    """The vocabulary has a row for each piece, and longer texts are cut before the last [SEP]."""
    changes = (MAP, f"pieces={vocabulary}", "max_tokens=12")
    task = task_of(MapTask, world, tmp_path, *changes)
    split = task.world.training
    texts = [text_of(episode.path) for episode in split.episodes]
    how = {"padding": "max_length", "max_length": 12, "truncation": True}
    expected = BertTokenizer(str(vocabulary))(texts, **how)["input_ids"]
    assert split.tokens.tolist() == expected
    batch = split.batch(np.arange(3))
    assert batch.tokens.dtype == torch.int64
    assert batch.tokens.tolist() == [row[: int(batch.lengths.max())] for row in expected[:3]]
    assert task.model.text.words.weight.shape == (len(PIECES), 8)


def task_of(kind: type[NavigationTask], world: Path, out: Path, *changes: str) -> Any:
    """Return the task that a run begins with; no update is made."""
    tasks = []

    class Caught(kind):
        def __init__(self, *args: Any):
            super().__init__(*args)
            tasks.append(self)
            raise Stopped

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, kind.__name__, Caught)
        with pytest.raises(Stopped):
            train_nav(world, out, *SHORT, *changes)
    return tasks[0]


def test_the_map_agent_takes_the_vectors_and_first_layers_of_a_run(
    world: Path, encoder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Bit for bit; what it then reads is what a BERT with these weights reads of text alone."""
    with caplog.at_level(logging.INFO):
        task = task_of(MapTask, world, tmp_path, MAP, f"init={encoder}")
    assert "vectors of pieces, first 2 of 3 layers" in caplog.text
    assert "has read 12 pieces of a text at most, and max_tokens is 32" in caplog.text
    own = best_of(encoder)
    reader = task.model.text
    taken = {f"model.encoder.bert.{name}": w for name, w in reader.bert.state_dict().items()}
    assert taken.keys() == {
        name for name in own if "encoder.bert." in name and "encoder.layer.2." not in name
    }
    assert all(torch.equal(own[name], tensor) for name, tensor in taken.items())
    pieces = read_json(encoder / "vocabulary.json")["pieces"]
    assert task.world.words.spelled == tuple(pieces)

    agent, batch = task.model.eval(), task.world.training.batch(np.arange(4))
    states = reader.bert(batch.tokens, (batch.tokens > 0).long()).last_hidden_state
    is_real = batch.tokens > 0
    expected = reader.norm(states @ reader.project.weight.T + reader.project.bias)
    torch.testing.assert_close(agent.text(batch.tokens)[is_real], expected[is_real])
    # Padding, such as that of a longer text in the batch, changes nothing.
    longer = torch.nn.functional.pad(batch.tokens, (0, 3))
    torch.testing.assert_close(agent.text(longer)[:, :-3][is_real], expected[is_real])
    task.loss(agent.train(), batch).backward()
    assert all(w.grad is not None for w in reader.bert.encoder.parameters())


def test_a_started_run_resumes_and_needs_its_start_no_more(
    world: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = tmp_path / "start"
    shutil.copytree(encoder, start)
    changes = (*SHORT, MAP, f"init={start}", "layer_decay=0.9", "eval_split=")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train_nav(world, whole, *changes)
    with stop_in_update(monkeypatch, MapTask, 2), pytest.raises(Stopped):
        train_nav(world, stopped, *changes)
    train_nav(world, stopped, *changes)
    for name in ("last.safetensors", "best.safetensors"):
        files = [run / "follower" / name for run in (whole, stopped)]
        assert files[0].read_bytes() == files[1].read_bytes(), name
    settings = read_json(whole / "follower" / "settings.json")
    model = settings["settings"]["model"]
    assert (model["text_hidden"], model["text_heads"], model["text_layers"]) == (16, 2, 2)
    assert settings["data_files"]["best.safetensors"] == sha256_file(start / "best.safetensors")
    name = "text.bert.encoder.layer.0.attention.self.query.weight"
    before = best_of(start)[f"model.encoder.{name.removeprefix('text.')}"]
    after = best_of(whole / "follower")[f"model.{name}"]
    assert not torch.equal(after, before)  # it is trained
    shutil.rmtree(start)
    assert torch.equal(load_run(whole).model.state_dict()[name], after)


def test_starts_that_do_not_fit_are_refused(
    world: Path, encoder: Path, vocabulary: Path, tmp_path: Path
) -> None:
    def refused(code: str, match: str, *changes: str, stages: tuple[str, ...] = ("follower",)):
        with refuses(code, match, kind=UsageError):
            train_nav(world, tmp_path / "out", *changes, stages=stages)

    init = f"init={encoder}"
    refused("E-INIT-MODEL", "for model map, and the model is envdrop", init)
    refused("E-SETTINGS-CHOICE", "exclude each other", MAP, init, f"pieces={vocabulary}")
    refused("E-INIT-MODEL", "pass --init", MAP, "model.text_hidden=16", "model.text_heads=2")
    refused("E-INIT-MODEL", "model.text_layers=3", MAP, init, "model.text_layers=4")
    refused("E-INIT-MODEL", "is 16 there; got 32", MAP, init, "model.text_hidden=32",
            "model.text_heads=2")  # fmt: skip
    refused("E-INIT-FOLDER", "does not exist", MAP, f"init={tmp_path}/nowhere")
    refused("E-PIECES-READ", "not a readable", f"pieces={tmp_path}")
    for stages in (("speaker",), ("follower", "speaker", "backtranslation")):
        refused("E-NAV-STAGE", "writes words", f"pieces={vocabulary}", stages=stages)
    refused("E-NAV-STAGE", "writes words", MAP, init, stages=("speaker",))

    changed = tmp_path / "changed"
    shutil.copytree(encoder, changed)
    card = read_json(changed / "settings.json")
    (changed / "settings.json").write_text(json.dumps(card | {"task": "vqa"}))
    refused("E-RUN-TASK", "'vqa', not pretrain", MAP, f"init={changed}")
    card["settings"]["model"]["hidden"] = 32
    (changed / "settings.json").write_text(json.dumps(card))
    refused("E-INIT-FIT", "do not fit its settings", MAP, f"init={changed}")
    assert not (tmp_path / "out").exists()


def test_the_run_to_start_from_is_named_on_the_command_line(
    world: Path, encoder: Path, tmp_path: Path, typed: Callable[..., tuple[int, str, str]]
) -> None:
    sets = [f"--set={change}" for change in (*SHORT, *FAST, MAP, "updates=1", "eval_split=")]
    code, _, messages = typed(
        *("train", "nav", "--store", world / "views.clipfeat", "--data", world / "data", *sets),
        *("--init", encoder, "--device", "cpu", "--out", tmp_path / "run"),
    )
    assert code == 0, messages
    assert "text encoder from" in messages
