import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from pc_engine.kernels import cluster_moments, density_peaks


def test_equals_scipys_centres_and_numpys_weighted_variance(bumps):
    heats = bumps([1, 2, 3, 4])
    peaks = density_peaks(heats, cutoff=1.0)
    found = cluster_moments(peaks.labels, heats, peaks.n_clusters)
    y, x = np.indices(heats.shape[1:])
    for n, number in enumerate(peaks.n_clusters):
        centres = np.array(ndimage.center_of_mass(heats[n], peaks.labels[n], range(number)))
        np.testing.assert_allclose(found.means[n, :number], centres[:, ::-1])
        for k in range(number):
            member = peaks.labels[n] == k
            for axis, places in ((0, x), (1, y)):
                around = np.average((places[member] - found.means[n, k, axis]) ** 2, weights=heats[n][member])
                assert found.variances[n, k, axis] == pytest.approx(around)
            assert found.share[n, k] == pytest.approx(heats[n][member].sum() / heats[n][peaks.labels[n] >= 0].sum())
        assert np.isnan(found.means[n, number:]).all()
        assert (found.share[n, number:] == 0).all()


@given(data=st.data())
@settings(max_examples=40)
def test_an_images_moments_are_its_own_and_lie_within_its_cells(data):
    grid = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    labels = data.draw(arrays(np.int32, (3, *grid), elements=st.integers(-1, 3)))
    weights = data.draw(arrays(np.float64, (3, *grid), elements=st.floats(0, 9, width=16)))
    numbers = labels.max(axis=(1, 2)) + 1
    together = cluster_moments(labels, weights, numbers, slots=4)
    assert np.nanmax(together.means, initial=0) <= max(grid) - 1
    assert np.nanmin(together.variances, initial=0) >= 0
    for n in range(3):
        alone = cluster_moments(labels[n : n + 1], weights[n : n + 1], numbers[n : n + 1], slots=4)
        for one, other in zip(vars(alone).values(), vars(together).values(), strict=True):
            np.testing.assert_array_equal(one[0], other[n])


def test_a_cluster_without_weight_has_no_place():
    labels, weights = np.array([[[0, 1]]]), np.array([[[2.0, 0.0]]])
    found = cluster_moments(labels, weights, [2])
    np.testing.assert_array_equal(found.means, [[[0, 0], [np.nan, np.nan]]])
    np.testing.assert_array_equal(found.share, [[1, 0]])


def test_empty_batch():
    found = cluster_moments(np.zeros((0, 3, 3), int), np.zeros((0, 3, 3)), np.zeros(0, int))
    assert found.means.shape == (0, 0, 2)


@pytest.mark.parametrize(
    ("labels", "weights", "numbers", "slots", "reason"),
    [
        (np.zeros((1, 2, 2), int), np.zeros((1, 2, 3)), [1], None, "same shape"),
        (np.zeros((1, 2, 2), int), -np.ones((1, 2, 2)), [1], None, "finite weights >= 0"),
        (np.zeros((1, 2, 2), int), np.ones((1, 2, 2)), [3], 2, "beyond the 2 slots"),
        (np.zeros((1, 2, 2), int), np.ones((1, 2, 2)), [1], -1, "slots must be"),
    ],
)
def test_refuses_others(labels, weights, numbers, slots, reason):
    with pytest.raises(ValueError, match=reason):
        cluster_moments(labels, weights, numbers, slots=slots)
