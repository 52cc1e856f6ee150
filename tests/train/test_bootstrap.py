"""The bootstrap interval against the normal approximation, and the effect of clusters."""

import time

import numpy as np
import pytest

from clipfeat.train.compare import interval_of_mean

RNG = np.random.default_rng(5)


def test_many_independent_images_give_the_normal_interval() -> None:
    values = RNG.normal(3, 20, 5000)
    low, high = interval_of_mean(values[:, None], np.arange(5000))
    error = 1.96 * values.std() / np.sqrt(5000)
    assert low[0] == pytest.approx(values.mean() - error, abs=0.08 * error)
    assert high[0] == pytest.approx(values.mean() + error, abs=0.08 * error)


def test_images_with_different_numbers_of_questions_give_that_of_a_ratio() -> None:
    """The linearised variance of a ratio of sums, which survey statistics uses for clusters."""
    image_of = np.sort(np.concatenate([np.arange(1500), RNG.integers(1500, size=6000)]))
    values = RNG.normal(0, 15, 1500)[image_of] + RNG.normal(0, 30, len(image_of))
    residuals = np.bincount(image_of, values - values.mean())
    error = 1.96 * np.sqrt((residuals**2).sum()) / len(values)
    low, high = interval_of_mean(values[:, None], image_of)
    assert (high[0] - low[0]) / 2 == pytest.approx(error, rel=0.08)
    assert error > 1.3 * 1.96 * values.std() / np.sqrt(len(values))  # taken as independent


def test_repeated_examples_do_not_narrow_the_interval() -> None:
    values, image_of = RNG.normal(1, 10, (300, 2)), np.arange(300)
    once = interval_of_mean(values, image_of)
    often = interval_of_mean(np.repeat(values, 9, axis=0), np.repeat(image_of, 9))
    np.testing.assert_allclose(often, once)


def test_the_interval_is_the_same_every_time_and_holds_the_mean() -> None:
    values, image_of = RNG.normal(size=(40, 3)), np.arange(40) // 4
    low, high = interval_of_mean(values, image_of)
    np.testing.assert_array_equal((low, high), interval_of_mean(values, image_of))
    assert (low < values.mean(axis=0)).all()
    assert (values.mean(axis=0) < high).all()


def test_the_interval_holds_the_truth_19_times_in_20() -> None:
    hits = 0
    for _ in range(100):
        values = np.repeat(RNG.normal(0, 10, 60), 3) + RNG.normal(0, 5, 180)
        low, high = interval_of_mean(values[:, None], np.repeat(np.arange(60), 3))
        hits += bool(low[0] <= 0 <= high[0])
    assert 87 <= hits <= 99


def test_vqa_v2_takes_seconds() -> None:
    image_of = np.concatenate([np.arange(40504), RNG.integers(40504, size=173850)])
    started = time.process_time()
    interval_of_mean(RNG.choice([-100.0, 0, 100], (len(image_of), 2)), image_of)
    assert time.process_time() - started < 10  # 0.9 s on a quiet machine
