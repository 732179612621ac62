import numpy as np
import pytest

from pc_engine.kernels import normalise_heatmap


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
