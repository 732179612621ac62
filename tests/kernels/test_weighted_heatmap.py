import numpy as np
import pytest

from pc_engine.kernels import weighted_heatmap


def test_equals_the_loop_over_images_and_maps():
    rng = np.random.default_rng(0)
    maps, weights = rng.random((3, 7, 5, 6)).astype(np.float32), rng.standard_normal((3, 7)).astype(np.float32)
    found = weighted_heatmap(maps, weights, 0.5)
    assert found.dtype == np.float32
    for n in range(3):
        total = sum(weights[n, c] * maps[n, c].astype(np.float64) for c in range(7))
        clamped = np.maximum(total, 0)
        np.testing.assert_allclose(found[n], np.maximum(clamped - 0.5 * clamped.mean(), 0), atol=1e-6)
        np.testing.assert_array_equal(found[n], weighted_heatmap(maps[n : n + 1], weights[n : n + 1], 0.5)[0])


def test_only_the_maps_that_add_most_are_taken():
    maps = np.zeros((2, 4, 2, 2), np.float32)
    maps[:, 0, 0, 0] = 1  # weighs more, but shows less than the others
    maps[:, 1:, 1, 1] = 8
    weights = np.array([[2, 1, 0.5, -9], [2, 0.125, 0.125, 0.125]], np.float32)
    # What map 3 speaks against stays out, and so does the map that adds least of the two.
    np.testing.assert_array_equal(weighted_heatmap(maps, weights, top=2)[0], [[0, 0], [0, 12]])
    np.testing.assert_array_equal(weighted_heatmap(maps, weights, top=3)[0], [[2, 0], [0, 12]])
    np.testing.assert_array_equal(weighted_heatmap(maps, weights, top=4), weighted_heatmap(maps, weights))
    assert (weighted_heatmap(maps, weights)[0] == [[2, 0], [0, 0]]).all()
    # Of equal ones all are taken.
    np.testing.assert_array_equal(weighted_heatmap(maps, weights, top=1)[1], [[2, 0], [0, 0]])
    np.testing.assert_array_equal(weighted_heatmap(maps, weights, top=2)[1], [[2, 0], [0, 3]])


def test_half_precision_is_added_up_in_single():
    maps = np.full((1, 2048, 2, 2), 60_000, np.float16)
    found = weighted_heatmap(maps, np.ones((1, 2048), np.float16))
    assert found.dtype == np.float32
    assert found[0, 0, 0] == 2048 * float(maps[0, 0, 0, 0])


@pytest.mark.parametrize("top", [None, 1])
def test_what_is_not_finite_spoils_its_own_image_only(top):
    maps = np.ones((3, 2, 2, 2), np.float32)
    maps[0, 0, 0, 0], maps[1] = np.nan, np.float32(3e38)
    with np.errstate(over="ignore", invalid="ignore"):
        found = weighted_heatmap(maps, np.full((3, 2), 2, np.float32), top=top)
    assert np.isnan(found[:2]).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(found[2], weighted_heatmap(maps[2:], np.full((1, 2), 2, np.float32), top=top)[0])


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 0, 2, 2), (2, 3, 0, 2)])
def test_nothing_gives_no_heat(shape):
    found = weighted_heatmap(np.zeros(shape, np.float32), np.zeros(shape[:2], np.float32), top=1)
    assert found.shape == (shape[0], *shape[2:])
    assert not found.any()


@pytest.mark.parametrize(
    ("maps", "weights"),
    [
        (np.zeros((2, 3, 4)), np.zeros((2, 3))),
        (np.zeros((2, 3, 4, 4)), np.zeros((2, 4))),
        (np.zeros((2, 3, 4, 4), int), np.zeros((2, 3))),
        (np.zeros((2, 3, 4, 4)), np.zeros((2, 3), int)),
    ],
)
def test_refuses_what_does_not_fit(maps, weights):
    with pytest.raises(ValueError, match="floating-point maps"):
        weighted_heatmap(maps, weights)


def test_refuses_to_add_up_nothing():
    with pytest.raises(ValueError, match="at least 1 map"):
        weighted_heatmap(np.zeros((1, 3, 2, 2)), np.zeros((1, 3)), top=0)
