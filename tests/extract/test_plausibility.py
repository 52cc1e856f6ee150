"""Which numbers stop a run, by hand."""

import numpy as np
import pytest
from refused import refuses

from clipfeat.base.errors import ExtractError
from clipfeat.extract.executors.shards import ShardGate, number_problem, spread


@pytest.mark.parametrize(
    ("peak", "dtype", "problem"),
    [
        (1.0, "float16", None),
        (65504.0, "float16", None),  # the largest float16 (IEEE 754)
        (65536.0, "float16", "reaches 6.554e+04, beyond the 65504 of float16; try --dtype float32"),
        (65536.0, "float32", None),
        (float("nan"), "float32", "holds NaN"),
        (float("inf"), "float32", "holds Inf"),
    ],
)
def test_numbers_that_cannot_be_stored(peak, dtype, problem):
    assert number_problem(peak, dtype) == problem


def test_spread_by_hand():
    # mean (2, 0), distances 1 and 1 and 0: their median 1, over 2
    assert spread(np.array([[1.0, 0.0], [3.0, 0.0], [2.0, 0.0]])) == pytest.approx(0.5)
    assert spread(np.zeros((3, 4))) == 0


def gate(vectors, problems=()):
    made = ShardGate()
    for number, vector in enumerate(vectors):
        made.add(f"file {number}", "", {"pooled": np.asarray(vector)})
    for number, problem in enumerate(problems):
        made.add(f"bad {number}", problem, {})
    return made


def test_alike_features_of_different_images_stop_the_run():
    same = np.ones(16) + np.random.default_rng(0).normal(0, 1e-5, (8, 16))
    with refuses("E-FEATURES-EQUAL", "pooled features of 8 different images", kind=ExtractError):
        gate(same).check()
    gate(same[:7]).check()  # too few to tell
    gate(np.random.default_rng(0).normal(0, 1, (8, 16))).check()


def test_one_picture_under_many_names_stops_nothing():
    made = ShardGate()
    for _ in range(20):
        made.add("the same file", "", {"grid": np.ones(4)})
    made.check()


def test_most_images_refused_for_their_numbers_stop_the_run():
    rng = np.random.default_rng(0)
    with refuses("E-FEATURES-INVALID", "5 of the 9 images", "grid holds NaN", kind=ExtractError):
        gate(rng.normal(0, 1, (4, 16)), ["grid holds NaN"] * 5).check()
    gate(rng.normal(0, 1, (5, 16)), ["grid holds NaN"] * 4).check()
    gate([], ["grid holds NaN"] * 7).check()
