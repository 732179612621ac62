import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pc_engine.kernels import l2_normalise, normalise_heatmap


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 40)),
        elements=st.floats(-(2.0**100), 2.0**100, width=32),
    )
)
@settings(deadline=None, max_examples=100)
def test_rows_have_unit_length_or_stay_zero(features):
    found = l2_normalise(features)
    assert found.dtype == np.float32
    for row, unit in zip(features.astype(np.float64), found, strict=True):
        length = np.sqrt((row**2).sum())
        expected = row / length if length else row
        np.testing.assert_allclose(unit, expected, rtol=1e-5, atol=1e-6)


def test_norm_runs_over_all_axes_but_the_first():
    features = np.random.default_rng(0).standard_normal((3, 4, 5, 6))
    found = l2_normalise(features)
    assert found.shape == features.shape
    np.testing.assert_allclose((found**2).sum(axis=(1, 2, 3)), 1)
    np.testing.assert_allclose(found, l2_normalise(features.reshape(3, -1)).reshape(features.shape))


@pytest.mark.parametrize(
    ("dtype", "scale"), [(np.float16, 6e4), (np.float16, 1e-5), (np.float32, 1e38), (np.float32, 1e-38), (float, 1e300)]
)
def test_extreme_rows_neither_overflow_nor_vanish(dtype, scale):
    found = l2_normalise(np.full((1, 25), scale, dtype=dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, 0.2, rtol=1e-3)


def test_input_is_left_alone_and_nan_stays_in_its_row():
    features = np.array([[3.0, 4.0], [np.nan, 1.0], [0.0, 0.0]])
    kept = features.copy()
    np.testing.assert_allclose(l2_normalise(features), [[0.6, 0.8], [np.nan, np.nan], [0, 0]])
    np.testing.assert_array_equal(features, kept)


def test_l2_of_an_empty_batch_and_of_integers():
    assert l2_normalise(np.zeros((0, 4))).shape == (0, 4)
    with pytest.raises(ValueError, match="floating-point"):
        l2_normalise(np.ones((2, 2), dtype=int))


def test_heatmap_by_hand():
    maps = np.array([[[[1.0, 0.0]], [[5.0, 2.0]]]])  # mean 2
    np.testing.assert_array_equal(normalise_heatmap(maps), [[[1, 0]]])
    np.testing.assert_array_equal(normalise_heatmap(maps, 1.0), [[[3, 0]]])
    np.testing.assert_array_equal(normalise_heatmap(maps, 0.0), [[[6, 2]]])


def test_heatmap_equals_the_loop_over_images_and_maps():
    maps = np.random.default_rng(0).random((3, 7, 5, 6)).astype(np.float32)
    found = normalise_heatmap(maps, 1.5)
    assert found.dtype == np.float32
    for n in range(3):
        mean = maps[n].astype(np.float64).mean()
        expected = sum(np.maximum(one - 1.5 * mean, 0) for one in maps[n])
        np.testing.assert_allclose(found[n], expected, rtol=1e-5, atol=1e-6)


def test_heatmap_takes_a_factor_an_image():
    maps = np.random.default_rng(0).random((3, 7, 5, 6))
    found = normalise_heatmap(maps, np.array([0.5, 1.0, 2.0]))
    for n, factor in enumerate((0.5, 1.0, 2.0)):
        np.testing.assert_array_equal(found[n], normalise_heatmap(maps[n : n + 1], factor)[0])


def test_heatmap_of_half_precision_is_single():
    maps = np.full((1, 70, 2, 2), 2000, dtype=np.float16)
    found = normalise_heatmap(maps, 0.0)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.full((1, 2, 2), 140_000))


def test_heatmap_does_not_depend_on_the_batch():
    maps = np.random.default_rng(0).random((5, 70, 14, 14)).astype(np.float32)
    together = normalise_heatmap(maps)
    for n in range(5):
        np.testing.assert_array_equal(together[n], normalise_heatmap(maps[n : n + 1])[0])


def test_heatmap_of_no_maps_is_zero():
    np.testing.assert_array_equal(normalise_heatmap(np.zeros((2, 0, 3, 4))), np.zeros((2, 3, 4)))


@pytest.mark.parametrize("maps", [np.zeros((2, 3, 4)), np.zeros((1, 2, 3, 4), dtype=int)])
def test_heatmap_refuses(maps):
    with pytest.raises(ValueError, match="floating-point maps of shape"):
        normalise_heatmap(maps)


def test_maps_whose_mean_overflows_are_no_empty_picture() -> None:
    maps = np.zeros((2, 3, 4, 4), np.float32)
    maps[0, :, 1, 2] = 3e38
    maps[1, :, 1, 2] = 1
    with np.errstate(over="ignore", invalid="ignore"):
        heat = normalise_heatmap(maps)
    assert np.isnan(heat[0]).all()
    assert heat[1, 1, 2] > 0
