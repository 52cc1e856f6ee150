"""Paths without instructions, for a speaker to describe: shortest paths between viewpoints."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool

from .episodes import ENGLISH, FULL_TURN, Episode
from .graphs import Scan

# Of the paths of R2R (Anderson et al. 2018): 5 m or more, and 4 to 7 viewpoints.
MIN_METRES = 5.0
MIN_NODES, MAX_NODES = 4, 7


def shortest_path_episodes(scans: Mapping[str, Scan], *, count: int, seed: int) -> list[Episode]:
    """Return episodes along shortest paths of 5 m or more with 4 to 7 viewpoints, without texts.

    `count` of all such paths are drawn without repetition, or all are taken where there are fewer.
    Starts look in a random direction. Both follow from `seed` alone. Memory is that of the paths
    returned, and a byte for each pair of viewpoints of a scan.
    """
    rng = np.random.default_rng(seed)
    fitting = {name: _fits(scan) for name, scan in scans.items()}
    totals = np.cumsum([int(fits.sum()) for fits in fitting.values()])
    total = int(totals[-1]) if len(totals) else 0
    drawn = np.sort(rng.choice(total, min(count, total), replace=False))
    episodes: list[Episode] = []
    first = 0
    for name, fits in fitting.items():
        pairs = np.argwhere(fits)
        here = drawn[(drawn >= first) & (drawn < first + len(pairs))] - first
        first += len(pairs)
        for start, goal in pairs[here].tolist():
            scan = scans[name]
            path = tuple(scan.viewpoints[row] for row in scan.path(start, goal))
            number = str(len(episodes))
            heading = rng.uniform(0, FULL_TURN)
            episodes.append(Episode(number, number, name, path, heading, "", ENGLISH))
    return episodes


def _fits(scan: Scan) -> Bool[np.ndarray, "start goal"]:
    """Return between which viewpoints the shortest path has R2R's length."""
    n = len(scan.viewpoints)
    goals = np.arange(n)
    at = np.tile(goals[:, None], n)  # (start, goal): where a walker is after so many steps
    nodes = np.ones((n, n), np.int8)
    for _ in range(MAX_NODES):
        moving = (at != goals) & (at >= 0)
        nodes += moving
        at = np.where(moving, scan.next_hop[at, goals], at)
    is_near = ~np.isfinite(scan.distances) | (scan.distances < MIN_METRES)
    return ~is_near & (nodes >= MIN_NODES) & (nodes <= MAX_NODES)
