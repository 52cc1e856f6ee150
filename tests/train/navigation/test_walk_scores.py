"""The metrics of walks, on a graph whose values were derived by hand."""

import math

import numpy as np
import pytest

from clipfeat.train.metrics.navigation import collapse, score_walk, walked, warp

# A(0,0) B(2,0) C(5,0) D(5,4) E(2,4); edges AB 2, BC 3, CD 4, BE 4, ED 3. Shortest ways by hand:
# AC = AB + BC = 5, AD = 9, AE = 6, BD = 7 (by C or by E), CE = 7 (by B or by D).
DISTANCES = np.array(
    [
        [0.0, 2, 5, 9, 6],
        [2, 0, 3, 7, 4],
        [5, 3, 0, 4, 7],
        [9, 7, 4, 0, 3],
        [6, 4, 7, 3, 0],
    ]
)
REFERENCE = "ABCD"  # 9 m


def rows(names: str) -> list[int]:
    return ["ABCDE".index(name) for name in names]


# Walks against ABCD. nDTW = exp(-DTW / 12). `nearest` has the metres from each of A, B, C and D to the
# walk. With them, CLS of ABED: the coverage is (1 + 1 + exp(-1) + 1) / 4 = .84197; of 9 m it expects
# 7.5777, and .84197 * 7.5777 / 9 = .70891.
@pytest.mark.parametrize(
    ("walk", "ne", "sr", "osr", "tl", "spl", "dtw", "ndtw", "nearest"),
    [
        ("ABCD", 0, 1, 1, 9, 1, 0, 1, (0, 0, 0, 0)),
        ("AABBCD", 0, 1, 1, 9, 1, 0, 1, (0, 0, 0, 0)),
        ("ABED", 0, 1, 1, 9, 1, 6, 0.606531, (0, 0, 3, 0)),
        ("ABC", 4, 0, 0, 5, 0, 4, 0.716531, (0, 0, 0, 4)),
        ("ABE", 3, 0, 0, 6, 0, 6, 0.606531, (0, 0, 3, 3)),  # 3 m are not less than 3 m
        ("ABCDC", 4, 0, 1, 13, 0, 4, 0.716531, (0, 0, 0, 0)),
        ("A", 9, 0, 0, 0, 0, 16, 0.263597, (0, 2, 5, 9)),
    ],
)
def test_worked_cases(walk, ne, sr, osr, tl, spl, dtw, ndtw, nearest):
    scores = score_walk(DISTANCES, rows(walk), rows(REFERENCE))
    assert (scores.ne, scores.sr, scores.osr, scores.tl, scores.spl) == (ne, sr, osr, tl, spl)
    assert scores.ndtw == pytest.approx(ndtw, abs=5e-7)
    assert scores.sdtw == pytest.approx(sr * ndtw, abs=5e-7)
    coverage = sum(math.exp(-metres / 3) for metres in nearest) / 4
    expected = coverage * 9
    assert scores.cls == pytest.approx(coverage * expected / (expected + abs(expected - tl)))
    costs = DISTANCES[np.ix_(collapse(rows(walk)), rows(REFERENCE))]
    assert warp(costs) == dtw


def test_cls_by_hand():
    assert score_walk(DISTANCES, rows("ABED"), rows(REFERENCE)).cls == pytest.approx(
        0.70891, abs=5e-6
    )
    assert score_walk(DISTANCES, rows("ABCDC"), rows(REFERENCE)).cls == pytest.approx(9 / 13)


def test_the_two_spl_differ_where_the_reference_is_a_detour():
    # A B E D C: the reference has 2 + 4 + 3 + 4 = 13 m, the shortest way from A to C 5 m.
    scores = score_walk(DISTANCES, rows("ABEDC"), rows("ABEDC"))
    assert (scores.tl, scores.ndtw, scores.spl_by_reference) == (13, 1, 1)
    assert scores.spl == pytest.approx(5 / 13)
    direct = score_walk(DISTANCES, rows("ABC"), rows("ABEDC"))
    assert (direct.spl, direct.spl_by_reference) == (1, 1)


def test_a_reference_of_one_viewpoint():
    staying = score_walk(DISTANCES, rows("A"), rows("A"))
    assert (staying.sr, staying.ndtw, staying.cls) == (1, 1, 0)
    assert staying.spl == 0  # 0 m of at least 0.01 m, as in the official scorer
    assert score_walk(DISTANCES, rows("AB"), rows("A")).ndtw == pytest.approx(math.exp(-2 / 3))


def test_warping_is_that_of_all_alignments():
    """Against the definition: the cheapest of all monotone alignments, listed one by one."""

    def cheapest(costs: np.ndarray) -> float:
        if costs.size == 1:
            return costs[0, 0]
        before = [part for part in (costs[:-1], costs[:, :-1], costs[:-1, :-1]) if part.size]
        return costs[-1, -1] + min(cheapest(part) for part in before)

    rng = np.random.default_rng(0)
    for _ in range(20):
        costs = rng.random((int(rng.integers(1, 5)), int(rng.integers(1, 5))))
        assert warp(costs) == pytest.approx(cheapest(costs))


def test_repeats_are_collapsed_and_returns_are_not():
    assert collapse(rows("AABBA")) == rows("ABA")
    assert walked(DISTANCES, rows("ABAB")) == 6
