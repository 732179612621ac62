import re
import sys
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pc_engine.kernels import density_peaks


def direct_density(heat, cutoff):
    """Sum over all pairs of cells."""
    height, width = heat.shape
    y, x = np.divmod(np.arange(height * width), width)
    squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    return (np.exp(-squared / cutoff**2) @ heat.ravel()).reshape(heat.shape) * (heat > 0)


def brute_force(density, alive, min_density, min_distance, n_centres):
    """Rodriguez & Laio over all cells of one image: no neighbourhoods, no local maxima, one cell after the other."""
    width = density.shape[1]
    cells = [int(cell) for cell in np.flatnonzero(alive)]
    rho = density.ravel()
    order = sorted(cells, key=lambda cell: (-rho[cell], cell))
    squared = {(a, b): (a // width - b // width) ** 2 + (a % width - b % width) ** 2 for a in cells for b in cells}
    parent, delta_squared = {}, {}
    for position, cell in enumerate(order):
        if position:
            parent[cell] = min(order[:position], key=lambda other: (squared[cell, other], other))
            delta_squared[cell] = squared[cell, parent[cell]]
        else:
            delta_squared[cell] = max(squared[cell, other] for other in cells)
    delta = {cell: np.sqrt(np.float64(delta_squared[cell])) for cell in cells}
    gamma = {cell: rho[cell] * delta[cell] for cell in cells}
    # A cell is a local maximum if none of its 8 neighbours, at most sqrt(2) away, is denser.
    maxima = [cell for position, cell in enumerate(order) if position == 0 or delta_squared[cell] > 2]
    ranked = sorted(maxima, key=lambda cell: (-gamma[cell], -rho[cell], cell))
    if n_centres is not None and n_centres >= 0:
        centres = ranked[:n_centres]
    else:
        centres = [
            cell
            for cell in ranked
            if cell == order[0] or (rho[cell] >= min_density * rho[order[0]] and delta[cell] >= min_distance)
        ]
    labels = np.full(density.size, -1)
    for cell in order:
        labels[cell] = centres.index(cell) if cell in centres else labels[parent[cell]] if cell in parent else -1
    return labels.reshape(density.shape), centres, {cell: delta[cell] for cell in maxima}


def assert_is_brute_force(heats, *, cutoff, min_density=0.1, min_distance=2.0, n_centres=None):
    found = density_peaks(heats, cutoff=cutoff, min_density=min_density, min_distance=min_distance, n_centres=n_centres)
    assert found.labels.dtype == np.int32
    for n, heat in enumerate(heats):
        direct = direct_density(heat, cutoff)
        np.testing.assert_allclose(found.density[n], direct, rtol=0, atol=1e-11 * max(direct.max(), 1e-300))
        wanted = None if n_centres is None else n_centres[n]
        labels, centres, delta = brute_force(found.density[n], heat > 0, min_density, min_distance, wanted)
        np.testing.assert_array_equal(found.labels[n], labels)
        assert found.n_clusters[n] == len(centres)
        expected = np.array([[cell % heat.shape[1], cell // heat.shape[1]] for cell in centres]).reshape(-1, 2)
        np.testing.assert_array_equal(found.centres[n, : len(centres)], expected)
        assert np.isnan(found.centres[n, len(centres) :]).all()
        at_maxima = np.full(heat.size, np.nan)
        at_maxima[list(delta)] = list(delta.values())
        np.testing.assert_array_equal(found.delta[n].ravel(), at_maxima)


@given(
    arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 3)),
    st.sampled_from([0.3, 1.0, 1.7, 6.0]),
    st.sampled_from([0.0, 0.2, 1.0]),
    st.sampled_from([0.0, 2.0, 2.5, 4.0]),
)
@settings(deadline=None, max_examples=150)
def test_equals_brute_force_with_many_ties(heats, cutoff, min_density, min_distance):
    assert_is_brute_force(heats, cutoff=cutoff, min_density=min_density, min_distance=min_distance)


@given(
    arrays(np.float32, (2, 7, 9), elements=st.floats(0, 1e6, width=32)),
    st.lists(st.integers(-1, 6), min_size=2, max_size=2),
)
@settings(deadline=None, max_examples=60)
def test_equals_brute_force_with_given_counts(heats, n_centres):
    assert_is_brute_force(heats, cutoff=1.0, n_centres=np.array(n_centres))


def test_equals_brute_force_on_smooth_heatmaps(bumps):
    heats = bumps([1, 2, 3, 4, 4, 5], seed=5)
    assert_is_brute_force(heats, cutoff=1.5)
    assert_is_brute_force(heats, cutoff=1.5, n_centres=np.array([1, 2, 3, -1, 50, 0]))


@pytest.mark.parametrize(
    "heat",
    [
        np.ones((6, 6)),
        np.ones((1, 9)),
        np.ones((9, 1)),
        np.ones((1, 1)),
        np.kron([[1.0, 0.0, 1.0]] * 3, np.ones((2, 2))),
        np.indices((7, 7)).sum(axis=0) % 2 * 1.0,
    ],
    ids=["plateau", "row", "column", "cell", "blocks", "chessboard"],
)
@pytest.mark.parametrize("cutoff", [0.2, 1.0, 3.0])
def test_equals_brute_force_on_plateaus(heat, cutoff):
    assert_is_brute_force(heat[None], cutoff=cutoff, min_density=0.0)


def test_mirrored_blobs_are_ordered_by_index():
    heat = np.zeros((1, 5, 11))
    heat[0, 1:4, 1:4] = heat[0, 1:4, 7:10] = [[1, 2, 1], [2, 5, 2], [1, 2, 1]]
    found = density_peaks(heat, cutoff=1.3)
    assert found.n_clusters.tolist() == [2]
    np.testing.assert_array_equal(found.centres[0], [[2, 2], [8, 2]])
    assert found.density[0, 2, 2] == found.density[0, 2, 8]
    np.testing.assert_array_equal(found.labels[0, 2], [-1, 0, 0, 0, -1, -1, -1, 1, 1, 1, -1])
    # The denser twin's delta is the distance to the farthest cell, the other's that to its twin.
    np.testing.assert_allclose(found.delta[0, 2, [2, 8]], [np.sqrt(7**2 + 1), 6])


def test_thresholds_merge_weak_and_close_peaks():
    heat = np.zeros((1, 3, 12))
    heat[0, 1, [1, 6, 10]] = [10.0, 3.0, 0.5]
    assert density_peaks(heat, cutoff=1.0, min_density=0.0).n_clusters.tolist() == [3]
    assert density_peaks(heat, cutoff=1.0, min_density=0.1).n_clusters.tolist() == [2]
    assert density_peaks(heat, cutoff=1.0, min_density=0.0, min_distance=4.5).n_clusters.tolist() == [2]
    merged = density_peaks(heat, cutoff=1.0, min_density=0.5)
    np.testing.assert_array_equal(merged.labels[0, 1, [1, 6, 10]], [0, 0, 0])


def test_large_noisy_grids_are_measured_in_parts(monkeypatch):
    heats = np.random.default_rng(0).random((2, 20, 20))
    whole = density_peaks(heats, cutoff=0.4)
    # The package's attribute of this name is the function.
    monkeypatch.setattr(sys.modules["pc_engine.kernels.density_peaks"], "_PAIRS_AT_ONCE", 1000)
    parts = density_peaks(heats, cutoff=0.4)
    for field in fields(whole):
        np.testing.assert_array_equal(getattr(parts, field.name), getattr(whole, field.name))


def test_results_do_not_depend_on_the_batch(bumps):
    heats = np.concatenate([bumps(np.arange(10) % 5, seed=2), np.zeros((1, 14, 14)), np.ones((1, 14, 14))])
    together = density_peaks(heats, cutoff=1.5)
    for n in range(len(heats)):
        alone = density_peaks(heats[n : n + 1], cutoff=1.5)
        for field in fields(alone):
            batched, single = getattr(together, field.name)[n], getattr(alone, field.name)[0]
            if field.name == "centres":
                batched = batched[: len(single)]
            np.testing.assert_array_equal(batched, single)


def test_empty_heatmaps_and_batches():
    found = density_peaks(np.zeros((2, 4, 5)), cutoff=1.0)
    assert found.n_clusters.tolist() == [0, 0]
    assert (found.labels == -1).all()
    assert found.centres.shape == (2, 0, 2)
    assert density_peaks(np.zeros((0, 4, 5)), cutoff=1.0).labels.shape == (0, 4, 5)
    assert (density_peaks(np.ones((1, 4, 5)), cutoff=1.0, n_centres=np.array([0])).labels == -1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": np.full((1, 3, 3), np.nan)}, "nan"),
        ({"weights": -np.ones((1, 3, 3))}, "-1.0"),
        ({"weights": np.ones((1, 0, 3))}, "shape"),
        ({"cutoff": 0.0}, "cutoff"),
        ({"cutoff": np.nan}, "cutoff"),
        ({"min_density": 1.5}, "min_density"),
        ({"min_distance": -1.0}, "min_distance"),
        ({"n_centres": np.array([1, 2])}, "n_centres"),
    ],
)
def test_refuses(change, message):
    arguments = {"weights": np.ones((1, 3, 3)), "cutoff": 1.0, **change}
    with pytest.raises(ValueError, match=re.escape(message)):
        density_peaks(arguments.pop("weights"), **arguments)
