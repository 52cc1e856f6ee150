"""Training on a store behind a URL: the batches, checkpoints and scores of a local copy."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command_lines import run_here
from fault_server import FaultServer, isolate, serving
from logged import logged
from refused import refuses
from vqa_world import FAST, make_world

from clipfeat.base.errors import UsageError
from clipfeat.featstore import FeatureStore
from clipfeat.train import engine, fit
from clipfeat.train.settings import load_settings
from clipfeat.train.tasks.settings import VqaSettings
from clipfeat.train.tasks.vqa import VqaTask

QUICK = ("epochs=2", "checkpoint_every=2", "window_shards=2")
FILES = ("settings", "last", "best", "predictions", "scores", "metrics")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def server(world: tuple[Path, Path]) -> Iterator[FaultServer]:
    with serving(world[0].parent) as faults:
        yield faults


@pytest.fixture
def url(
    server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    server.reset()
    isolate(monkeypatch, tmp_path / "home", [])
    monkeypatch.setenv("CLIPFEAT_CACHE", str(tmp_path / "cache"))
    yield f"{server.url}/world.clipfeat"


def train(store: str | Path, data: Path, run: Path, *changes: str) -> dict[str, Any]:
    settings = load_settings(VqaSettings, config=None, assignments=[*FAST, *QUICK, *changes])
    return fit(VqaTask(settings, store=store, data=data, device="cpu"), run)[0]


def test_it(world, url, server, tmp_path):
    with logged() as lines:
        train(url, world[1], tmp_path / "a")
    print(lines, server.paths())
    assert 0
