import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pc_engine.kernels import top_weights


@given(arrays(np.float32, (2, 7), elements=st.sampled_from([-1.0, 0.0, 1.0, 2.0, np.nan, np.inf])), st.integers(1, 9))
@settings(max_examples=100)
def test_keeps_those_that_add_most_and_all_that_add_the_same(weights, top):
    maps = np.ones((2, 7, 2, 3), np.float32)
    found = top_weights(maps, weights, top)
    for image, own in zip(found, weights, strict=True):
        # What is not a number is above all numbers.
        above = np.array([np.isnan(own).sum() + (own > one).sum() for one in own])
        dropped = (above >= top) & ~np.isnan(own) & (np.isnan(own).sum() < top)
        np.testing.assert_array_equal(image, np.where(dropped, 0, own))


def test_what_a_map_adds_is_its_weight_times_its_mean():
    maps = np.zeros((1, 4, 2, 2), np.float16)
    maps[0, 0], maps[0, 1], maps[0, 2], maps[0, 3, 0, 0] = 2, 1, 3, 9
    weights = np.array([[3, 4, -5, 2]], np.float16)  # which adds 6, 4, -15 and 4.5
    found = top_weights(maps, weights, 1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[3, 0, 0, 0]])
    np.testing.assert_array_equal(top_weights(maps, weights, 2), [[3, 0, 0, 2]])
    np.testing.assert_array_equal(top_weights(maps, weights, 3), [[3, 4, 0, 2]])
    np.testing.assert_array_equal(top_weights(maps, weights, 4), weights)


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 0, 2, 2), (2, 3, 0, 2)])
def test_of_nothing_the_weights_are_as_they_were(shape):
    weights = np.ones(shape[:2], np.float32)
    np.testing.assert_array_equal(top_weights(np.zeros(shape, np.float32), weights, 1), weights)


def test_refuses_what_does_not_fit():
    maps, weights = np.zeros((2, 3, 4, 4), np.float32), np.zeros((2, 3), np.float32)
    for bad in ((maps[0], weights), (maps, weights[:, :2]), (maps.astype(int), weights), (maps, weights.astype(int))):
        with pytest.raises(ValueError, match="top_weights needs floating-point maps"):
            top_weights(*bad, 1)
    with pytest.raises(ValueError, match="at least 1 map"):
        top_weights(maps, weights, 0)
