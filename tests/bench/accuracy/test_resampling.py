from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from pc_engine.bench.accuracy.resampling import (
    interval_of_gain,
    interval_of_mean,
    mean_over,
    percentile_interval,
    resampled_sums,
    share_of,
    wilson_interval,
)


def test_each_resample_draws_as_many_images_as_there_are() -> None:
    values = np.column_stack([np.ones(70), np.arange(70.0)])
    sums = resampled_sums(values, seed=3, resamples=500)
    assert sums.shape == (500, 2)
    assert (sums[:, 0] == 70).all()
    # The sum of n draws has the mean of the sum and the deviation of n times one draw's.
    assert sums[:, 1].mean() == pytest.approx(values[:, 1].sum(), rel=0.02)
    assert sums[:, 1].std() == pytest.approx(np.sqrt(70) * values[:, 1].std(), rel=0.1)


def test_the_same_seed_draws_the_same_images_for_every_figure() -> None:
    values = np.random.default_rng(0).random((40, 3))
    sums = resampled_sums(values, seed=1)
    np.testing.assert_array_equal(sums, resampled_sums(values, seed=1))
    np.testing.assert_allclose(resampled_sums(values[:, ::-1], seed=1), sums[:, ::-1])
    assert not np.allclose(sums, resampled_sums(values, seed=2))


def test_shares_of_nothing_are_left_out() -> None:
    np.testing.assert_array_equal(share_of(np.array([1, 0]), np.array([2, 0])), [0.5, np.nan])
    np.testing.assert_array_equal(mean_over(np.array([[1.0, np.nan, 3.0], [np.nan, 0, 5]]), [0, 2]), [2, np.nan])
    np.testing.assert_array_equal(mean_over(np.ones((2, 3)), []), [np.nan, np.nan])
    low, high = percentile_interval(np.append(np.arange(1001.0), np.nan)) or (0, 0)
    assert (low, high) == (25, 975)


def test_resamples_that_are_all_alike_have_another_interval_or_none() -> None:
    for draws in ([np.nan, 1.0, np.nan], [1.0, 1.0], [0.1 + 0.2, 0.3], [np.nan], [1e9, 1e9 + 1e-7]):
        assert percentile_interval(np.array(draws)) is None
        assert percentile_interval(np.array(draws), (0.5, 1)) == (0.5, 1)
    assert percentile_interval(np.array([0.0, 1.0]), (0.5, 1)) == pytest.approx((0.025, 0.975))


def test_wilsons_interval_is_that_of_scipy_to_the_last_bit() -> None:
    for images in (1, 2, 5, 37, 1000):
        for right in {0, 1, images // 3, images - 1, images}:
            expected = binomtest(right, images).proportion_ci(method="wilson")
            assert wilson_interval(right / images, images) == (expected.low, expected.high)
    assert wilson_interval(np.nan, 0) is None


def test_the_interval_of_a_mean_holds_it_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    shares, images = np.array([0.98, 0.9, 0.6]), np.array([12, 30, 20])
    held = 0
    for _ in range(400):
        low, high = interval_of_mean(rng.binomial(images, shares) / images, images)
        held += low <= shares.mean() <= high
    assert 0.92 <= held / 400 <= 0.99


def test_the_interval_of_a_gain_is_turned_with_it() -> None:
    low, high = interval_of_gain([0.5, 1], [0.1, 0], [10, 4]) or (0, 0)
    assert low < (0.4 + 1) / 2 < high
    assert interval_of_gain([0.1, 0], [0.5, 1], [10, 4]) == pytest.approx((-high, -low))
    assert interval_of_gain([1.0], [0.0], [1]) is None
