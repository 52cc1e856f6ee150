"""Compare runs on the same examples, with bootstrap intervals over images."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int

from ..base.errors import ClipfeatError, UsageError
from ..base.jsonio import MAX_RUN_BYTES, field, read_json
from .run import SCORES, RunManifest, read_manifest
from .settings import flat_settings

RESAMPLES, SEED = 2000, 0
PERCENTILES = (2.5, 97.5)  # between them are 95% of the resamples
MAX_SCORE = 1e6  # more than any metric gives; sums of smaller scores stay finite


@dataclass(frozen=True)
class ScoredRun:
    """A run with its score of each example."""

    run: Path
    manifest: RunManifest
    split: str
    images: Mapping[int | str, int | str]  # {example id: image id}
    scores: Mapping[int | str, float]  # {example id: percent}


@dataclass(frozen=True)
class ComparedRun:
    """A run in comparison with the first one."""

    run: Path
    settings: dict[str, Any]  # those that are not the same in all runs
    score: float  # mean over examples, percent
    difference: float | None  # to the first run, points; None for the first
    interval: tuple[float, float] | None  # of the difference, 95%

    @property
    def is_sure(self) -> bool:
        """Whether the interval excludes that there is no difference."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def compare(runs: Sequence[Path]) -> tuple[ComparedRun, ...]:
    """Compare runs with the first of them.

    Raises UsageError for fewer than two runs, for one named twice, and where tasks, splits or
    examples differ.
    """
    scored = read_runs(runs)
    scores, image_of = common_scores(scored)
    differences = scores - scores[:, :1]
    low, high = interval_of_mean(differences, image_of)
    settings = differing_settings([run.manifest for run in scored])
    return tuple(
        ComparedRun(
            run=run.run,
            settings=settings[n],
            score=float(scores[:, n].mean()),
            difference=float(differences[:, n].mean()) if n else None,
            interval=(float(low[n]), float(high[n])) if n else None,
        )
        for n, run in enumerate(scored)
    )


def read_runs(runs: Sequence[Path]) -> list[ScoredRun]:
    """Return several runs with their scores; UsageError for fewer than two, or one named twice."""
    if len({os.path.realpath(run) for run in runs}) < max(2, len(runs)):
        names = ", ".join(map(str, runs)) or "none"
        raise UsageError(
            f"comparing takes at least two different runs; got {names}", code="E-COMPARE-RUNS"
        )
    return [read_scored(run) for run in runs]


def common_scores(
    scored: Sequence[ScoredRun],
) -> tuple[Float64[np.ndarray, "example run"], Int[np.ndarray, " example"]]:
    """Return the scores of the same examples by each run, and the number of each one's image.

    Raises UsageError where tasks, splits or examples differ.
    """
    first = scored[0]
    for other in scored[1:]:
        _check_comparable(first, other)
    ids = list(first.scores)
    scores = np.array([[run.scores[i] for run in scored] for i in ids], dtype=np.float64)
    numbers = {image: n for n, image in enumerate(dict.fromkeys(first.images.values()))}
    return scores, np.array([numbers[first.images[i]] for i in ids])


def interval_of_mean(
    values: Float64[np.ndarray, "example column"], image_of: Int[np.ndarray, " example"]
) -> tuple[Float64[np.ndarray, " column"], Float64[np.ndarray, " column"]]:
    """Return the ends of the 95% bootstrap interval of each column's mean, over images."""
    low, high = np.percentile(resampled_means(values, image_of), PERCENTILES, axis=0)
    return low, high


def resampled_means(
    values: Float64[np.ndarray, "example column"], image_of: Int[np.ndarray, " example"]
) -> Float64[np.ndarray, "resample column"]:
    """Return each column's mean in each of the bootstrap's resamples of images.

    `image_of` numbers the images from 0. They are drawn with replacement, each with all of its
    examples: questions about one image share its features, so that their errors are correlated.
    All columns share the draws.
    """
    images = int(image_of.max()) + 1
    columns = [*values.T, np.ones(len(values))]
    sums = np.stack([np.bincount(image_of, column, images) for column in columns], axis=1)
    rng = np.random.default_rng(SEED)
    totals = np.empty((RESAMPLES, len(columns)))
    for total in totals:
        # One at a time: the counts stay in the cache, 0.9 s for VQA v2's 40,504 images; all
        # in chunks take 2.3 s.
        times_drawn = np.bincount(rng.integers(images, size=images), minlength=images)
        total[:] = times_drawn.astype(np.float64) @ sums
    return totals[:, :-1] / totals[:, -1:]


def read_scored(run: Path) -> ScoredRun:
    """Return the scores of a run folder; UsageError if it has none."""
    manifest, path = read_manifest(run), run / SCORES
    if not os.path.lexists(path):
        raise UsageError(
            f"{run} has no {SCORES}; if its training was interrupted, run its command again; a task "
            "of your own must return scores from `report` (docs/own-task.md)",
            code="E-COMPARE-SCORES",
        )
    record = read_json(path, MAX_RUN_BYTES, follow=False)
    ids, images, scores = (field(record, key, list, path) for key in ("ids", "images", "scores"))
    if not all(type(value) in (int, str) for value in (*ids, *images)):
        problem = "ids and images must be numbers or texts"
    elif not len(ids) == len(images) == len(scores) == len(set(ids)) > 0:
        problem = "must have an image and a score for each id, each id once"
    elif not all(type(score) in (int, float) and abs(score) < MAX_SCORE for score in scores):
        problem = "scores must be numbers below a million"
    else:
        problem = ""
    if problem:
        raise ClipfeatError(f"{path}: {problem}", code="E-COMPARE-SCORES")
    split = field(record, "split", str, path)
    image_of = dict(zip(ids, images, strict=True))
    return ScoredRun(
        run, manifest, split, image_of, dict(zip(ids, map(float, scores), strict=True))
    )


def _check_comparable(first: ScoredRun, other: ScoredRun) -> None:
    """Raise UsageError unless two runs answered the same questions."""
    pairs = (
        ("task", first.manifest.task, other.manifest.task),
        ("split", first.split, other.split),
        ("number of examples", len(first.scores), len(other.scores)),
    )
    problem = next((f"differ in {name}, {a!r} and {b!r}" for name, a, b in pairs if a != b), "")
    differing = _differing_examples(first.images, other.images)
    if not problem and differing:
        problem = f"were scored on different examples, such as {min(map(str, differing))}"
    if problem:
        raise UsageError(
            f"{first.run} and {other.run} {problem}; runs are compared on the same examples",
            code="E-COMPARE-EXAMPLES",
        )


def _differing_examples(
    images: Mapping[int | str, int | str], others: Mapping[int | str, int | str]
) -> list[int | str]:
    """Return the examples that one of two runs lacks, or that are about different images.

    Two stores may call one image 42 and COCO_val2014_000000000042: names need not be equal, but
    each name of one run must stand for one name of the other.
    """
    name_of: dict[int | str, int | str] = {}
    back: dict[int | str, int | str] = {}
    differing = [*(images.keys() ^ others.keys())]
    for example in images.keys() & others.keys():
        image, other = images[example], others[example]
        if name_of.setdefault(image, other) != other or back.setdefault(other, image) != image:
            differing.append(example)
    return differing


def differing_settings(manifests: Sequence[RunManifest]) -> list[dict[str, Any]]:
    """Return, for each run, the inputs that differ: settings, store, data files."""
    inputs = [
        flat_settings(manifest.settings)
        | {"store": manifest.store_digest[:12]}
        | {name: digest[:12] for name, digest in manifest.data_files.items()}
        for manifest in manifests
    ]
    names = dict.fromkeys(name for of_run in inputs for name in of_run)
    missing = object()
    differing = [
        name
        for name in names
        if any(of_run.get(name, missing) != inputs[0].get(name, missing) for of_run in inputs)
    ]
    return [{name: of_run[name] for name in differing if name in of_run} for of_run in inputs]


def format_table(compared: Sequence[ComparedRun]) -> str:
    """Return the comparison as lines for people; a star marks a difference that is sure."""
    rows = [("run", "score", "difference", "95% interval", "settings that differ")]
    for run in compared:
        difference = interval = "-"
        if run.difference is not None and run.interval is not None:
            difference = f"{run.difference:+.2f} {'*' if run.is_sure else ' '}"
            interval = "{:+.2f} to {:+.2f}".format(*run.interval)
        settings = ", ".join(f"{name}={value}" for name, value in run.settings.items()) or "-"
        rows.append((str(run.run), f"{run.score:.2f}", difference, interval, settings))
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    lines = [
        f"{run:<{widths[0]}}  {score:>{widths[1]}}  {difference:>{widths[2]}}  "
        f"{interval:>{widths[3]}}  {settings}"
        for run, score, difference, interval, settings in rows
    ]
    if any(run.is_sure for run in compared[1:]):
        lines.append("* the interval excludes 0")
    return "\n".join(lines)


def to_json(compared: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """Return the comparison for scripts."""
    return [
        dataclasses.asdict(run) | {"run": str(run.run), "excludes_0": run.is_sure}
        for run in compared
    ]
