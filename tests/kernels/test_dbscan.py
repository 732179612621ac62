import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.cluster import DBSCAN

from pc_engine.kernels import dbscan


def scikit_learn_labels(heat, eps, min_weight):
    labels = np.full(heat.shape, -1)
    cells = np.argwhere(heat > 0)
    if len(cells):
        fitted = DBSCAN(eps=eps, min_samples=min_weight).fit(cells, sample_weight=heat[heat > 0])
        labels[heat > 0] = fitted.labels_
    return labels


def assert_is_scikit_learn(heats, eps, min_weight):
    found = dbscan(heats, eps=eps, min_weight=min_weight)
    assert found.labels.dtype == np.int32
    for n, heat in enumerate(heats):
        expected = scikit_learn_labels(heat, eps, min_weight)
        np.testing.assert_array_equal(found.labels[n], expected)
        assert found.n_clusters[n] == expected.max() + 1


# Radii whose squares scikit-learn rounds upwards, so that it counts the cells at exactly that distance.
RADII = [0.5, 1.0, np.sqrt(2), 1.5, 2.0, np.sqrt(5), 2.9, 3.0, 4.2, 40.0]


@given(
    arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)),
    st.sampled_from(RADII),
    st.integers(1, 12),
)
@settings(max_examples=150)
def test_equals_scikit_learn(heats, eps, min_weight):
    assert_is_scikit_learn(heats, eps, min_weight)


@pytest.mark.parametrize("eps", RADII)
def test_equals_scikit_learn_on_smooth_heatmaps(bumps, eps):
    heats = 10 * bumps([1, 2, 3, 4, 5, 5], seed=4)
    for min_weight in (3, 10, 25):
        assert_is_scikit_learn(heats, eps, min_weight)


@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn_on_sparse_grids(seed):
    rng = np.random.default_rng(seed)
    heats = rng.integers(1, 5, (4, 16, 11)) * (rng.random((4, 16, 11)) < 0.35) * 1.0
    for eps in RADII[:-1]:
        assert_is_scikit_learn(heats, eps, 6)


def spiral(size):
    """A path one cell wide that winds inwards, its arms one cell apart."""
    heat = np.zeros((size, size))
    y, x, dy, dx = 0, 0, 0, 1
    heat[0, 0] = 1
    for _ in range(size * size):
        ahead = [(y + dy * i, x + dx * i) for i in (1, 2)]
        free = all(not (0 <= a < size and 0 <= b < size) or heat[a, b] == 0 for a, b in ahead)
        if free and 0 <= ahead[0][0] < size and 0 <= ahead[0][1] < size:
            y, x = ahead[0]
            heat[y, x] = 1
        else:
            dy, dx = dx, -dy
    return heat


def test_long_winding_cluster_is_one():
    heat = spiral(20)
    assert heat.sum() > 150
    found = dbscan(heat[None], eps=1.0, min_weight=2)
    assert found.n_clusters.tolist() == [1]
    np.testing.assert_array_equal(found.labels[0], np.where(heat > 0, 0, -1))
    assert_is_scikit_learn(np.stack([heat, heat[::-1], heat.T, heat[:, ::-1]]), 1.0, 2)


def test_border_cell_between_clusters_joins_the_first():
    # Sums within one cell: 10, 10.5, 8.5, 10.5, 10. The middle cell is no core, and touches a core on either side.
    heat = np.zeros((1, 3, 5))
    heat[0, 1] = [6, 4, 0.5, 4, 6]
    found = dbscan(heat, eps=1.0, min_weight=10)
    np.testing.assert_array_equal(found.labels[0, 1], [0, 0, 0, 1, 1])
    assert found.n_clusters.tolist() == [2]


@pytest.mark.parametrize(
    ("eps", "offset"),
    [
        (np.sqrt(2), (1, 1)),
        (np.float32(np.sqrt(2)), (1, 1)),
        (np.sqrt(13), (2, 3)),  # its square is 12.999999999999998
        (np.float32(np.sqrt(5)), (1, 2)),
        (3, (0, 3)),
    ],
)
def test_radius_is_inclusive_whatever_its_rounding(eps, offset):
    heat = np.zeros((1, 6, 6))
    heat[0, 1, 1] = heat[0, 1 + offset[0], 1 + offset[1]] = 1
    assert dbscan(heat, eps=eps, min_weight=2).n_clusters.tolist() == [1]
    assert dbscan(heat, eps=eps * 0.999, min_weight=2).n_clusters.tolist() == [0]


def test_results_do_not_depend_on_the_batch(bumps):
    heats = np.concatenate([bumps(np.arange(10) % 5, seed=9), np.zeros((1, 14, 14)), spiral(14)[None]])
    together = dbscan(heats, eps=1.5, min_weight=0.5)
    for n in range(len(heats)):
        alone = dbscan(heats[n : n + 1], eps=1.5, min_weight=0.5)
        np.testing.assert_array_equal(together.labels[n], alone.labels[0])
        assert together.n_clusters[n] == alone.n_clusters[0]


def test_empty_heatmaps_and_batches():
    found = dbscan(np.zeros((2, 4, 5)), eps=1.0, min_weight=1.0)
    assert found.n_clusters.tolist() == [0, 0]
    assert (found.labels == -1).all()
    assert dbscan(np.zeros((0, 4, 5)), eps=1.0, min_weight=1.0).labels.shape == (0, 4, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": np.full((1, 3, 3), np.nan)}, "nan"),
        ({"weights": -np.ones((1, 3, 3))}, "-1.0"),
        ({"weights": np.ones((3, 3))}, "shape"),
        ({"eps": 0.0}, "eps"),
        ({"eps": np.inf}, "eps"),
        ({"min_weight": 0.0}, "min_weight"),
    ],
)
def test_refuses(change, message):
    arguments = {"weights": np.ones((1, 3, 3)), "eps": 1.0, "min_weight": 1.0, **change}
    with pytest.raises(ValueError, match=re.escape(message)):
        dbscan(arguments.pop("weights"), **arguments)
