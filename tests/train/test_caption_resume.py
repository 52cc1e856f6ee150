"""Captioning that is killed, in either stage, goes on to the same bits."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from caption_world import FAST, TRANSFORMER, make_world
from children import start, wait_for_update

World = tuple[Path, Path]
CHANGES = ("epochs=3", "checkpoint_every=3", "scst.epochs=3")  # 8 and 4 updates an epoch
FILES = ("last.safetensors", "best.safetensors", "predictions.json", "scores.json")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def start_child(world: World, out: Path) -> subprocess.Popen[str]:
    sets = [f"--set={change}" for change in (*FAST, TRANSFORMER, *CHANGES)]
    paths = ["--store", str(world[0]), "--data", str(world[1]), "--out", str(out)]
    words = ["train", "caption", *paths, *sets, "--device", "cpu"]
    return start([sys.executable, "-m", "clipfeat.cli", *words])


def numbers(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl, less what a clock wrote."""
    clock = {"examples_per_s", "data_wait"}
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def test_a_run_killed_in_both_stages_goes_on_bit_for_bit(world: World, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    child = start_child(world, whole)
    _, messages = child.communicate()
    assert (child.returncode, messages) == (0, "")
    for stage, update in (("xe", 13), ("scst", 7)):
        child = start_child(world, run)
        wait_for_update(run / stage, update, child)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert child.returncode == -signal.SIGKILL
        assert not (run / stage / "result.json").exists()
    child = start_child(world, run)
    _, messages = child.communicate()
    assert child.returncode == 0, messages
    assert f"going on after update 24 of 24 of {run / 'xe'}" in messages
    assert f"of 12 of {run / 'scst'}" in messages
    for stage in ("xe", "scst"):
        assert numbers(run / stage) == numbers(whole / stage)
        for name in FILES:
            assert (run / stage / name).read_bytes() == (whole / stage / name).read_bytes(), name
    losses = [line["loss"] for line in numbers(whole / "scst") if "loss" in line]
    assert len(losses) == 12
    assert len(set(losses)) > 6  # samples were not all alike
