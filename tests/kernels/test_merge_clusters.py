import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pc_engine.kernels import density_peaks, merge_clusters

#: Each way of telling what costs least: by `valley_power`, `variance_floor` and `reach`.
WAYS = [(0, None, None), (0, 0.1, None), (3, None, 1.5), (2, 0.5, 2.0)]


def scatter(labels, weights):
    """Sum over the cells of all clusters of the weight times the squared distance to the cluster's mean, by axis."""
    places = np.argwhere(labels >= 0).astype(float)
    cluster, weight = labels[labels >= 0], weights[labels >= 0]
    total = np.zeros(2)
    for k in np.unique(cluster):
        own, mass = places[cluster == k], weight[cluster == k]
        if mass.sum() > 0:
            total += (mass[:, None] * (own - np.average(own, axis=0, weights=mass)) ** 2).sum(axis=0)
    return total


def valley(one, other, weights):
    """How far one has to go down from the lower of two peaks to the other cluster, as a share of that peak."""
    here, there = np.where(one, weights, 0), np.pad(np.where(other, weights, 0), 1)
    rows, columns = weights.shape
    steps = itertools.product(range(3), repeat=2)
    shifted = [there[dy : dy + rows, dx : dx + columns] for dy, dx in steps]
    height = np.minimum(here, np.max(shifted, axis=0)).max()
    return 1 - height / min(weights[one].max(), weights[other].max())


def by_definition(labels, weights, valley_power, variance_floor, reach):
    """Try all unions of two clusters, cell by cell, and to leave each out, and keep the cheapest, until one is left.

    Returns the labels by the number of clusters that they tell apart.
    """
    labels, found = labels.copy(), {}
    whole, own = weights[labels >= 0].sum(), 0.0  # the scatter of what was left out goes on to count
    while True:
        left = np.unique(labels[labels >= 0])
        names = {name: number for number, name in enumerate(left)}
        found[left.size] = np.array([names.get(name, -1) for name in labels.ravel()]).reshape(labels.shape)
        if left.size == 1:
            return found
        before = own + scatter(labels, weights) / whole
        tried = []
        for one, other in itertools.combinations(left, 2):
            after = own + scatter(np.where(labels == other, one, labels), weights) / whole
            if variance_floor is None:
                cost = (after - before).sum()
            else:
                cost = np.prod(after + variance_floor) - np.prod(before + variance_floor)
                cost *= 2 / (before + variance_floor).sum()
            cost *= valley(labels == one, labels == other, weights) ** valley_power
            tried.append((round(cost, 8), one, other))
        for k in left if reach else ():
            cost = weights[labels == k].sum() / whole * reach**2
            tried.append((round(cost, 8), np.inf, k))
        _, one, other = min(tried)
        if one == np.inf:
            own += scatter(np.where(labels == other, 0, -1), weights) / whole
        labels[labels == other] = -1 if one == np.inf else one


def named(way):
    return dict(zip(("valley_power", "variance_floor", "reach"), way, strict=True))


def heats(seed, count=4, size=9):
    return np.random.default_rng(seed).random((count, size, size)) ** 3


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(3))
def test_each_union_is_the_cheapest(seed, way):
    weights = heats(seed)
    peaks = density_peaks(weights, cutoff=0.8, min_density=0, min_distance=0)
    assert peaks.n_clusters.min() > 4
    expected = [by_definition(*each, *way) for each in zip(peaks.labels, weights, strict=True)]
    for wanted in (1, 2, 4):
        found = merge_clusters(
            *(peaks.labels, weights, peaks.n_clusters, np.full(len(weights), wanted)),
            **named(way),
        )
        np.testing.assert_array_equal(found.n_clusters, wanted)
        for labels, of_image in zip(found.labels, expected, strict=True):
            np.testing.assert_array_equal(labels, of_image[wanted])


def test_two_near_ones_are_one_before_far_ones_are():
    weights = np.zeros((1, 1, 12))
    weights[0, 0, [0, 3, 11]] = 3.0, 1.0, 1.0
    labels = np.full((1, 1, 12), -1)
    labels[0, 0, [0, 3, 11]] = 0, 1, 2
    found = merge_clusters(labels, weights, [3], [2])
    assert found.labels[0, 0, [0, 3, 11]].tolist() == [0, 0, 1]


def test_clusters_of_one_image_have_one_shape():
    """Two columns of three cells, nearer to each other than their cells: round ones would be rows."""
    weights = np.zeros((1, 7, 4))
    weights[0, ::3, 0] = 1.0, 1.2, 1.4
    weights[0, ::3, 2] = 1.4, 1.2, 1.0
    weights[0, 1::3, ::2] = weights[0, 2::3, ::2] = 1.0  # what their cells are joined by
    labels = np.full((1, 7, 4), -1)
    labels[0, :, 0], labels[0, :, 2] = [0, 0, 1, 1, 1, 2, 2], [3, 3, 4, 4, 4, 5, 5]
    count, wanted = np.array([6]), np.array([2])
    columns = merge_clusters(labels, weights, count, wanted, variance_floor=0.1)
    assert {tuple(np.unique(columns.labels[0, :, x])) for x in (0, 2)} == {(0,), (1,)}
    rows = merge_clusters(labels, weights, count, wanted)
    assert {tuple(np.unique(rows.labels[0, :, x])) for x in (0, 2)} != {(0,), (1,)}


def test_a_valley_parts_what_is_near():
    weights = np.array([[[5.0, 4.0, 4.0, 4.0, 4.0, 5.0, 0.1, 5.0]]])
    labels = np.array([[[0, 0, 0, 1, 1, 1, 1, 2]]])
    near = merge_clusters(labels, weights, [3], [2])
    assert near.labels.tolist() == [[[0, 0, 0, 1, 1, 1, 1, 1]]]
    joined = merge_clusters(labels, weights, [3], [2], valley_power=3)
    assert joined.labels.tolist() == [[[0, 0, 0, 0, 0, 0, 0, 1]]]


def test_no_way_leads_through_cells_of_no_cluster():
    weights, labels = np.array([[[5.0, 5.0, 5.0, 4.0, 4.0, 4.0, 5.0]]]), np.array([[[0, -1, 1, 1, 2, 2, 2]]])
    found = merge_clusters(labels, weights, [3], [2], valley_power=3)
    assert found.labels.tolist() == [[[0, -1, 1, 1, 1, 1, 1]]]


def test_what_is_light_and_far_from_all_others_is_left_out():
    weights = np.array([[[5.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]]])
    labels = np.array([[[0, -1, 1, -1, -1, -1, -1, -1, 2]]])
    for reach, expected in ((None, [0, -1, 0, -1, -1, -1, -1, -1, 1]), (4.0, [0, -1, 1, -1, -1, -1, -1, -1, -1])):
        found = merge_clusters(labels, weights, [3], [2], reach=reach)
        assert found.labels.tolist() == [[expected]]
        assert found.n_clusters.tolist() == [2]
    one = merge_clusters(labels, weights, [3], [1], reach=4.0)
    assert one.labels.tolist() == [[[0, -1, 0, -1, -1, -1, -1, -1, -1]]]


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
@settings(max_examples=40)
def test_an_image_is_merged_by_itself_and_clusters_stay_whole(data):
    grid = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    labels = data.draw(arrays(np.int32, (3, *grid), elements=st.integers(-1, 5)))
    weights = data.draw(arrays(np.float64, (3, *grid), elements=st.floats(0, 9, width=16)))
    wanted = data.draw(arrays(np.int64, 3, elements=st.integers(-1, 7)))
    numbers = labels.max(axis=(1, 2)) + 1
    way = named(data.draw(st.sampled_from(WAYS)))
    together = merge_clusters(labels, weights, numbers, wanted, slots=7, **way)
    for n in range(3):
        alone = merge_clusters(*(each[n : n + 1] for each in (labels, weights, numbers, wanted)), **way)
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
        (np.zeros((1, 2, 2), int), np.ones((1, 2, 2)), [1], [1, 1], "wanted must hold one integer per image"),
    ],
)
def test_refuses_others(labels, weights, numbers, wanted, reason):
    with pytest.raises(ValueError, match=reason):
        merge_clusters(labels, weights, numbers, wanted, slots=2)


def test_a_union_comes_before_what_is_left_out_at_the_same_cost():
    weights, labels = np.array([[[3.0, 0.0, 0.0, 0.0, 1.0]]]), np.array([[[0, -1, -1, -1, 1]]])
    # Of 3/4 and 1/4, four cells apart: 3/16 * 16 is 1/4 * 12.
    united = merge_clusters(labels, weights, [2], [1], reach=np.sqrt(12))
    assert united.labels.tolist() == [[[0, -1, -1, -1, 0]]]
    nearer = merge_clusters(labels, weights, [2], [1], reach=3.4)
    assert nearer.labels.tolist() == [[[0, -1, -1, -1, -1]]]


@pytest.mark.parametrize("parameters", [{"valley_power": -1}, {"variance_floor": 0.0}, {"reach": 0}, {"reach": 1e200}])
def test_refuses_parameters_out_of_range(parameters):
    with pytest.raises(ValueError, match=next(iter(parameters))):
        merge_clusters(np.zeros((1, 2, 2), int), np.ones((1, 2, 2)), [1], [1], **parameters)
