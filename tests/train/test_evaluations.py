"""When a model is evaluated, with which weights, and that an interruption changes neither."""

import json
from pathlib import Path
from typing import Any

import pytest
from rows import PointTask

from clipfeat.train.checkpoint import read_checkpoint
from clipfeat.train.engine import train
from clipfeat.train.schedule import is_evaluated, next_pause
from clipfeat.train.settings import LoopSettings

FILES = ("last.safetensors", "best.safetensors")
# Four updates an epoch, ten in all.
SHORT: dict[str, Any] = {"batch_size": 3, "updates": 10, "lr": 0.05, "log_every": 3}


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl, less what a clock wrote."""
    clock = {"examples_per_s", "data_wait"}
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def places(run: Path, key: str) -> list[tuple[int, int]]:
    """Return (update, epoch) of each line of metrics that has a key."""
    return [(line["step"], line["epoch"]) for line in metrics(run) if key in line]


@pytest.mark.parametrize(
    ("every", "updates"),
    [
        (0, [(4, 1), (8, 2), (10, 3)]),
        (3, [(3, 1), (6, 2), (9, 3), (10, 3)]),
        (4, [(4, 1), (8, 2), (10, 3)]),
        (6, [(6, 2), (10, 3)]),
        (100, [(10, 3)]),
    ],
)
def test_a_model_is_evaluated_every_so_many_updates(
    every: int, updates: list[tuple[int, int]], tmp_path: Path
) -> None:
    """And after the last one; where that is 0, at the end of each epoch."""
    settings = LoopSettings(eval_every=every, **SHORT)
    train(PointTask(settings), tmp_path)
    assert places(tmp_path, "score") == updates
    best = max((line for line in metrics(tmp_path) if "score" in line), key=lambda m: m["score"])
    _, state = read_checkpoint(tmp_path / "best.safetensors")
    assert state == {key: best[key] for key in ("step", "epoch", "score")}


@pytest.mark.parametrize("every", [0, 1, 3, 4, 7])
def test_pauses_are_the_ends_of_epochs_and_the_evaluations(every: int) -> None:
    settings = LoopSettings(eval_every=every)
    pauses = [step for step in range(1, 26) if next_pause(step - 1, 25, 10, settings) == step]
    ends = {10, 20, 25}
    assert pauses == sorted(ends | set(range(every, 26, every) if every else ()))
    evaluated = {step for step in range(1, 26) if is_evaluated(step, 25, 10, settings)}
    assert evaluated == (ends if not every else {*range(every, 26, every), 25})


@pytest.mark.parametrize("stop_after", [2, 5, 7, 9])
@pytest.mark.parametrize("every", [0, 3])
def test_an_interrupted_run_ends_with_the_same_bits(
    every: int, stop_after: int, tmp_path: Path
) -> None:
    settings = LoopSettings(eval_every=every, checkpoint_every=2, **SHORT)
    whole, run = tmp_path / "whole", tmp_path / "run"
    whole.mkdir()
    run.mkdir()
    train(PointTask(settings), whole)
    with pytest.raises(KeyboardInterrupt):
        train(PointTask(settings, stop_after=stop_after), run)
    assert read_checkpoint(run / "last.safetensors")[1]["step"] <= stop_after
    train(PointTask(settings), run)
    assert metrics(run) == metrics(whole)
    for name in FILES:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
