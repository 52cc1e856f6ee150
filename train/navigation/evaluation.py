"""Scores of a split's walks: overall, in groups, with intervals, beside walkers by chance."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from ..compare import interval_of_mean
from ..metrics.navigation import WalkScores, score_walk, walked
from .episodes import EpisodeSplit, check_episodes, read_episodes
from .graphs import SUFFIX, Scan, read_scans
from .results import Walked
from .walkers import MIN_WALKS, WALKERS, Walker

METRES = ("tl", "ne")  # the others are percentages in results
LABELS = {
    "sr": "SR, success: the end is less than 3 m from the goal",
    "spl": "SPL, success by path length (shortest way)",
    "osr": "OSR, oracle success: any viewpoint is",
    "ndtw": "nDTW, dynamic time warping",
    "sdtw": "sDTW, nDTW of successes",
    "cls": "CLS, coverage by length",
    "spl_by_reference": "SPL by the reference's length (HAMT, DUET)",
    "ne": "NE, metres from the end to the goal",
    "tl": "TL, metres walked",
}
BIN_METRES = 5  # of the groups by path length
LONGEST_BIN = 30  # metres; longer paths are one group


def read_split(data: Path, graphs: Path, name: str | None) -> tuple[EpisodeSplit, dict[str, Scan]]:
    """Return the episodes of a split that its scans allow, and those scans.

    `data` is a folder or a file of episodes, `graphs` a folder of connectivity files, in which scans
    may be missing: their episodes are left out. Raises as `read_episodes`, `read_scans` and
    `check_episodes` do.
    """
    split = read_episodes(data, name)
    scans = read_scans_of([split], graphs)
    return check_episodes(split, scans), scans


def read_scans_of(splits: Sequence[EpisodeSplit], graphs: Path) -> dict[str, Scan]:
    """Return the scans of splits that the folder of connectivity files has; an error if it has none."""
    there = {path.name.removesuffix(SUFFIX) for path in graphs.glob(f"*{SUFFIX}")}
    wanted = list(dict.fromkeys(scan for split in splits for scan in split.scans))
    return read_scans(graphs, [scan for scan in wanted if scan in there] or wanted)


def score_walks(walks: Sequence[Walked], scans: Mapping[str, Scan]) -> list[WalkScores]:
    """Return the scores of each walk."""
    return [
        score_walk(scans[each.episode.scan].distances, each.walk, each.reference) for each in walks
    ]


def evaluate_walks(
    walks: Sequence[Walked], scans: Mapping[str, Scan], *, seed: int = 0
) -> dict[str, Any]:
    """Return the scores of a split: means over instructions, in percent or metres.

    `interval` has the ends of 95% bootstrap intervals, in which paths are drawn with all of their
    instructions. `by_length` groups by the reference's metres, `by_scan` and `by_language` by name;
    `chance` has the means of walkers that see nothing (walkers.py), seeded with `seed`.
    """
    scores = score_walks(walks, scans)
    table = np.array(scores, dtype=np.float64)
    numbers = {path: n for n, path in enumerate(dict.fromkeys(map(_path, walks)))}
    path_of = np.array([numbers[_path(each)] for each in walks])
    low, high = (_as_percent(end) for end in interval_of_mean(table, path_of))
    lengths = [walked(scans[each.episode.scan].distances, each.reference) for each in walks]
    return {
        "n": len(walks),
        "paths": len(numbers),
        **_means(table),
        "interval": {name: [low[name], high[name]] for name in WalkScores._fields},
        "by_length": {
            _bin_name(least): means
            for least, means in _groups(table, list(map(_bin, lengths))).items()
        },
        "by_scan": _groups(table, [each.episode.scan for each in walks]),
        "by_language": _groups(table, [each.episode.language for each in walks]),
        "chance": {
            name: _means(_chance(walks, scans, walker, np.random.default_rng(seed)))
            for name, walker in WALKERS.items()
        },
    }


def mean_scores(walks: Sequence[Walked], scans: Mapping[str, Scan]) -> dict[str, float]:
    """Return the means of each metric over instructions, in percent or metres."""
    return _means(np.array(score_walks(walks, scans), dtype=np.float64))


def format_result(result: Mapping[str, Any]) -> str:
    """Return scores as lines for people."""
    lines = []
    for name, label in LABELS.items():
        low, high = result["interval"][name]
        lines.append(f"{result[name]:6.2f}  {label}  ({low:.2f} to {high:.2f})")
    head = f"{'':>26}" + "".join(f"{name:>8}" for name in ("n", "SR", "SPL", "nDTW", "NE"))
    lines += ["", head, _row("all", result)]
    for kind in ("by_length", "by_language", "by_scan"):
        if len(result[kind]) > 1:
            lines += [_row(name, means) for name, means in result[kind].items()]
    if "blind_twin" in result:
        lines.append(_row("blind twin", result["blind_twin"]))
    lines += [_row(f"chance: {name}", means) for name, means in result["chance"].items()]
    return "\n".join(lines)


def _row(name: str, means: Mapping[str, Any]) -> str:
    numbers = "".join(f"{means[metric]:8.2f}" for metric in ("sr", "spl", "ndtw", "ne"))
    return f"{name:>26.26}{means.get('n', ''):>8}{numbers}"


def _path(each: Walked) -> tuple[str, str]:
    return each.episode.scan, each.episode.path_id


def _chance(
    walks: Sequence[Walked],
    scans: Mapping[str, Scan],
    walker: Walker,
    rng: np.random.Generator,
) -> Float64[np.ndarray, "walk metric"]:
    """Return the scores of a walker on the same episodes, MIN_WALKS walks or more."""
    rows, repeats = [], math.ceil(MIN_WALKS / len(walks))
    for each in walks:
        scan = scans[each.episode.scan]
        for _ in range(repeats):
            walk = walker(scan, each.reference[0], len(each.reference) - 1, rng)
            rows.append(score_walk(scan.distances, walk, each.reference))
    return np.array(rows, dtype=np.float64)


def _groups(
    table: Float64[np.ndarray, "walk metric"], keys: Sequence[Any]
) -> dict[Any, dict[str, Any]]:
    """Return the means of each group, in the order of their keys."""
    return {
        key: {"n": keys.count(key), **_means(table[[each == key for each in keys]])}
        for key in sorted(set(keys))
    }


def _bin(metres: float) -> int:
    """Return the least length of a path's group, a multiple of BIN_METRES."""
    return min(int(metres // BIN_METRES) * BIN_METRES, LONGEST_BIN)


def _bin_name(least: int) -> str:
    """Return the name of a group of path lengths.

    >>> _bin_name(5), _bin_name(30)
    ('5 to 10 m', '30 m and more')
    """
    return f"{least} m and more" if least == LONGEST_BIN else f"{least} to {least + BIN_METRES} m"


def _means(table: Float64[np.ndarray, "walk metric"]) -> dict[str, float]:
    return _as_percent(table.mean(axis=0))


def _as_percent(values: Float64[np.ndarray, " metric"]) -> dict[str, float]:
    return {
        name: round(float(value) * (1 if name in METRES else 100), 2)
        for name, value in zip(WalkScores._fields, values, strict=True)
    }
