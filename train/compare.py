"""How sure a mean over questions is, by drawing the images anew."""

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
from .run import SCORES, RunManifest, flat_settings, read_manifest

RESAMPLES, SEED = 2000, 0
PERCENTILES = (2.5, 97.5)  # between them lie 95% of the resamples


def interval_of_mean(
    values: Float64[np.ndarray, "example column"], image_of: Int[np.ndarray, " example"]
) -> tuple[Float64[np.ndarray, " column"], Float64[np.ndarray, " column"]]:
    """Return the ends of the 95% bootstrap interval of each column's mean.

    `image_of` numbers the images from 0. They are drawn with replacement, each with all of its
    examples: questions about one image share its features, so that they err together. All
    columns share the draws.
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
    means = totals[:, :-1] / totals[:, -1:]
    low, high = np.percentile(means, PERCENTILES, axis=0)
    return low, high


LARGEST = 1e6  # a score that no metric gives; sums of smaller ones stay finite


@dataclass(frozen=True)
class Scored:
    """A run with its score of each example."""

    run: Path
    card: RunManifest
    split: str
    images: Mapping[int | str, int | str]  # {example id: image id}
    scores: Mapping[int | str, float]  # {example id: percent}


@dataclass(frozen=True)
class Compared:
    """A run beside the first one."""

    run: Path
    settings: dict[str, Any]  # those that are not the same in all runs
    score: float  # mean over examples, percent
    difference: float | None  # to the first run, points; None for the first
    interval: tuple[float, float] | None  # of the difference, 95%

    @property
    def is_sure(self) -> bool:
        """Whether the interval excludes that there is no difference."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


def compare(runs: Sequence[Path]) -> tuple[Compared, ...]:
    """Compare runs with the first of them.

    Raises UsageError for fewer than two, for one named twice, and where tasks, splits or examples differ.
    """
    if len({run.resolve() for run in runs}) < max(2, len(runs)):
        told = ", ".join(map(str, runs)) or "none"
        raise UsageError(f"comparing takes at least two runs, none of them twice; got {told}")
    scored = [read_scored(run) for run in runs]
    first = scored[0]
    for other in scored[1:]:
        _check_comparable(first, other)
    ids = list(first.scores)
    scores = np.array([[of_run.scores[i] for of_run in scored] for i in ids], dtype=np.float64)
    numbers = {image: n for n, image in enumerate(dict.fromkeys(first.images.values()))}
    image_of = np.array([numbers[first.images[i]] for i in ids])
    differences = scores - scores[:, :1]
    low, high = interval_of_mean(differences, image_of)
    settings = differing_settings([of_run.card for of_run in scored])
    return tuple(
        Compared(
            run=of_run.run,
            settings=settings[n],
            score=float(scores[:, n].mean()),
            difference=float(differences[:, n].mean()) if n else None,
            interval=(float(low[n]), float(high[n])) if n else None,
        )
        for n, of_run in enumerate(scored)
    )


def read_scored(run: Path) -> Scored:
    """Return what a run folder says of its scores; UsageError if it has none."""
    card, path = read_manifest(run), run / SCORES
    if not os.path.lexists(path):
        raise UsageError(f"{run} has no {SCORES}: its training is not done; type its command again")
    record = read_json(path, MAX_RUN_BYTES, follow=False)
    ids, images, scores = (field(record, key, list, path) for key in ("ids", "images", "scores"))
    if not all(type(value) in (int, str) for value in (*ids, *images)):
        raise ClipfeatError(f"{path}: ids and images must be numbers or texts")
    if not len(ids) == len(images) == len(scores) == len(set(ids)) > 0:
        raise ClipfeatError(f"{path}: must hold an image and a score for each id, each id once")
    if not all(type(score) in (int, float) and abs(score) < LARGEST for score in scores):
        raise ClipfeatError(f"{path}: scores must be numbers below a million")
    split = field(record, "split", str, path)
    image_of = dict(zip(ids, images, strict=True))
    return Scored(run, card, split, image_of, dict(zip(ids, map(float, scores), strict=True)))


def _check_comparable(first: Scored, other: Scored) -> None:
    """Raise UsageError unless two runs answered the same questions."""
    pairs = (
        ("task", first.card.task, other.card.task),
        ("split", first.split, other.split),
        ("number of examples", len(first.scores), len(other.scores)),
    )
    for what, one, two in pairs:
        if one != two:
            raise UsageError(
                f"{first.run} and {other.run} differ in {what}, {one!r} and {two!r}; "
                "runs are compared on the same examples"
            )
    if first.images != other.images:
        strays = first.images.items() ^ other.images.items()
        example = min(str(example_id) for example_id, _ in strays)
        raise UsageError(
            f"{first.run} and {other.run} were scored on other examples, such as {example}; "
            "runs are compared on the same examples"
        )


def differing_settings(cards: Sequence[RunManifest]) -> list[dict[str, Any]]:
    """Return, for each run, what it was told and not all runs were: settings, store, data files."""
    told = [
        flat_settings(card.settings)
        | {"store": card.store_digest[:12]}
        | {name: digest[:12] for name, digest in card.data_files.items()}
        for card in cards
    ]
    names = dict.fromkeys(name for of_run in told for name in of_run)
    missing = object()
    differing = [
        name
        for name in names
        if any(of_run.get(name, missing) != told[0].get(name, missing) for of_run in told)
    ]
    return [{name: of_run[name] for name in differing if name in of_run} for of_run in told]


def table(compared: Sequence[Compared]) -> str:
    """Return the comparison as lines for people; a star marks a difference that is sure."""
    rows = [("run", "score", "difference", "95% interval", "settings that differ")]
    for of_run in compared:
        difference = interval = "-"
        if of_run.difference is not None and of_run.interval is not None:
            difference = f"{of_run.difference:+.2f} {'*' if of_run.is_sure else ' '}"
            interval = "{:+.2f} to {:+.2f}".format(*of_run.interval)
        settings = ", ".join(f"{name}={value}" for name, value in of_run.settings.items()) or "-"
        rows.append((str(of_run.run), f"{of_run.score:.2f}", difference, interval, settings))
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    lines = [
        f"{run:<{widths[0]}}  {score:>{widths[1]}}  {difference:>{widths[2]}}  "
        f"{interval:>{widths[3]}}  {settings}"
        for run, score, difference, interval, settings in rows
    ]
    if any(of_run.is_sure for of_run in compared[1:]):
        lines.append("* the interval excludes 0")
    return "\n".join(lines)


def to_json(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """Return the comparison for scripts."""
    return [
        dataclasses.asdict(of_run) | {"run": str(of_run.run), "excludes_0": of_run.is_sure}
        for of_run in compared
    ]
