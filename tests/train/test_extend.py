"""A run that gets more epochs: the same as if it had had them from the beginning, or refused."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from refused import refuses
from vqa_world import FAST, make_world

from clipfeat.base.errors import UsageError
from clipfeat.train import fit
from clipfeat.train.schedule import first_other_rate, kept_shares
from clipfeat.train.settings import LoopSettings, load_settings
from clipfeat.train.tasks.settings import VqaSettings
from clipfeat.train.tasks.vqa import VqaTask

World = tuple[Path, Path]
STEADY = ("schedule=constant", "warmup=0.1")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), train=8, val=3)


def train(world: World, run: Path, *changes: str) -> None:
    settings = load_settings(VqaSettings, config=None, assignments=[*FAST, *changes])
    fit(VqaTask(settings, store=world[0], data=world[1], device="cpu"), run)


def rates_of(run: Path) -> list[float]:
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
    ]
    return [line["lr"] for line in lines if "lr" in line]


def test_an_extended_run_is_one_that_was_longer(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    # 24 questions in batches of 16: two updates an epoch, the first of five with half of the rate.
    train(world, run, *STEADY, "epochs=5", "warmup_from=0.5", "warmup=0.2")
    before = (run / "settings.json").read_bytes()
    with refuses("E-RUN-LENGTH", "update 1", "warmup=0.1", f"--init {run}", kind=UsageError):
        train(world, run, *STEADY, "epochs=10", "warmup_from=0.5", "warmup=0.2")
    assert (run / "settings.json").read_bytes() == before
    longer = (*STEADY, "epochs=10", "warmup_from=0.5", "warmup=0.1")
    with caplog.at_level(logging.INFO):
        train(world, run, *longer)
    assert "extended from 10 to 20 updates; the rate of the next one is 0.01" in caplog.text
    train(world, whole, *longer)
    assert rates_of(run) == rates_of(whole) == pytest.approx([0.0075] + 19 * [0.01])
    for name in ("last.safetensors", "best.safetensors", "predictions.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    with refuses("E-RUN-DIFFERS", "epochs 10, not 5", kind=UsageError):
        train(world, run, *STEADY, "epochs=5", "warmup_from=0.5", "warmup=0.2")


def test_a_schedule_that_ends_with_the_run_cannot_be_extended(world: World, tmp_path: Path) -> None:
    train(world, tmp_path / "run", "epochs=1")
    with refuses("E-RUN-LENGTH", "the schedule ends with the run", "--init", kind=UsageError):
        train(world, tmp_path / "run", "epochs=2")
    with refuses("E-RUN-DIFFERS", "epochs 1, not 2; seed 0, not 1", kind=UsageError):
        train(world, tmp_path / "run", "epochs=2", "seed=1")


def test_which_schedules_keep_their_rates() -> None:
    def other(shorter: dict[str, Any], longer: dict[str, Any]) -> int | None:
        old, new = (LoopSettings(batch_size=1, **each) for each in (shorter, longer))
        return first_other_rate(old, new, examples=10)

    constant: dict[str, Any] = {"schedule": "constant", "warmup": 0.0}
    assert other(constant | {"epochs": 2}, constant | {"epochs": 9}) is None
    assert other(constant | {"epochs": 2}, constant | {"updates": 21}) is None
    # Of 20 updates the rate falls at 10, of 40 at 20.
    step: dict[str, Any] = {"schedule": "step", "warmup": 0.0, "milestones": (0.5,)}
    assert other(step | {"epochs": 2}, step | {"epochs": 4}) == 10
    later = step | {"epochs": 4, "milestones": (0.25, 0.75)}
    assert other(step | {"epochs": 2}, later) is None
    noam: dict[str, Any] = {"schedule": "noam", "warmup": 0.2}
    assert other(noam | {"epochs": 2}, noam | {"epochs": 4}) == 0
    assert other(noam | {"epochs": 2}, noam | {"epochs": 4, "warmup": 0.1}) is None
    assert other({"epochs": 2, "warmup": 0.0}, {"epochs": 4, "warmup": 0.0}) == 1  # a cosine
    old = LoopSettings(schedule="step", warmup=0.2, milestones=(0.5,))
    assert kept_shares(old, 1 / 2) == '--set warmup=0.1 --set "milestones=[0.25]"'
