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


@pytest.mark.parametrize("softness", [1e-6, 0.05, 1.0, 30.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_soft_clamp_is_the_logarithm_of_a_sum_of_exponentials(softness, dtype):
    maps = np.random.default_rng(0).standard_normal((3, 7, 5, 6)).astype(dtype)
    found = mean_heatmap(maps, 0.9, softness)
    assert found.dtype == np.promote_types(dtype, np.float32)
    for n in range(3):
        mean = np.abs(maps[n].astype(np.float64)).mean(axis=0)
        width = softness * mean.mean()
        expected = width * np.logaddexp(0, (mean - 0.9 * mean.mean()) / width)
        np.testing.assert_allclose(found[n], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found[n], mean_heatmap(maps[n : n + 1], 0.9, softness)[0])


def test_without_softness_the_clamp_is_hard_and_a_little_changes_little():
    maps = np.random.default_rng(0).standard_normal((3, 7, 5, 6)).astype(np.float32)
    np.testing.assert_array_equal(mean_heatmap(maps, 0.9, 0.0), mean_heatmap(maps, 0.9))
    level = np.abs(maps).mean(axis=(1, 2, 3))[:, None, None]
    more = mean_heatmap(maps, 0.9, 0.05) - mean_heatmap(maps, 0.9)
    assert (more > -1e-6).all()
    assert (more <= 0.05 * level * np.log(2) + 1e-6).all()


def test_a_soft_clamp_of_nothing_of_sizes_and_of_what_is_not_finite():
    maps = np.ones((5, 2, 3, 3), np.float32)
    maps[0] = 0
    maps[1] *= np.float32(1e-44)
    maps[2] *= np.float32(1.5e38)
    maps[3, 0, 1, 1], maps[4, 0, 1, 1] = np.nan, np.inf
    found = mean_heatmap(maps, 1.0, 0.25)
    np.testing.assert_array_equal(found[0], 0)
    np.testing.assert_allclose(found[2], 1.5e38 * 0.25 * np.log(2), rtol=1e-6)
    assert found[1].all()
    # As without softness: what is no heat is left to who clusters it.
    np.testing.assert_array_equal(found[3:], mean_heatmap(maps[3:], 1.0))


def test_half_precision_is_averaged_in_single():
    maps = np.zeros((1, 2048, 2, 2), dtype=np.float16)
    maps[0, :, 0, 0] = 60_000
    found = mean_heatmap(maps, 0.0)
    assert found.dtype == np.float32
    assert found[0, 0, 0] == maps[0, 0, 0, 0]


@pytest.mark.parametrize("maps", [np.zeros((2, 3, 4)), np.zeros((2, 0, 4, 4)), np.zeros((1, 2, 3, 4), dtype=int)])
def test_refuses(maps):
    with pytest.raises(ValueError, match="mean_heatmap needs floating-point maps of shape"):
        mean_heatmap(maps)


@pytest.mark.parametrize("softness", [-0.1, np.nan, np.inf])
def test_refuses_a_softness_that_is_none(softness):
    with pytest.raises(ValueError, match="softness must be at least 0"):
        mean_heatmap(np.ones((1, 2, 3, 4), np.float32), softness=softness)
