"""Runs that are killed, and checkpoints that break: training goes on as if nothing had been."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from children import World, start_child, wait_for_update
from refused import refuses
from vqa_world import FAST, make_world

from clipfeat.base.errors import ClipfeatError
from clipfeat.train import fit
from clipfeat.train.checkpoint import read_checkpoint, write_checkpoint
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.settings import VqaSettings
from clipfeat.train.tasks.vqa import VqaTask

OFTEN = ("epochs=8", "checkpoint_every=3")  # 5 updates an epoch: most checkpoints lie inside one
FILES = ("last.safetensors", "best.safetensors", "predictions.json")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody killed."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    child = start_child(world, run, *OFTEN)
    _, messages = child.communicate()
    assert (child.returncode, messages) == (0, "")
    return run


def metrics(run: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl, less what a clock wrote."""
    clock = {"examples_per_s", "data_wait"}
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def assert_equal_runs(run: Path, whole: Path) -> None:
    assert metrics(run) == metrics(whole)
    for name in FILES:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 4, 13, 35])
def test_a_killed_run_goes_on_bit_for_bit(
    world: World, whole: Path, tmp_path: Path, step: int
) -> None:
    run = tmp_path / "run"
    child = start_child(world, run, *OFTEN)
    wait_for_update(run, step, child)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert not (run / "result.json").exists()
    child = start_child(world, run, *OFTEN)
    _, messages = child.communicate()
    assert child.returncode == 0, messages
    assert ("after update" in messages) == (step > 3)
    assert len([line for line in metrics(whole) if "loss" in line]) == 8 * 5
    assert_equal_runs(run, whole)


@pytest.mark.slow
def test_one_process_trains_a_run_at_a_time_and_sigterm_says_how_to_go_on(
    world: World, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    child = start_child(world, run, "epochs=4000")
    wait_for_update(run, 6, child)
    second = start_child(world, run, "epochs=4000")
    _, messages = second.communicate()
    assert second.returncode == 2
    assert messages.startswith(f"Error: {run}: another process is training this run; wait for it")
    child.send_signal(signal.SIGTERM)
    out, messages = child.communicate()
    assert (child.returncode, out) == (143, "")
    assert messages.strip() == "Terminated; run the same command again to resume"


def go_on(world: World, run: Path, *changes: str) -> None:
    settings = load_settings(VqaSettings, config=None, assignments=[*FAST, *OFTEN, *changes])
    fit(VqaTask(settings, store=world[0], data=world[1], device="cpu"), run)


def copy_of(run: Path, to: Path) -> Path:
    to.mkdir()
    for file in run.iterdir():
        if file.is_file():
            (to / file.name).write_bytes(file.read_bytes())
    return to


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_only_the_way_since_the_one_before(
    world: World, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = (whole / "last.safetensors").read_bytes()
    middle = len(sound) // 2
    flipped = sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :]
    for name, damaged in (("cut", sound[:-7]), ("flipped", flipped), ("empty", b"")):
        run = copy_of(whole, tmp_path / name)
        (run / "last.safetensors").write_bytes(damaged)
        go_on(world, run)
        message = capsys.readouterr().err
        assert "last.safetensors: " in message
        assert f"resuming from {run / 'last.1.safetensors'}" in message
        assert "after update 39 of 40" in message
        assert_equal_runs(run, whole)


@pytest.mark.slow
def test_a_kill_between_two_checkpoints_leaves_the_older(
    world: World, whole: Path, tmp_path: Path
) -> None:
    run = copy_of(whole, tmp_path / "run")
    (run / "last.safetensors").unlink()  # renamed, and the new one was not there yet
    go_on(world, run)
    assert_equal_runs(run, whole)


@pytest.mark.slow
def test_two_damaged_checkpoints_are_too_many(world: World, whole: Path, tmp_path: Path) -> None:
    run = copy_of(whole, tmp_path / "run")
    for name in ("last.safetensors", "last.1.safetensors"):
        (run / name).write_bytes(b"nothing")
    with refuses("E-RUN-RESUME", "last.1.safetensors"):
        go_on(world, run)


@pytest.mark.slow
@pytest.mark.parametrize("state", [{}, {"step": "3", "best": 1.0}, {"step": 3, "best": None}])
def test_a_checkpoint_of_strange_numbers_is_refused(
    world: World, whole: Path, tmp_path: Path, state: Any
) -> None:
    run = copy_of(whole, tmp_path / "run")
    tensors, sound = read_checkpoint(run / "last.safetensors")
    strange = {"groups": sound["groups"], **state}
    write_checkpoint(run / "last.safetensors", tensors, strange)
    with pytest.raises(ClipfeatError, match=r"no key .step.|must be of type"):
        go_on(world, run)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_checkpoint_notices_any_changed_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, {"a": torch.ones(3).to(dtype), "b": torch.tensor(2)}, {"step": 4})
    tensors, state = read_checkpoint(path)
    assert (tensors["a"].float().tolist(), state) == ([1, 1, 1], {"step": 4})
    sound = path.read_bytes()
    for bit in range(8 * 8, 8 * len(sound), 7):
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found, changed = read_checkpoint(path)
        except ClipfeatError:
            continue
        # A space of the JSON may have become another; nothing that it says has changed.
        assert (changed, found.keys()) == (state, tensors.keys())
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
