"""The shared loop: schedule, parts of a batch, errors, and going on after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from vqa_world import FAST, make_world

from clipfeat.base.errors import ClipfeatError, UsageError
from clipfeat.train.checkpoint import read_checkpoint, write_checkpoint
from clipfeat.train.loop import learning_rate, mean_loss
from clipfeat.train.settings import LoopSettings, load_settings
from clipfeat.train.vqa.settings import VqaSettings
from clipfeat.train.vqa.task import train_vqa


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_world(tmp_path_factory.mktemp("world"))


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl, less what a clock wrote."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "examples_per_s"} for line in lines]


def run_here(world: tuple[Path, Path], out: Path, *changes: str) -> dict[str, Any]:
    settings = load_settings(VqaSettings, config=None, assignments=[*FAST, *changes])
    return train_vqa(settings, store=world[0], data=world[1], out=out, device="cpu")


def start_child(world: tuple[Path, Path], out: Path, *changes: str) -> subprocess.Popen[str]:
    """Start the command as a user would, on one thread so that sums have one order."""
    sets = [part for change in (*FAST, *changes) for part in ("--set", change)]
    paths = ["--store", str(world[0]), "--data", str(world[1]), "--out", str(out)]
    code = "from clipfeat.cli.train import train; train()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "vqa", *paths, *sets, "--device", "cpu"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_epoch(run: Path, epoch: int, child: subprocess.Popen[str]) -> None:
    """Return when the run's metrics speak of `epoch`."""
    path = run / "metrics.jsonl"
    while not path.is_file() or f'"epoch": {epoch},' not in path.read_text():
        assert child.poll() is None, child.communicate()
        time.sleep(0.005)


def test_a_killed_run_goes_on_bit_for_bit(world: tuple[Path, Path], tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reference = start_child(world, whole, "epochs=30")
    child = start_child(world, killed, "epochs=30")
    wait_for_epoch(killed, 5, child)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert not (killed / "result.json").exists()
    child = start_child(world, killed, "epochs=30")
    _, messages = child.communicate()
    assert child.returncode == 0, messages
    assert "going on after epoch" in messages
    assert reference.communicate()[1] == ""
    assert len([line for line in metrics(whole) if "loss" in line]) == 30 * 5
    assert metrics(killed) == metrics(whole)
    for name in ("last.safetensors", "best.safetensors", "predictions.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


def test_the_learning_rate_rises_then_falls() -> None:
    settings = LoopSettings(lr=1.0, warmup=0.1)
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.0003, abs=1e-4)
    assert learning_rate(0, 10, LoopSettings(lr=1.0, warmup=0.0)) == 1.0
    assert learning_rate(9, 10, LoopSettings(lr=1.0, warmup=1.0)) == 1.0


def test_a_batch_in_parts_has_the_loss_of_the_whole(
    world: tuple[Path, Path], tmp_path: Path
) -> None:
    losses = []
    for parts in (1, 3):
        run = tmp_path / str(parts)
        run_here(world, run, "epochs=1", "model.dropout=0", f"accumulate={parts}", "batch_size=10")
        losses.append([line["loss"] for line in metrics(run) if "loss" in line])
    assert len(losses[0]) == 8  # 72 questions: seven batches of 10 and one of 2
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_loss_that_is_no_number_stops_the_run(world: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ClipfeatError, match="the loss of update 4 is nan"):
        mean_loss([torch.tensor(v) for v in (1.0, 2.0, torch.nan, torch.nan)], step=5)
    with pytest.raises(ClipfeatError, match=r"the loss of update \d+ is (nan|inf); lower the rate"):
        run_here(world, tmp_path / "run", "lr=1e30")
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_another_run_is_not_continued(world: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_here(world, run, "epochs=1")
    before = (run / "settings.json").read_bytes()
    with pytest.raises(UsageError, match=r"holds a run with epochs 1, not 2; lr 0.01, not 0.02"):
        run_here(world, run, "epochs=2", "lr=0.02")
    other = make_world(tmp_path / "other", train=25)
    with pytest.raises(
        UsageError, match=r"with store_digest '\w+', not '\w+'; v2_OpenEnded.*train"
    ):
        run_here(other, run, "epochs=1")
    assert (run / "settings.json").read_bytes() == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(UsageError, match="full exists and is no run folder"):
        run_here(world, tmp_path / "full")


def test_a_finished_run_is_not_trained_again(world: tuple[Path, Path], tmp_path: Path) -> None:
    first = run_here(world, tmp_path / "run", "epochs=1")
    last = tmp_path / "run" / "last.safetensors"
    written = last.stat()
    assert run_here(world, tmp_path / "run", "epochs=1") == first
    untouched = last.stat()  # the same file, not written since (reading it may move its atime)
    assert (untouched.st_ino, untouched.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_half_precision_trains_too(world: tuple[Path, Path], tmp_path: Path) -> None:
    result = run_here(world, tmp_path / "run", "epochs=1", "precision=bfloat16")
    tensors, _ = read_checkpoint(tmp_path / "run" / "best.safetensors")
    assert result["n"] == 27
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_a_checkpoint_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    write_checkpoint(path, {"a": torch.ones(3)}, {"step": 4})
    tensors, state = read_checkpoint(path)
    assert (tensors["a"].tolist(), state) == ([1, 1, 1], {"step": 4})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ClipfeatError, match=r"last\.safetensors: not a readable checkpoint"):
        read_checkpoint(path)


def test_a_checkpoint_of_another_model_is_refused(world: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_here(world, run, "epochs=1")
    tensors, state = read_checkpoint(run / "last.safetensors")
    write_checkpoint(run / "last.safetensors", {**tensors, "model.extra": torch.ones(1)}, state)
    with pytest.raises(ClipfeatError, match=r"the checkpoint is of another model .*extra"):
        run_here(world, run, "epochs=1")
    del tensors["random.cpu"]
    write_checkpoint(run / "last.safetensors", tensors, state)
    with pytest.raises(ClipfeatError, match=r"no training can go on from this .'random.cpu'"):
        run_here(world, run, "epochs=1")
