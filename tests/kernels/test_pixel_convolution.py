import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pc_engine.kernels import pixel_columns, pixel_convolution
from pc_engine.kernels.pixel_convolution import _ROOM, _pitch, _tile, has_pixel_kernel
from pc_engine.kernels.windows import Windows


@given(data=st.data())
@settings(max_examples=60)
def test_equals_a_sum_over_gathered_columns(data):
    draw = data.draw
    rows, columns = (draw(st.integers(1, 4)) for _ in range(2))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(2))
    pads = tuple(draw(st.integers(0, 3)) for _ in range(4))
    height, width = (draw(st.integers(extent, 8)) for extent in (rows, columns))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    images = rng.integers(0, 256, (2, height, width, 3), np.uint8)
    weights = (rng.standard_normal((5, rows, columns, 4)) / 64).astype(np.float16)
    bias = rng.standard_normal(5).astype(np.float16)
    limits = draw(st.sampled_from([{}, {"bounds": (-1, 4)}]))
    found = pixel_convolution(images, weights, bias, 0.5, stride=stride, pads=pads, **limits)

    top, left, bottom, right = pads
    gathered = pixel_columns(
        images, 0.5, window=columns, stride=stride[1], pads=(left, right), channels=4 * columns
    ).astype(np.float64)
    gathered = np.pad(gathered, ((0, 0), (top, bottom), (0, 0), (0, 0)))
    count = (height + top + bottom - rows) // stride[0] + 1
    factors = weights.reshape(5, rows, -1).astype(np.float64)
    sums = sum(gathered[:, y :: stride[0]][:, :count] @ factors[:, y].T for y in range(rows)) + bias
    assert found.dtype == np.float16
    expected = np.clip(sums, *limits["bounds"]) if limits else sums
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-3)


def test_an_image_does_not_depend_on_its_batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 6, 7, 3), np.uint8)
    weights, bias = rng.standard_normal((8, 3, 3, 4)).astype(np.float16), np.zeros(8, np.float16)
    together = pixel_convolution(images, weights, bias, 1.0)
    for n in range(3):
        np.testing.assert_array_equal(pixel_convolution(images[n : n + 1], weights, bias, 1.0)[0], together[n])


@pytest.mark.parametrize(
    ("window", "stride", "filters", "expected"),
    [
        ((3, 3), (1, 1), 64, True),
        ((3, 3), (2, 2), 32, True),
        ((3, 4), (1, 1), 8, True),
        ((7, 7), (2, 2), 64, False),
        ((3, 3), (1, 1), 60, False),
        ((3, 3), (1, 99), 64, False),
    ],
)
def test_which_filters_have_a_kernel(window, stride, filters, expected):
    assert has_pixel_kernel(window, stride, filters) is expected


@given(
    size=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    window=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    stride=st.tuples(st.integers(1, 9), st.integers(1, 40)),
)
@settings(max_examples=300)
def test_the_pixels_of_a_tile_fit_into_its_room(size, window, stride):
    windows = Windows(size, window, stride)
    if not has_pixel_kernel(window, stride, 8) or min(windows.count) < 1:
        return
    rows, columns = _tile(windows)
    assert 1 <= rows <= windows.count[0]
    assert columns % 16 == 0
    assert columns - 16 < math.ceil(windows.count[1] / math.ceil(windows.count[1] / columns)) <= columns
    pitch = _pitch(columns, window, stride)
    assert pitch % 16 == 8
    assert (columns - 1) * stride[1] + window[1] <= pitch
    assert ((rows - 1) * stride[0] + window[0]) * pitch <= _ROOM


def test_tiles_of_the_usual_sizes_are_whole_rows():
    around = (1, 1, 1, 1)
    assert _tile(Windows((224, 224), (3, 3), (1, 1), around)) == (4, 224)
    assert _tile(Windows((224, 224), (3, 3), (2, 2), around)) == (2, 112)
    assert _tile(Windows((448, 448), (3, 3), (1, 1), around)) == (4, 224)


@pytest.mark.parametrize(
    "change",
    [
        {"images": np.zeros((1, 4, 4, 3), np.float32)},
        {"images": np.zeros((1, 4, 4, 4), np.uint8)},
        {"images": np.zeros((4, 4, 3), np.uint8)},
        {"images": np.zeros((1, 0, 4, 3), np.uint8), "pads": (9, 0, 0, 0)},
        {"weights": np.zeros((8, 3, 3, 3), np.float16)},
        {"weights": np.zeros((8, 3, 3, 4), np.float32)},
        {"weights": np.zeros((8, 5, 3, 4), np.float16)},
        {"bias": np.zeros(7, np.float16)},
        {"constant": np.nan},
        {"stride": (0, 1)},
        {"pads": (0, 0, -1, 0)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_refuses_others(change):
    usual = {
        "images": np.zeros((1, 4, 4, 3), np.uint8),
        "weights": np.zeros((8, 3, 3, 4), np.float16),
        "bias": np.zeros(8, np.float16),
        "constant": 1.0,
    }
    assert pixel_convolution(**usual).shape == (1, 2, 2, 8)
    with pytest.raises(ValueError, match="pixel_convolution needs"):
        pixel_convolution(**{**usual, **change})
