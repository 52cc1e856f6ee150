"""A run's folder as somebody else may have written it: one line says what is wrong, at once."""

import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import caption_world
import pretrain_world
import pytest
import torch
import vqa_world
from conftest import Typed
from peak_memory import peak, start_peak
from safetensors.torch import save_file

from clipfeat.train.checkpoint import DamagedCheckpointError, read_checkpoint

TASKS = {
    "vqa": (vqa_world, vqa_world.FAST, "val"),
    "pretrain": (pretrain_world, (*pretrain_world.FAST, "model.bert="), "heldout"),
    "caption": (caption_world, (*caption_world.FAST, caption_world.TRANSFORMER), "test"),
}
HUGE = 1 << 24  # channels: a square matrix of so many takes a petabyte
OTHER_MODEL = "best.safetensors: the checkpoint belongs to another model"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {task: tmp_path_factory.mktemp(task) / "run" for task in TASKS}


@pytest.fixture
def forged(runs: dict[str, Path], task: str, tmp_path: Path, typed: Typed) -> Path:
    """Return a copy of a task's run, which is trained when it is first asked for."""
    run = runs[task]
    if not run.exists():
        world, sets, _ = TASKS[task]
        store, data = world.make_world(run.parent)[:2]
        words = ["--store", store, "--data", data, "--out", run, "--device", "cpu"]
        stage = ["--stage", "xe", "--set", "epochs=1"] if task == "caption" else []
        code, _, err = typed("train", task, *words, *(f"--set={s}" for s in sets), *stage)
        assert code == 0, err
    return shutil.copytree(run / "xe" if task == "caption" else run, tmp_path / "forged")


def forge(run: Path, change: dict[str, Any], file: str = "settings.json") -> None:
    path = run / file
    record = json.loads(path.read_text())
    inner = record["settings"]["model"] if file == "settings.json" else record
    inner.update(change)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("vqa", {"hidden": HUGE}, f"{OTHER_MODEL} (Error"),
        ("vqa", {"hidden": 1 << 62}, "hidden must be at most 16777216; got 4611686018427387904"),
        ("vqa", {"name": "mcan"}, f"{OTHER_MODEL} (Error"),
        ("pretrain", {"hidden": HUGE}, OTHER_MODEL),
        (
            "pretrain",
            {"max_grid_side": 1 << 62},
            "max_grid_side must be at most 16777216; got 4611686018427",
        ),
        ("pretrain", {"layers": 1 << 31}, "layers must be at most 1000; got 2147483648"),
        ("caption", {"hidden": HUGE}, OTHER_MODEL),
        ("caption", {"layers": 1 << 31}, "layers must be at most 1000; got 2147483648"),
    ],
)
def test_sizes_that_are_not_the_checkpoints_take_no_memory(
    forged: Path, task: str, change: dict[str, Any], message: str, typed: Typed
) -> None:
    if change.get("name") == "mcan":  # sizes of UpDn are none of its
        settings = json.loads((forged / "settings.json").read_text())
        settings["settings"]["model"] = {}
        (forged / "settings.json").write_text(json.dumps(settings))
    forge(forged, change)
    code, out, err = typed("eval", task, forged, "--split", TASKS[task][2], "--device", "cpu")
    assert (code != 0, out) == (True, "")
    assert err.startswith("Error: ")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("vqa", {"words": ["what", 1]}, "vocabulary.json: words must be texts"),
        ("vqa", {"words": ["one", "more"]}, OTHER_MODEL),
        ("vqa", {"answers": ["yes"]}, OTHER_MODEL),
        ("vqa", {"answers": {"yes": 1}}, "vocabulary.json: answers must be of type list"),
        ("pretrain", {"pieces": ["[PAD]"]}, "vocabulary.json: "),
        ("caption", {"kind": "\x1b[2J"}, "kind must be words or bpe; got '\\x1b[2J'"),
        ("caption", {"words": []}, OTHER_MODEL),
    ],
)
def test_a_vocabulary_that_is_not_the_checkpoints_is_named(
    forged: Path, task: str, change: dict[str, Any], message: str, typed: Typed
) -> None:
    forge(forged, change, "vocabulary.json")
    code, out, err = typed("eval", task, forged, "--split", TASKS[task][2], "--device", "cpu")
    assert (code, out) == (1, "")
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("task", "computes"),
    [
        ("vqa", "answering.predict"),
        ("pretrain", "pretraining.task.objective_scores"),
        ("caption", "captioning.evaluation.write_captions"),
    ],
)
def test_a_precision_that_this_machine_cannot_compute_is_one_line(
    forged: Path, computes: str, task: str, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch has no determinant of bfloat16."""
    settings = json.loads((forged / "settings.json").read_text())
    settings["settings"]["precision"] = "bfloat16"
    (forged / "settings.json").write_text(json.dumps(settings))
    rows = torch.eye(2, dtype=torch.bfloat16)
    monkeypatch.setattr(f"clipfeat.train.tasks.{computes}", lambda *_: torch.linalg.det(rows))
    code, out, err = typed("eval", task, forged, "--split", TASKS[task][2], "--device", "cpu")
    assert (code, out) == (1, "")
    assert "[E-PRECISION-KERNEL]" in err
    assert "pass another --device" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "said",
    [
        None,  # no metadata at all
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"state": {}, "sha256": ""}',
        '{"state": [], "sha256": ""}',
        '{"state": {"step": ' + "9" * 10_000 + '}, "sha256": ""}',
        '{"state": ' + '{"a": ' * 990 + "1" + "}" * 990 + ', "sha256": ""}',
        '{"state": {"a": "\\ud800"}, "sha256": 5}',
        '{"sha256": "\x1b[2J"}',
    ],
)
def test_whatever_a_checkpoint_says_is_one_error(tmp_path: Path, said: str | None) -> None:
    path = tmp_path / "best.safetensors"
    save_file({"\x1b[2J": torch.ones(2)}, path, None if said is None else {"checkpoint": said})
    with pytest.raises(DamagedCheckpointError) as refused:
        read_checkpoint(path)
    assert refused.value.code in {"E-CHECKPOINT-UNREADABLE", "E-CHECKPOINT-DAMAGED"}
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("kind", ["header", "tensor", "link", "pipe", "folder", "empty", "cut"])
def test_what_is_not_a_checkpoint_takes_no_time_and_no_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "best.safetensors"
    whole = tmp_path / "whole"
    save_file({"a": torch.ones(2)}, whole)
    large = 100 << 30
    header = json.dumps({"a": {"dtype": "U8", "shape": [large], "data_offsets": [0, large]}})
    match kind:
        case "header" | "tensor":
            length = large if kind == "header" else len(header)
            path.write_bytes(struct.pack("<Q", length) + header.encode())
            os.truncate(path, large + 8 + len(header))
        case "link":
            path.symlink_to(whole)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            path.write_bytes(whole.read_bytes()[: 0 if kind == "empty" else 20])
    before = start_peak()
    with pytest.raises(DamagedCheckpointError) as refused:
        read_checkpoint(path)
    assert refused.value.code == "E-CHECKPOINT-UNREADABLE"
    assert peak() - before < 100 << 20
