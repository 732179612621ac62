from __future__ import annotations

import numpy as np
import pytest

from pc_engine.bench.accuracy.resampling import mean_over, percentile_interval, resampled_sums, share_of


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
    assert percentile_interval(np.array([np.nan, 1.0, np.nan])) == (1.0, 1.0)
    assert percentile_interval(np.full(3, np.nan)) is None
    low, high = percentile_interval(np.arange(1001.0)) or (0, 0)
    assert (low, high) == (25, 975)
