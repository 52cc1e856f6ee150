"""Captioning as processes: killed in either stage, it goes on to the same bits; in a group."""

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from caption_world import FAST, TRANSFORMER, make_world
from children import Child, start, wait_for_update

World = tuple[Path, Path]
Typed = Callable[..., tuple[int, str, str]]
# 8 and 4 updates an epoch; the model has dropout
CHANGES = (
    *("epochs=3", "checkpoint_every=3", "eval_every=5"),
    *("scst.epochs=3", "scst.dropout=true"),
)
FILES = ("last.safetensors", "best.safetensors", "predictions.json", "scores.json")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def command_line(world: World, out: Path, *changes: str) -> list[str]:
    sets = [f"--set={change}" for change in (*FAST, TRANSFORMER, *changes)]
    paths = ["--store", str(world[0]), "--data", str(world[1]), "--out", str(out)]
    words = ["train", "caption", *paths, *sets, "--device", "cpu"]
    return [sys.executable, "-m", "clipfeat.cli", *words]


def numbers(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl, less what a clock wrote."""
    clock = {"examples_per_s", "data_wait"}
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


@pytest.mark.slow
def test_a_run_killed_in_both_stages_goes_on_bit_for_bit(
    world: World, tmp_path: Path, typed: Typed
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    code, _, messages = typed(*command_line(world, whole, *CHANGES)[3:])
    assert (code, messages) == (0, "")
    for stage, update in (("xe", 13), ("scst", 7)):
        child = Child(*command_line(world, run, *CHANGES)[3:])
        wait_for_update(run / stage, update, child)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        assert not (run / stage / "result.json").exists()
    code, _, messages = typed(*command_line(world, run, *CHANGES)[3:])
    assert code == 0, messages
    assert f"resuming {run / 'xe'} after update 24 of 24" in messages
    assert f"resuming {run / 'scst'} after update" in messages
    for stage in ("xe", "scst"):
        assert numbers(run / stage) == numbers(whole / stage)
        for name in FILES:
            assert (run / stage / name).read_bytes() == (whole / stage / name).read_bytes(), name
    losses = [line["loss"] for line in numbers(whole / "scst") if "loss" in line]
    assert len(losses) == 12
    assert len(set(losses)) > 6  # samples were not all alike


@pytest.mark.slow
@pytest.mark.parametrize("dropout", ["false", "true"])
def test_two_processes_train_both_stages_as_one_does(
    world: World, tmp_path: Path, typed: Typed, dropout: str
) -> None:
    """Each draws captions of its own images; of 30 in batches of 29 the second one gets none."""
    scst = ("scst.batch_size=29", f"scst.dropout={dropout}")
    changes = ("epochs=2", "model.dropout=0.0", *scst)
    launch = "import sys; from clipfeat.train.launch import launch; launch(sys.argv[1:], 2)"
    words = command_line(world, tmp_path / "two", *changes)
    child = start([sys.executable, "-c", launch, *words])
    out, messages = child.communicate()
    assert messages == ""
    assert out.count("CIDEr-D") == 2  # a result for each stage, said once
    code, _, _ = typed(*command_line(world, tmp_path / "one", *changes)[3:])
    assert code == 0

    def losses(run: Path) -> list[float]:
        return [line["loss"] for line in numbers(run) if "loss" in line]

    expected = losses(tmp_path / "one" / "xe")
    assert losses(tmp_path / "two" / "xe") == pytest.approx(expected, rel=1e-3)
    assert len(losses(tmp_path / "two" / "scst")) == len(losses(tmp_path / "one" / "scst")) == 4
