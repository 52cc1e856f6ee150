"""How well a walk follows a path, as R2R and RxR score it.

Walks and references are rows of a scan's matrix of distances: the shortest way in metres between
any two viewpoints, D. A viewpoint that follows itself, as in recordings with turns, counts once.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

NEAR = 3.0  # metres; a walk that ends less than this from the goal has succeeded
LEAST_LENGTH = 0.01  # metres, in the denominator of SPL


class WalkScores(NamedTuple):
    """The scores of one walk; all but the lengths in metres are from 0 to 1."""

    tl: float  # trajectory length: metres walked
    ne: float  # navigation error: metres from the end to the goal
    sr: float  # success: whether the end is less than 3 m from the goal
    osr: float  # oracle success: whether any viewpoint of the walk is
    spl: float  # success weighted by path length: shortest way by length walked
    spl_by_reference: float  # the same with the length of the reference, as HAMT and DUET have it
    ndtw: float  # normalised dynamic time warping
    sdtw: float  # ndtw of a success, else 0
    cls: float  # coverage weighted by length score


def score_walk(
    distances: Float64[np.ndarray, "viewpoint viewpoint"],
    walk: Sequence[int],
    reference: Sequence[int],
) -> WalkScores:
    """Return the scores of a walk against its reference, neither of them empty.

    TL, NE, SR, OSR and SPL: Anderson et al. 2018 (arXiv 1711.07280 and 1807.06757); SPL takes the
    shortest way from the reference's start to its end, as the official scorer does. nDTW and sDTW:
    Ilharco et al. 2019 (arXiv 1907.05446), with a threshold of 3 m and the reference's number of
    viewpoints. CLS: Jain et al. 2019 (arXiv 1905.12255).
    """
    walk, reference = collapse(walk), collapse(reference)
    costs = distances[np.ix_(walk, reference)]
    to_goal = costs[:, -1]
    tl, length = walked(distances, walk), walked(distances, reference)
    success = float(to_goal[-1] < NEAR)
    ndtw = math.exp(-warp(costs) / (NEAR * len(reference)))
    return WalkScores(
        tl=tl,
        ne=float(to_goal[-1]),
        sr=success,
        osr=float(to_goal.min() < NEAR),
        spl=success * _by_length(float(distances[reference[0], reference[-1]]), tl),
        spl_by_reference=success * _by_length(length, tl),
        ndtw=ndtw,
        sdtw=success * ndtw,
        cls=_coverage(costs, length, tl),
    )


def collapse(walk: Sequence[int]) -> list[int]:
    """Return a walk without the viewpoints that follow themselves.

    >>> collapse([4, 4, 2, 4])
    [4, 2, 4]
    """
    return [row for n, row in enumerate(walk) if n == 0 or row != walk[n - 1]]


def walked(distances: Float64[np.ndarray, "viewpoint viewpoint"], walk: Sequence[int]) -> float:
    """Return the length of a walk in metres."""
    return float(distances[walk[:-1], walk[1:]].sum())


def warp(costs: Float64[np.ndarray, "walk reference"]) -> float:
    """Return the least sum of distances between a walk and a reference, in metres.

    Dynamic time warping: both are passed from start to end, and at each step one or both of them
    move on.
    """
    before = [0.0] + [math.inf] * costs.shape[1]
    for row in costs.tolist():
        after = [math.inf]
        for place, cost in enumerate(row):
            after.append(cost + min(before[place], before[place + 1], after[place]))
        before = after
    return before[-1]


def _by_length(length: float, tl: float) -> float:
    return length / max(tl, length, LEAST_LENGTH)


def _coverage(costs: Float64[np.ndarray, "walk reference"], length: float, tl: float) -> float:
    """Return CLS: how near the walk comes to the reference's viewpoints, by how long it should be.

    A reference of one viewpoint gives 0: it has no length to cover.
    """
    coverage = float(np.exp(-costs.min(axis=0) / NEAR).mean())
    expected = coverage * length
    return coverage * expected / (expected + abs(expected - tl)) if expected else 0.0
