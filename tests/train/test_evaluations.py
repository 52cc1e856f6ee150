"""When a model is evaluated, with which weights, and that an interruption changes neither."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from refused import refuses
from rows import PointTask

from clipfeat.train.checkpoint import read_checkpoint, write_checkpoint
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
@pytest.mark.parametrize("changes", [{}, {"eval_every": 3}, {"ema": 0.7}])
def test_an_interrupted_run_ends_with_the_same_bits(
    changes: dict[str, Any], stop_after: int, tmp_path: Path
) -> None:
    settings = LoopSettings(checkpoint_every=2, **SHORT, **changes)
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


def test_the_average_of_the_weights_is_evaluated_and_kept(tmp_path: Path) -> None:
    """The weights themselves train as without it; their average is worked out here in float64."""
    plain, run = tmp_path / "plain", tmp_path / "run"
    plain.mkdir()
    run.mkdir()
    each_update = {**SHORT, "eval_every": 1}
    without, task = (PointTask(LoopSettings(**each_update, ema=ema)) for ema in (0.0, 0.7))
    average = {name: tensor.double() for name, tensor in task.model.state_dict().items()}
    train(without, plain)
    train(task, run)
    for step, (weights, averaged) in enumerate(
        zip(without.evaluated, task.evaluated, strict=True), start=1
    ):
        decay = min(0.7, (1 + step) / (10 + step))
        for name, tensor in weights.items():
            average[name] = decay * average[name] + (1 - decay) * tensor.double()
            torch.testing.assert_close(averaged[name].double(), average[name], rtol=1e-5, atol=1e-6)
    last, _ = read_checkpoint(run / "last.safetensors")
    for name, tensor in without.evaluated[-1].items():
        assert torch.equal(last[f"model.{name}"], tensor)
        assert torch.equal(last[f"average.{name}"], task.evaluated[-1][name])
    best, state = read_checkpoint(run / "best.safetensors")
    assert state["step"] == 1 + task.scores.index(max(task.scores))
    for name, tensor in task.evaluated[state["step"] - 1].items():
        assert torch.equal(best[f"model.{name}"], tensor)


def test_a_checkpoint_without_a_fitting_average_is_refused(tmp_path: Path) -> None:
    settings = LoopSettings(**SHORT, ema=0.7)
    train(PointTask(settings), tmp_path)
    tensors, state = read_checkpoint(tmp_path / "last.safetensors")
    tensors["average.0.bias"] = torch.zeros(1)  # would fit by repeating it
    write_checkpoint(tmp_path / "last.safetensors", tensors, state)
    with refuses("E-RUN-RESUME", "the average of 0.bias has another shape"):
        train(PointTask(settings), tmp_path)
    del tensors["average.0.bias"]
    write_checkpoint(tmp_path / "last.safetensors", tensors, state)
    with refuses("E-RUN-RESUME", "average.0.bias"):
        train(PointTask(settings), tmp_path)
