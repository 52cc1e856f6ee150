"""Words of true texts that are hidden, to be named: which ones, and what learns from them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refused import refuses
from torch import nn
from torch.nn.functional import cross_entropy
from ve_world import FAST, make_world

from clipfeat.base.jsonio import write_json
from clipfeat.train import fit
from clipfeat.train.checkpoint import read_checkpoint
from clipfeat.train.data.hidden_words import HiddenWords, hideable
from clipfeat.train.data.vocabulary import (
    UNKNOWN,
    Vocabulary,
    WordPieces,
    WordVocabulary,
    build_words,
    read_vocabulary,
)
from clipfeat.train.models.layers import AnswerBatch, Outputs
from clipfeat.train.run import read_metrics
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.answering import SoftAnswers, answering_loss
from clipfeat.train.tasks.entailment import EntailmentTask
from clipfeat.train.tasks.settings import VeSettings

Typed = Callable[..., tuple[int, str, str]]
World = tuple[Path, Path]

TEXTS = [
    "A red circle is there.",
    "A blue circle is there.",
    "The picture shows a red star.",
    "The picture shows a blue star.",
    "The picture shows a green star.",  # not true
    "A red moon.",
    "An old man's hat isn't red.",
]
TRUE = np.array([True, True, True, True, False, True, True])


def hidden(texts: list[str], true: np.ndarray, **options: int) -> list[list[str]]:
    """Return the words of each text that may be hidden."""
    words = build_words([*texts, *texts])  # twice: every word is known
    tokens = words.encode(texts, max_tokens=8)
    where = hideable(tokens, true, words.spelled, **options)
    return [[words.spelled[t] for t in row[mask]] for row, mask in zip(tokens, where, strict=True)]


def test_words_that_only_the_image_can_tell_may_be_hidden() -> None:
    """Between "a" and "circle" are red and blue. Between "the" and "shows" is picture alone.

    Between "red" and the end are star and moon. The words is, there and shows have no choice, and
    between "isn't" and the end is red alone.
    """
    assert hidden(TEXTS, TRUE, min_count=1) == [
        ["red"],
        ["blue"],
        ["red", "star"],
        ["blue"],
        [],
        ["moon"],
        [],
    ]


def test_a_word_needs_enough_places_in_which_it_may_be_hidden() -> None:
    assert hidden(TEXTS, TRUE, min_count=2) == [["red"], ["blue"], ["red"], ["blue"], [], [], []]
    assert not any(hidden(TEXTS, TRUE, min_count=3))


def test_words_of_closed_classes_are_never_hidden() -> None:
    texts = ["It is on it.", "It is in it.", "He wasn't there.", "He couldn't there.", "Who's he?"]
    assert not any(hidden(texts, np.ones(5, dtype=bool), min_count=1))


def test_of_word_pieces_whole_words_are_hidden() -> None:
    """Between [CLS] and [SEP] stand "red", "blue", and "blu" with "##ish", which is no word."""
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "blu", "##ish", "?")
    words = WordPieces(pieces)
    tokens = words.encode(["red", "blue", "bluish", "?"], max_tokens=5)
    where = hideable(tokens, np.ones(4, dtype=bool), words.spelled, min_count=1)
    assert np.argwhere(where).tolist() == [[0, 1], [1, 1]]
    copies = HiddenWords(tokens, where, words.mask).hide(np.array([2, 1]))
    assert copies.tokens.tolist() == [[2, 4, 3, 0, 0]]


def test_copies_lack_the_word_that_they_ask_for() -> None:
    tokens = np.array([[5, 2, 6], [4, 3, 0], [6, 5, 4]])
    where = np.array([[True, False, True], [False, False, False], [True, True, False]])
    words = HiddenWords(tokens, where, UNKNOWN)
    assert (words.classes.tolist(), words.copies_per_text) == ([5, 6], 4 / 3)
    copies = words.hide(np.array([1, 2, 0]))
    assert copies.texts.tolist() == [1, 1, 2, 2]  # the second and the third of these
    assert copies.tokens.tolist() == [
        [UNKNOWN, 5, 4],
        [6, UNKNOWN, 4],
        [UNKNOWN, 2, 6],
        [5, 2, UNKNOWN],
    ]
    assert copies.words.tolist() == [1, 0, 0, 1]
    assert len(words.hide(np.array([1])).texts) == 0
    assert words.tokens.tolist() == tokens.tolist()


def test_a_text_is_true_where_its_answer_has_no_rival() -> None:
    soft = SoftAnswers.of([{0: 1.0}, {0: 1.0, 1: 0.9}, {0: 0.9, 1: 0.6}, {1: 1.0}, {0: 0.6}, {}])
    assert soft.clearly(0, 0.9).tolist() == [True, False, True, False, False, False]


class Even(nn.Module):
    """Finds all answers equally likely, and all words."""

    def forward(self, batch: AnswerBatch) -> Outputs:
        even = torch.zeros(len(batch.tokens), 3 + 5)
        return Outputs(even, torch.ones(len(batch.tokens), 1), (even,))


def batch_of(texts: int, copies: int) -> AnswerBatch:
    return AnswerBatch(
        features=torch.zeros(1, 1, 4),
        mask=torch.ones(1, 1, dtype=torch.bool),
        grid_shapes=torch.ones(1, 2, dtype=torch.int64),
        image_of_text=torch.zeros(texts + copies, dtype=torch.int64),
        tokens=torch.ones(texts + copies, 1, dtype=torch.int64),
        targets=torch.eye(3)[torch.zeros(texts, dtype=torch.int64)],
        hidden_words=torch.arange(copies) % 5,
    )


@pytest.mark.parametrize("copies", [0, 1, 3])
def test_the_loss_is_that_of_answers_and_of_words_in_each_head(copies: int) -> None:
    """Of 3 answers alike it is ln 3, of 5 words ln 5; a word counts 2 over 4 texts."""
    loss = answering_loss(Even(), batch_of(4, copies), cross_entropy, word_weight=2.0)
    expected = 2 * (np.log(3) + copies * 2 / 4 * np.log(5))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_a_vocabulary_is_read_as_written(tmp_path: Path) -> None:
    vocabulary = Vocabulary(WordVocabulary(("red", "star")), ("yes",), ("star",))
    assert vocabulary.classes == 2
    write_json(tmp_path / "v.json", vocabulary.record())
    assert read_vocabulary(tmp_path / "v.json") == vocabulary
    write_json(tmp_path / "v.json", vocabulary.record() | {"hideable": ["moon"]})
    with refuses("E-VOCAB-HIDEABLE"):
        read_vocabulary(tmp_path / "v.json")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def task_of(world: World, *changes: str) -> EntailmentTask:
    settings = load_settings(VeSettings, config=None, assignments=[*FAST, *changes])
    return EntailmentTask(settings, store=world[0], data=world[1], device="cpu")


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    fit(task_of(world, "checkpoint_every=5"), run)
    return run


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_batch_has_copies_of_entailed_hypotheses(world: World) -> None:
    task = task_of(world)
    assert task.vocabulary.hideable == ("green", "red")
    batch = task.batch(np.arange(9), epoch=0)
    entailed = np.flatnonzero(batch.targets[:, 0])
    assert batch.targets.shape == (9, 3)
    assert len(batch.hidden_words) == len(entailed) > 0
    words = task.vocabulary.words.spelled
    for copy, text in enumerate(entailed):
        own, changed = batch.tokens[text], batch.tokens[9 + copy]
        assert batch.image_of_text[9 + copy] == batch.image_of_text[text]
        (place,) = np.flatnonzero(own != changed)
        assert changed[place] == UNKNOWN
        assert words[own[place]] == task.vocabulary.hideable[batch.hidden_words[copy]]


def test_parts_of_a_batch_add_up_to_its_loss(world: World) -> None:
    task = task_of(world, "model.dropout=0")
    whole = task.loss(task.model, task.batch(np.arange(12), epoch=0))
    parts = [
        task.loss(task.model, task.batch(part, epoch=0)) * len(part) / 12
        for part in (np.arange(1), np.arange(1, 5), np.arange(5, 12))
    ]
    assert torch.stack(parts).sum().item() == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.slow
def test_two_processes_train_as_one_does(world: World, tmp_path: Path) -> None:
    """In batches of 3, two processes have 2 pairs and 1: often one of them has no copy."""
    changes = ("epochs=1", "batch_size=3", "updates=20", "model.dropout=0", "eval_split=")
    fit(task_of(world, *changes), tmp_path / "one")
    sets = [f"--set={change}" for change in (*FAST, *changes)]
    command = ["-m", "clipfeat.cli", "train", "ve", "--store", str(world[0]), "--data"]
    command += [str(world[1]), "--out", str(tmp_path / "two"), "--device", "cpu", *sets]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, *command], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    records = (read_metrics(tmp_path / name) for name in ("one", "two"))
    one, two = ([line["loss"] for line in lines if "loss" in line] for lines in records)
    assert len(one) == len(two) == 20
    assert two[:8] == pytest.approx(one[:8], rel=1e-3)


def test_answers_are_chosen_among_the_answers_alone(run: Path, world: World, typed: Typed) -> None:
    tensors, _ = read_checkpoint(run / "best.safetensors")
    assert len(tensors["model.classifier.3.bias"]) == 3 + 2
    assert read(run / "vocabulary.json")["hideable"] == ["green", "red"]
    confusion = read(run / "result.json")["confusion"]
    assert sum(sum(row.values()) for row in confusion.values()) == 60
    code, out, err = typed("eval", "ve", run, "--split", "dev", "--json", "--device", "cpu")
    assert (code, err) == (0, "")
    assert json.loads(out)["confusion"] == confusion


def test_no_answer_is_a_hidden_word(world: World) -> None:
    task = task_of(world)
    with torch.no_grad():
        task.model.get_parameter("classifier.3.bias")[3:] = 1e6
    assert set(task.evaluate(task.model)) == {"score", "entailment", "neutral", "contradiction"}


def test_a_run_with_hidden_words_resumes_bit_for_bit(
    world: World, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops inside its second epoch of 12 updates, after the checkpoint of update 20."""
    task = task_of(world, "checkpoint_every=5")
    read_parts, calls = task.batch, iter(range(1000))

    def failing(numbers: Any, epoch: int) -> AnswerBatch:
        if next(calls) == 23:
            raise KeyboardInterrupt
        return read_parts(numbers, epoch)

    monkeypatch.setattr(task, "batch", failing)
    with pytest.raises(KeyboardInterrupt):
        fit(task, tmp_path / "run")
    assert read_checkpoint(tmp_path / "run" / "last.safetensors")[1]["step"] in (15, 20)
    fit(task_of(world, "checkpoint_every=5"), tmp_path / "run")
    for name in ("last.safetensors", "best.safetensors", "predictions.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes(), name


def test_without_weight_or_words_nothing_is_hidden(world: World) -> None:
    task = task_of(world, "word_weight=0")
    assert (task.hidden_words, task.vocabulary.hideable) == (None, ())
    assert len(task.batch(np.arange(9), epoch=0).tokens) == 9
    blind = task_of(world, "blind=true")
    assert blind.vocabulary.hideable == ("green", "red")
    assert torch.isfinite(blind.loss(blind.model, blind.batch(np.arange(9), epoch=0)))
