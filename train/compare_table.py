"""A table of encoders by tasks from run folders, each cell the mean over the seeds of its runs."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from ..base.errors import UsageError
from ..base.text import printable
from ..featstore.metadata import different_values
from .compare import (
    PERCENTILES,
    SEED,
    ScoredRun,
    common_scores,
    differing_settings,
    read_runs,
    resampled_means,
)
from .run import BEST
from .settings import flat_settings

BLIND = "blind"
# What the seeds of a cell may differ in: each seed of a fine-tuning may start from a run of its own.
OF_A_SEED = {"seed", "init", BEST}
OF_AN_ENCODER = OF_A_SEED | {"store", "blind"}
IMAGES, SEEDS = "images", "seeds"  # what an interval covers


class Task(NamedTuple):
    """What a column is about: the same questions, answered by the same kind of model."""

    task: str
    dataset: str
    model: str
    split: str

    def lines(self) -> list[str]:
        """Return the head of the column."""
        return [printable(f"{self.dataset or self.task} {self.split}"), printable(self.model)]


@dataclass(frozen=True)
class Cell:
    """The runs of one encoder on one task, which differ in nothing but the seed."""

    runs: Mapping[int, Path]  # by seed
    scores: tuple[float, ...]  # of each seed: mean over examples, percent
    difference: float | None  # of the mean over seeds to the baseline's, points
    interval: tuple[float, float] | None  # of the difference, 95%
    over: tuple[str, ...]  # what the interval covers: images, or images and seeds

    @property
    def score(self) -> float:
        """The mean over seeds."""
        return float(np.mean(self.scores))

    @property
    def is_sure(self) -> bool:
        """Whether the interval excludes that there is no difference."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Table:
    """Cells by encoder and task, and what else differs between the encoders of a task."""

    baseline: str
    encoders: tuple[str, ...]
    tasks: tuple[Task, ...]
    cells: Mapping[tuple[str, Task], Cell]
    differing: Mapping[Task, tuple[str, ...]]  # settings and data files


def make_table(runs: Sequence[Path], baseline: str | None = None) -> Table:
    """Return the table of runs; `baseline` is the name of an encoder, by default the first run's.

    Raises UsageError for runs as `compare` does, for a baseline that no run has, and for runs of
    one encoder and task that differ in more than the seed.
    """
    scored = read_runs(runs)
    names = _encoder_names(scored)
    encoders = tuple(dict.fromkeys(names))
    if baseline is None:
        baseline = encoders[0]
    elif baseline not in encoders:
        raise UsageError(
            f"--baseline must be an encoder of these runs, {', '.join(encoders)}; got {baseline}",
            code="E-COMPARE-BASELINE",
        )
    columns: dict[Task, dict[str, list[ScoredRun]]] = {}
    for run, name in zip(scored, names, strict=True):
        columns.setdefault(_task_of(run), {}).setdefault(name, []).append(run)
    cells: dict[tuple[str, Task], Cell] = {}
    differing: dict[Task, tuple[str, ...]] = {}
    for task, column in columns.items():
        for name, of_cell in column.items():
            _check_seeds(name, of_cell)
        cells |= {(name, task): cell for name, cell in _column_cells(column, baseline).items()}
        differing[task] = _differing_names(
            [of_cell[0] for of_cell in column.values()], OF_AN_ENCODER
        )
    return Table(baseline, encoders, tuple(columns), cells, differing)


def _task_of(run: ScoredRun) -> Task:
    settings = flat_settings(run.manifest.settings)
    # The second stage of captioning alone has settings of that stage.
    stage = ", scst" if any(name.startswith("scst.") for name in settings) else ""
    return Task(
        run.manifest.task,
        str(settings.get("dataset", "")),
        f"{settings.get('model.name', '')}{stage}",
        run.split,
    )


def _encoder_names(scored: Sequence[ScoredRun]) -> list[str]:
    """Return the name of each run's row: its model, and whatever tells it from the others' rows."""
    features = _row_features(scored)
    keys = [_key(each) for each in features]
    distinct = dict(zip(keys, features, strict=True))
    rows = [_row_name(distinct[key], distinct.values()) for key in keys]
    blind = [bool(run.manifest.settings.get("blind")) for run in scored]
    hidden = {row for row, is_blind in zip(rows, blind, strict=True) if is_blind}
    blind_row = BLIND if len(hidden) == 1 else f"{BLIND}, {{}}"
    return [
        blind_row.format(row) if is_blind else row
        for row, is_blind in zip(rows, blind, strict=True)
    ]


def _row_features(scored: Sequence[ScoredRun]) -> list[dict[str, Any]]:
    """Return what decides the row of each run: its backbone.

    Recipes belong to tasks. Only a backbone that one task has in several makes a row with each.
    """
    recipes: dict[tuple[Task, str], set[str]] = {}
    backbones = [_key(run.manifest.features.get("backbone")) for run in scored]
    for run, backbone in zip(scored, backbones, strict=True):
        recipe = _key(run.manifest.features.get("recipe"))
        recipes.setdefault((_task_of(run), backbone), set()).add(recipe)
    several = {backbone for (_, backbone), of_task in recipes.items() if len(of_task) > 1}
    decide = [("backbone", "recipe") if each in several else ("backbone",) for each in backbones]
    return [
        {name: run.manifest.features.get(name) for name in names}
        for run, names in zip(scored, decide, strict=True)
    ]


def _key(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _row_name(features: Mapping[str, Any], all_rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the model, and for each other row of the same model the first value that differs."""
    model = _model_name(features)
    told: dict[str, None] = {}
    for other in all_rows:
        if _model_name(other) == model:
            for name, value, _ in itertools.islice(different_values(features, other), 1):
                told[f"{name.rpartition('.')[2]}={value!s:.40}"] = None
    return printable(" ".join([model, *told]))


def _model_name(features: Mapping[str, Any]) -> str:
    """Return what people call a backbone."""
    backbone = features.get("backbone")
    if not isinstance(backbone, dict):
        return "unknown"
    # Features of another program have its format, and "imported" as their model.
    texts = [backbone.get("format"), backbone.get("model"), *backbone.values()]
    return next((text for text in texts if isinstance(text, str) and text), "unknown")


def _check_seeds(name: str, runs: Sequence[ScoredRun]) -> None:
    """Raise UsageError unless runs differ in their seeds, and in nothing else."""
    differing = _differing_names(runs, OF_A_SEED)
    seeds = [_seed(run) for run in runs]
    if not differing and len(set(seeds)) == len(runs):
        return
    problem = f"differ in {', '.join(differing)}" if differing else f"have the seeds {seeds}"
    raise UsageError(
        f"{', '.join(str(run.run) for run in runs)} are of one encoder ({name}) and one task, and "
        f"{problem}; the runs of a cell differ in the seed alone: leave some out, or compare them "
        "without --table",
        code="E-COMPARE-CELL",
    )


def _differing_names(runs: Sequence[ScoredRun], expected: set[str]) -> tuple[str, ...]:
    inputs = differing_settings([run.manifest for run in runs])
    return tuple(dict.fromkeys(name for each in inputs for name in each if name not in expected))


def _seed(run: ScoredRun) -> int:
    seed = run.manifest.settings.get("seed")
    return seed if isinstance(seed, int) else 0


def _column_cells(column: Mapping[str, Sequence[ScoredRun]], baseline: str) -> dict[str, Cell]:
    """Return the cell of each encoder on one task.

    Intervals are bootstrapped over images, which all runs share, and over the seeds of both cells
    where both have several.
    """
    runs = [run for of_cell in column.values() for run in of_cell]
    scores, image_of = common_scores(runs)
    means, resampled = scores.mean(axis=0), resampled_means(scores, image_of)
    ends = np.cumsum([len(of_cell) for of_cell in column.values()])
    places = {
        name: slice(end - len(column[name]), end) for name, end in zip(column, ends, strict=True)
    }
    rng = np.random.default_rng([SEED, 1])  # not the numbers that the images were drawn with
    cells = {}
    for name, of_cell in column.items():
        place, of_baseline = places[name], places.get(baseline)
        difference, interval, over = None, None, ()
        if of_baseline is not None and name != baseline:
            several = min(len(of_cell), len(column[baseline])) > 1
            over = (IMAGES, SEEDS) if several else (IMAGES,)
            ours, theirs = (
                drawn_seeds(resampled[:, each], rng) if several else resampled[:, each].mean(axis=1)
                for each in (place, of_baseline)
            )
            low, high = np.percentile(ours - theirs, PERCENTILES)
            difference = float(means[place].mean() - means[of_baseline].mean())
            interval = float(low), float(high)
        cells[name] = Cell(
            {_seed(run): run.run for run in of_cell},
            tuple(map(float, means[place])),
            difference,
            interval,
            over,
        )
    return cells


def drawn_seeds(
    means: Float64[np.ndarray, "resample seed"], rng: np.random.Generator
) -> Float64[np.ndarray, " resample"]:
    """Return the mean of seeds that are drawn anew for each resample, one fewer than there are.

    So the variance of the mean over n seeds is that of the sample with n - 1 in the denominator; n
    draws would make it smaller by (n - 1) / n, which of three seeds is a third (Rao and Wu 1988).
    """
    count = means.shape[1]
    drawn = rng.integers(count, size=(len(means), count - 1))
    return np.take_along_axis(means, drawn, axis=1).mean(axis=1)


def to_json(table: Table) -> dict[str, Any]:
    """Return the table for scripts."""
    return {
        "baseline": table.baseline,
        "encoders": list(table.encoders),
        "tasks": [
            task._asdict() | {"also_differ_in": list(table.differing[task])} for task in table.tasks
        ],
        "cells": [
            {
                "encoder": name,
                "task": table.tasks.index(task),
                "score": cell.score,
                "seeds": [
                    {"seed": seed, "run": str(run), "score": score}
                    for (seed, run), score in zip(cell.runs.items(), cell.scores, strict=True)
                ],
                "difference": cell.difference,
                "interval": cell.interval,
                "interval_over": list(cell.over),
                "excludes_0": cell.is_sure,
            }
            for (name, task), cell in table.cells.items()
        ],
    }
