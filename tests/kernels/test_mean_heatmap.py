import numpy as np
import pytest

from pc_engine.kernels import mean_heatmap


def test_equals_the_loop_over_images():
    maps = np.random.default_rng(0).random((3, 7, 5, 6)).astype(np.float32)
    maps[1] -= 0.5  # as before an activation
    found = mean_heatmap(maps, 0.9)
    assert found.dtype == np.float32
    for n in range(3):
        mean = np.abs(maps[n].astype(np.float64)).mean(axis=0)
        np.testing.assert_allclose(found[n], np.maximum(mean - 0.9 * mean.mean(), 0), atol=1e-6)
        np.testing.assert_array_equal(found[n], mean_heatmap(maps[n : n + 1], 0.9)[0])


def test_maps_without_contrast_give_their_mean():
    maps = np.stack([np.full((4, 3, 3), 2.0), np.zeros((4, 3, 3)), np.full((4, 3, 3), -1.0)])
    np.testing.assert_array_equal(mean_heatmap(maps, 1.0)[:, 0, 0], [2, 0, 1])


def test_half_precision_is_averaged_in_single():
    maps = np.zeros((1, 2048, 2, 2), dtype=np.float16)
    maps[0, :, 0, 0] = 60_000
    found = mean_heatmap(maps, 0.0)
    assert found.dtype == np.float32
    assert found[0, 0, 0] == maps[0, 0, 0, 0]


@pytest.mark.parametrize("maps", [np.zeros((2, 3, 4)), np.zeros((2, 0, 4, 4)), np.zeros((1, 2, 3, 4), dtype=int)])
def test_refuses(maps):
    with pytest.raises(ValueError, match="floating-point maps of shape"):
        mean_heatmap(maps)
