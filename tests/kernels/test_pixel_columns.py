import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pc_engine.kernels import pixel_columns


@given(
    window=st.integers(1, 5),
    stride=st.integers(1, 3),
    pads=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    spare=st.integers(0, 9),
)
@settings(max_examples=60)
def test_a_place_holds_the_pixels_under_its_window(window, stride, pads, spare):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 7, 3), np.uint8)
    channels = 4 * window + spare
    found = pixel_columns(images, 0.5, window=window, stride=stride, pads=pads, channels=channels)
    assert found.shape == (2, 3, (7 + sum(pads) - window) // stride + 1, channels)
    assert found.dtype == np.float16
    for n, row, place in np.ndindex(found.shape[:3]):
        expected = np.zeros(channels)
        for k in range(window):
            column = place * stride + k - pads[0]
            if 0 <= column < 7:
                expected[4 * k : 4 * k + 4] = [*images[n, row, column], 0.5]
        np.testing.assert_array_equal(found[n, row, place], expected)


@pytest.mark.parametrize(
    ("images", "window", "channels"),
    [
        (np.zeros((1, 2, 2, 3), np.float32), 1, 8),
        (np.zeros((1, 2, 2, 4), np.uint8), 1, 8),
        (np.zeros((2, 2, 3), np.uint8), 1, 8),
        (np.zeros((1, 2, 2, 3), np.uint8), 3, 16),
        (np.zeros((1, 2, 2, 3), np.uint8), 2, 7),
    ],
)
def test_refuses_others(images, window, channels):
    with pytest.raises(ValueError, match="pixel_columns needs"):
        pixel_columns(images, 1.0, window=window, channels=channels)
