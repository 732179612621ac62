import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pc_engine.kernels import density_peaks, merge_clusters


def spread(labels, weights):
    """Sum over the cells of all clusters of the weight times the squared distance to the cluster's mean."""
    places = np.argwhere(labels >= 0).astype(float)
    cluster, weight = labels[labels >= 0], weights[labels >= 0]
    total = 0.0
    for k in np.unique(cluster):
        own, mass = places[cluster == k], weight[cluster == k]
        if mass.sum() > 0:
            total += (mass * ((own - np.average(own, axis=0, weights=mass)) ** 2).sum(axis=1)).sum()
    return total


def by_definition(labels, weights, wanted):
    """Try all unions of two clusters, cell by cell, and keep the one of the least spread."""
    labels = labels.copy()
    whole = weights[labels >= 0].sum()
    while (left := np.unique(labels[labels >= 0])).size > wanted:
        tried = []
        for one, other in itertools.combinations(left, 2):
            united = np.where(labels == other, one, labels)
            tried.append((round(spread(united, weights) / whole, 8), one, other))
        _, one, other = min(tried)
        labels[labels == other] = one
    names = {name: number for number, name in enumerate(np.unique(labels[labels >= 0]))}
    return np.array([names.get(name, -1) for name in labels.ravel()]).reshape(labels.shape)


def heats(seed, count=6, size=10):
    return np.random.default_rng(seed).random((count, size, size)) ** 3


@pytest.mark.parametrize("seed", range(3))
def test_each_union_is_that_of_the_least_spread(seed):
    weights = heats(seed)
    peaks = density_peaks(weights, cutoff=0.8, min_density=0, min_distance=0)
    assert peaks.n_clusters.min() > 4
    for wanted in (1, 2, 4):
        found = merge_clusters(peaks.labels, weights, peaks.n_clusters, np.full(len(weights), wanted))
        np.testing.assert_array_equal(found.n_clusters, wanted)
        for n, image in enumerate(weights):
            np.testing.assert_array_equal(found.labels[n], by_definition(peaks.labels[n], image, wanted))


def test_two_near_ones_are_one_before_far_ones_are():
    weights = np.zeros((1, 1, 12))
    weights[0, 0, [0, 3, 11]] = 3.0, 1.0, 1.0
    labels = np.full((1, 1, 12), -1)
    labels[0, 0, [0, 3, 11]] = 0, 1, 2
    found = merge_clusters(labels, weights, [3], [2])
    assert found.labels[0, 0, [0, 3, 11]].tolist() == [0, 0, 1]


def test_of_equals_the_first_pair_is_taken():
    weights = np.ones((1, 1, 4))
    found = merge_clusters(np.arange(4).reshape(1, 1, 4), weights, [4], [3])
    assert found.labels.tolist() == [[[0, 0, 1, 2]]]


def test_how_many_are_left():
    labels = np.array([[[0, 1, -1, 2]]] * 5)
    found = merge_clusters(labels, np.ones((5, 1, 4)), [3] * 5, [-1, 0, 1, 3, 9])
    assert found.n_clusters.tolist() == [3, 0, 1, 3, 3]
    assert found.labels[:, 0].tolist() == [[0, 1, -1, 2], [-1] * 4, [0, 0, -1, 0], [0, 1, -1, 2], [0, 1, -1, 2]]
    assert (found.labels.dtype, found.n_clusters.dtype) == (np.int32, np.int64)


def test_a_cluster_without_weight_costs_nothing():
    labels = np.array([[[0, 1, 2]]])
    found = merge_clusters(labels, np.array([[[1.0, 1.0, 0.0]]]), [3], [2])
    assert found.labels.tolist() == [[[0, 1, 0]]]


def test_empty_batch_and_heat():
    found = merge_clusters(np.zeros((0, 3, 3), int), np.zeros((0, 3, 3)), np.zeros(0, int), np.zeros(0, int))
    assert found.labels.shape == (0, 3, 3)
    found = merge_clusters(np.full((1, 2, 2), -1), np.zeros((1, 2, 2)), [0], [3])
    assert (found.labels == -1).all()
    assert found.n_clusters.tolist() == [0]


@given(data=st.data())
@settings(deadline=None, max_examples=40)
def test_an_image_is_merged_by_itself_and_clusters_stay_whole(data):
    grid = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    labels = data.draw(arrays(np.int32, (3, *grid), elements=st.integers(-1, 5)))
    weights = data.draw(arrays(np.float64, (3, *grid), elements=st.floats(0, 9, width=16)))
    wanted = data.draw(arrays(np.int64, 3, elements=st.integers(-1, 7)))
    numbers = labels.max(axis=(1, 2)) + 1
    together = merge_clusters(labels, weights, numbers, wanted, slots=7)
    for n in range(3):
        alone = merge_clusters(labels[n : n + 1], weights[n : n + 1], numbers[n : n + 1], wanted[n : n + 1])
        np.testing.assert_array_equal(alone.labels[0], together.labels[n])
        most = numbers[n] if wanted[n] < 0 else wanted[n]
        assert alone.n_clusters[0] == together.n_clusters[n] == min(numbers[n], most)
        for k in range(numbers[n]):
            assert len(np.unique(together.labels[n][labels[n] == k])) <= 1


@pytest.mark.parametrize(
    ("labels", "weights", "numbers", "wanted", "reason"),
    [
        (np.zeros((1, 2, 2), int), np.zeros((1, 2, 3)), [1], [1], "same shape"),
        (np.zeros((1, 2, 2), int), -np.ones((1, 2, 2)), [1], [1], "finite weights >= 0"),
        (np.zeros((1, 2, 2), int), np.ones((1, 2, 2)), [3], [1], "beyond the 2 slots"),
        (np.zeros((1, 2, 2), int), np.ones((1, 2, 2)), [1], [1, 1], "wanted must hold one integer an image"),
    ],
)
def test_refuses_others(labels, weights, numbers, wanted, reason):
    with pytest.raises(ValueError, match=reason):
        merge_clusters(labels, weights, numbers, wanted, slots=2)
