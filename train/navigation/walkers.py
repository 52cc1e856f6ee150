"""Walkers that see nothing: what chance gives on an episode.

They know how many steps the reference has, which no agent is told, so that they are not beaten
by an agent that merely stops in time. Where there is a step to take there is a way: the reference's.
"""

from collections.abc import Callable

import numpy as np

from .graphs import Scan

MIN_WALKS = 1000  # of each walker on a split; several for each episode of a small one

Walker = Callable[[Scan, int, int, np.random.Generator], list[int]]


def stay(scan: Scan, start: int, steps: int, rng: np.random.Generator) -> list[int]:
    """Stop at the start."""
    del scan, steps, rng
    return [start]


def wander(scan: Scan, start: int, steps: int, rng: np.random.Generator) -> list[int]:
    """Take `steps` steps, each to any neighbour."""
    walk = [start]
    for _ in range(steps):
        walk.append(_any_of(scan.neighbours[walk[-1]], rng))
    return walk


def never_turn_back(scan: Scan, start: int, steps: int, rng: np.random.Generator) -> list[int]:
    """Take `steps` steps, and return where one came from only where nothing else is left."""
    walk = [start]
    for _ in range(steps):
        ways = scan.neighbours[walk[-1]]
        onward = tuple(way for way in ways if way not in walk[-2:-1])
        walk.append(_any_of(onward or ways, rng))
    return walk


WALKERS: dict[str, Walker] = {
    "stay": stay,
    "random": wander,
    "never turns back": never_turn_back,
}


def _any_of(ways: tuple[int, ...], rng: np.random.Generator) -> int:
    return ways[int(rng.integers(len(ways)))]
