"""The task of docs/own-task.md, run as it is printed there, and the public face of `train`."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refused import refuses
from stores import make_store

import clipfeat.train
from clipfeat.base.errors import UsageError
from clipfeat.featstore import FeatureStore
from clipfeat.train import LoopSettings, Order, Report, evaluate, fit, load_run

PAGE = Path(__file__).parents[2] / "docs" / "own-task.md"
COLORS = ("blue", "green", "red")


@pytest.fixture(scope="module")
def task_type() -> Any:
    """The class that the page prints."""
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    assert len(code.splitlines()) <= 80
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names["ClassificationTask"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store in which one channel is high for each label, and the labels."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    grids, labels = {}, {}
    for number in range(60):
        color = number % len(COLORS)
        grid = rng.normal(size=(2 + number % 2, 3, 8)).astype(np.float16)
        grid[:, :, color] += 3
        grids[f"i{number}"], labels[f"i{number}"] = grid, COLORS[color]
    store = make_store(folder / "s.clipfeat", grids)
    (folder / "labels.json").write_text(json.dumps(labels))
    return store, folder / "labels.json"


def make(task_type: Any, world: tuple[Path, Path], **changes: Any) -> Any:
    settings = LoopSettings(epochs=12, batch_size=12, lr=0.05, **changes)
    return task_type(settings, store=world[0], labels=world[1])


def test_the_printed_task_learns_resumes_and_is_one_experiment(
    task_type: Any, world: tuple[Path, Path], tmp_path: Path
) -> None:
    result, _ = fit(make(task_type, world), tmp_path / "run")
    assert result["score"] == 100  # the labels can be read off one channel
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    manifest = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert (manifest["task"], list(manifest["data_files"])) == ("classify", ["labels.json"])
    assert manifest["store_digest"] == FeatureStore.open(world[0]).digest
    vocabulary = json.loads((tmp_path / "run" / "vocabulary.json").read_text())
    assert vocabulary == {"classes": list(COLORS)}
    assert (tmp_path / "run" / "curves.png").stat().st_size > 0

    again = make(task_type, world)
    assert evaluate(again, tmp_path / "run") == result
    assert fit(again, tmp_path / "run")[0] == result  # there is nothing left to train
    with refuses("E-RUN-DIFFERS", "seed 0, not 1"):
        fit(make(task_type, world, seed=1), tmp_path / "run")


def test_the_model_of_a_task_of_ones_own_is_not_built_by_load_run(
    task_type: Any, world: tuple[Path, Path], tmp_path: Path
) -> None:
    run = str(tmp_path / "run")  # a path may be a text
    fit(make(task_type, world, updates=1), run)
    with refuses("E-RUN-TASK", "classify"):
        load_run(run)
    assert evaluate(make(task_type, world, updates=1), run)["epoch"] == 1


@pytest.mark.parametrize(
    ("method", "given", "code"),
    [
        ("loss", lambda *_: None, "E-TASK-LOSS"),
        ("loss", lambda model, batch: model(*batch[:2]), "E-TASK-LOSS"),
        ("loss", lambda *_: torch.zeros(()), "E-TASK-LOSS"),
        ("batch", lambda *_: None, "E-TASK-BATCH"),
        ("batch", lambda *_: [torch.zeros(1), torch.zeros(1)], "E-TASK-BATCH"),
        ("batch", lambda *_: Report({}), "E-TASK-BATCH"),
        ("evaluate", lambda _: None, "E-TASK-SCORES"),
        ("evaluate", lambda _: {"score": float("nan")}, "E-TASK-SCORES"),
        ("evaluate", lambda _: {"score": torch.ones(())}, "E-TASK-SCORES"),
        ("evaluate", lambda _: {"score": 1.0, "accuracy": np.ones(2)}, "E-TASK-SCORES"),
        ("order", Order(np.arange(0)), "E-TASK-EXAMPLES"),
    ],
)
def test_a_task_that_returns_something_else(
    task_type: Any, world: tuple[Path, Path], tmp_path: Path, method: str, given: Any, code: str
) -> None:
    task = make(task_type, world, updates=1)
    setattr(task, method, given)
    with refuses(code, kind=UsageError):
        fit(task, tmp_path / "run")


def test_a_task_without_its_attributes(
    task_type: Any, world: tuple[Path, Path], tmp_path: Path
) -> None:
    task = make(task_type, world)
    del task.order, task.store
    with refuses("E-TASK-ATTRIBUTE", "ClassificationTask does not set store, order"):
        fit(task, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_public_names() -> None:
    assert clipfeat.train.__all__ == sorted(clipfeat.train.__all__)
    assert {"Task", "fit", "evaluate", "load_run"} <= set(clipfeat.train.__all__)
    for name in clipfeat.train.__all__:
        home = getattr(clipfeat.train, name)
        assert getattr(importlib.import_module(home.__module__), name) is home
    with pytest.raises(AttributeError, match="nothing"):
        clipfeat.train.nothing  # noqa: B018
