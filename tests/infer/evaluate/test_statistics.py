"""Intervals and p-values against what is known of them."""

import math

import numpy as np
import pytest

from infer.evaluate.set_scores import resampled
from infer.evaluate.statistics import mean_interval, paired_p, unpaired_p


def normal(num: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(num)


def test_interval_is_that_of_the_normal_distribution():
    low, high = mean_interval(normal(400))
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.12)
    assert low < normal(400).mean() < high
    intervals = np.array([mean_interval(normal(40, seed), seed) for seed in range(100)])
    assert 0.87 <= np.mean((intervals[:, 0] < 0) & (intervals[:, 1] > 0)) <= 1.0
    assert mean_interval(np.array([2.0])) == (2.0, 2.0)
    assert all(math.isnan(value) for value in mean_interval(np.array([])))


def test_permutation_p():
    assert paired_p(np.ones(12)) == pytest.approx(2 / 2**12, abs=0.002)
    assert paired_p(np.zeros(5)) == 1.0
    assert unpaired_p(normal(30), normal(30, 1) + 3) < 0.002
    chance = [unpaired_p(normal(20, 2 * seed), normal(20, 2 * seed + 1)) for seed in range(12)]
    assert 0.25 < np.mean(chance) < 0.75
    # by hand: of the 20 ways to deal 3 of 6 values, two are as far apart as (0 1 2) and (3 4 5)
    assert unpaired_p(np.arange(3), np.arange(3, 6)) == pytest.approx(0.1, abs=0.025)


def test_resampled_interval_of_a_mean():
    values = normal(200)
    low, high = resampled(lambda index: float(values[list(index)].mean()), 200)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 200**0.5, rel=0.4)
