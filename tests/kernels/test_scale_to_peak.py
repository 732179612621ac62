import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pc_engine.kernels import scale_to_peak


@given(arrays(np.float32, (3, 2, 4), elements=st.floats(0, 2.0**120, width=32)))
@settings(max_examples=50)
def test_the_greatest_is_one_and_ratios_stay(heat):
    found = scale_to_peak(heat)
    assert found.dtype == np.float32
    for image, own in zip(found, heat, strict=True):
        assert image.max() == (1 if own.any() else 0)
        np.testing.assert_array_equal(image, own / (own.max() or np.float32(1)))


def test_what_is_nowhere_above_0_or_no_number_stays():
    heat = np.full((3, 2, 2), -4.0)
    heat[1], heat[2, 0, 0], heat[2, 1, 1] = 0, np.nan, 8
    np.testing.assert_array_equal(scale_to_peak(heat), heat)


def test_no_images_are_none():
    assert scale_to_peak(np.zeros((0, 3, 4), np.float32)).shape == (0, 3, 4)


@pytest.mark.parametrize("heat", [np.zeros((2, 3)), np.zeros((2, 0, 3)), np.zeros((2, 3, 3), int)])
def test_refuses_what_is_no_heat(heat):
    with pytest.raises(ValueError, match="scale_to_peak needs"):
        scale_to_peak(heat)
