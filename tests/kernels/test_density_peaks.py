import re
import sys
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pc_engine.kernels import density_peaks
from pc_engine.kernels.saddles import saddles

# The package's attribute of this name is the function.
MODULE = sys.modules["pc_engine.kernels.density_peaks"]


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
@settings(max_examples=150)
def test_equals_brute_force_with_many_ties(heats, cutoff, min_density, min_distance):
    assert_is_brute_force(heats, cutoff=cutoff, min_density=min_density, min_distance=min_distance)


@given(
    arrays(np.float32, (2, 7, 9), elements=st.floats(0, 1e6, width=32)),
    st.lists(st.integers(-1, 6), min_size=2, max_size=2),
)
@settings(max_examples=60)
def test_equals_brute_force_with_given_counts(heats, n_centres):
    assert_is_brute_force(heats, cutoff=1.0, n_centres=np.array(n_centres))


def test_equals_brute_force_on_smooth_heatmaps(bumps):
    heats = bumps([1, 2, 3, 4, 4, 5], seed=5)
    assert_is_brute_force(heats, cutoff=1.5)
    assert_is_brute_force(heats, cutoff=1.5, n_centres=np.array([1, 2, 3, -1, 50, 0]))


PLATEAUS = {
    "plateau": np.ones((6, 6)),
    "row": np.ones((1, 9)),
    "column": np.ones((9, 1)),
    "cell": np.ones((1, 1)),
    "blocks": np.kron([[1.0, 0.0, 1.0]] * 3, np.ones((2, 2))),
    "chessboard": np.indices((7, 7)).sum(axis=0) % 2 * 1.0,
}


@pytest.mark.parametrize("heat", PLATEAUS.values(), ids=PLATEAUS)
@pytest.mark.parametrize("cutoff", [0.2, 1.0, 3.0])
def test_equals_brute_force_on_plateaus(heat, cutoff):
    assert_is_brute_force(heat[None], cutoff=cutoff, min_density=0.0)


# By prominence

LEAST_DENSITY, GRAIN = 0.1, 2.0**-40


def flooded(density, alive):
    """Saddles of one image's local maxima: cells rise out of a falling flood, islands grow together, one by one."""
    height, width = density.shape
    rho = density.ravel()
    order = sorted(np.flatnonzero(alive), key=lambda cell: (-rho[cell], cell))
    island, saddle = {}, {}

    def peak_of(cell):
        while island[cell] != cell:
            cell = island[cell]
        return cell

    for cell in order:
        y, x = divmod(cell, width)
        beside = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        known = {v * width + u for v, u in beside if 0 <= v < height and 0 <= u < width} & island.keys()
        island[cell] = cell
        peaks = sorted({peak_of(other) for other in known}, key=order.index)
        if not peaks:
            saddle[cell] = 0.0
        for peak in [*peaks[1:], cell] if peaks else []:
            island[peak] = peaks[0]
            if peak != cell:
                saddle[peak] = rho[cell]
    return saddle


def prominent(density, alive, min_density, prominence):
    """The centres of one image, in their order, by the definition: each local maximum with its mass."""
    rho, saddle = density.ravel(), flooded(density, alive)
    if not saddle:
        return []
    order = sorted(saddle, key=lambda cell: (-rho[cell], cell))
    top = rho[order[0]]
    mass = {}
    for cell in order[1:]:
        share = np.clip((rho[cell] / top - LEAST_DENSITY) / (min_density - LEAST_DENSITY), 0, 1)
        mass[cell] = round(share * min(1, (rho[cell] - saddle[cell]) / top / prominence) / GRAIN) * GRAIN
    count = 1 + int(sum(mass.values()) + 0.5)
    return [order[0], *sorted(order[1:], key=lambda cell: (-mass[cell], -rho[cell], cell))][:count]


def assert_is_flooded(heats, *, cutoff, min_density=0.5, prominence=0.2):
    found = density_peaks(heats, cutoff=cutoff, min_density=min_density, min_distance=99, prominence=prominence)
    asked = density_peaks(heats, cutoff=cutoff, n_centres=np.full(len(heats), heats[0].size))
    np.testing.assert_array_equal(found.density, asked.density)
    np.testing.assert_array_equal(found.delta, asked.delta)
    for n, heat in enumerate(heats):
        centres = prominent(found.density[n], heat > 0, min_density, prominence)
        assert found.n_clusters[n] == len(centres)
        width = heat.shape[1]
        cells = found.centres[n, : len(centres), 1] * width + found.centres[n, : len(centres), 0]
        assert set(cells) == set(centres)
        assert np.isnan(found.centres[n, len(centres) :]).all()
        rank = (found.density[n] * found.delta[n]).ravel()[cells.astype(int)]
        assert (np.diff(rank) <= 0).all()
        np.testing.assert_array_equal(found.labels[n].ravel()[cells.astype(int)], np.arange(len(centres)))
        assert ((found.labels[n] < 0) == (heat == 0)).all()
        # Clusters of all local maxima, and where no centre is one joins the cluster of a denser cell.
        for label in range(asked.n_clusters[n]):
            assert len(np.unique(found.labels[n][asked.labels[n] == label])) == 1


@given(
    arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 3)),
    st.sampled_from([0.3, 1.0, 1.7, 6.0]),
    st.sampled_from([0.11, 0.5, 1.0]),
    st.sampled_from([1e-3, 0.2, 1.0]),
)
@settings(max_examples=150)
def test_equals_a_flood_with_many_ties(heats, cutoff, min_density, prominence):
    assert_is_flooded(heats, cutoff=cutoff, min_density=min_density, prominence=prominence)


@given(arrays(np.float32, (2, 7, 9), elements=st.floats(0, 1e6, width=32)), st.sampled_from([0.3, 0.7, 1.2]))
@settings(max_examples=60)
def test_equals_a_flood_on_any_heatmap(heats, cutoff):
    assert_is_flooded(heats, cutoff=cutoff)


def test_equals_a_flood_on_smooth_heatmaps(bumps):
    heats = bumps([1, 2, 3, 4, 4, 5, 0, 6], seed=5)
    for cutoff in (0.5, 1.2, 3.0):
        assert_is_flooded(heats, cutoff=cutoff)
    numbers = density_peaks(heats, cutoff=1.2, min_density=0.5, prominence=0.2).n_clusters
    assert len(set(numbers.tolist())) > 2


def ring(size, gap):
    """A ring around a peak, and in it, unless there is a gap, a moat."""
    y, x = np.indices((size, size)) - size // 2
    away = np.maximum(abs(y), abs(x))
    heat = np.where(away == size // 2, 3.0, 0.0)
    heat[size // 2, size // 2] = 5.0
    if gap:
        heat[size // 2, size // 2 :] = [5.0, *[1.0] * (size // 2 - 1), 3.0]
    return heat


def spiral(size):
    """A way of one cell's width from a corner to the middle, falling, with walls of nothing."""
    heat = np.zeros((size, size))
    y, x, dy, dx = 0, 0, 0, 1
    for step in range(size * size):
        heat[y, x] = 2.0 - step / size**2 + (step % 7 == 0)
        ahead = [(y + k * dy, x + k * dx) for k in (1, 2)]
        if any(not (0 <= v < size and 0 <= u < size) for v, u in ahead[:1]) or (
            all(0 <= v < size and 0 <= u < size for v, u in ahead) and heat[ahead[1]]
        ):
            dy, dx = dx, -dy
        y, x = y + dy, x + dx
        if not (0 <= y < size and 0 <= x < size) or heat[y, x]:
            break
    return heat


@pytest.mark.parametrize(
    "heat",
    [
        np.zeros((4, 5)),
        np.pad([[2.0]], 3),
        *PLATEAUS.values(),
        np.indices((7, 7)).sum(axis=0) % 3 * 1.0,
        np.where(np.indices((7, 7)).sum(axis=0) % 4 == 0, 2.0, 1.0),
        np.arange(56).reshape(7, 8) % 5 * 1.0,
        ring(9, False),
        ring(9, True),
        ring(9, False) + 1e-9,
        spiral(11),
        np.array([[1.0, 0.0, 1e-12, 0.0, 0.5]]),
        np.array([[3.0, 2.0, 3.0, 1.0, 3.0, 2.0, 3.0]]),
        np.array([[3.0, 2.0, 3.0, 1.0, 3.0, 2.0, 3.0]]) * 2.0**-1060,
        np.array([[3.0, 2.0, 3.0, 1.0, 3.0, 2.0, 3.0]]) * 2.0**1000,
    ],
    ids=[
        *("nothing", "one of many", *PLATEAUS, "stripes", "ridges"),
        *("sawtooth", "island", "bridge", "moat", "spiral", "faint", "ties", "tiny", "huge"),
    ],
)
@pytest.mark.parametrize("cutoff", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("prominence", [1e-9, 0.2, 1.0])
def test_equals_a_flood_on_hard_heatmaps(heat, cutoff, prominence):
    assert_is_flooded(heat[None], cutoff=cutoff, prominence=prominence)


def test_peaks_count_by_how_far_they_rise_above_what_joins_them():
    def count(*heat, prominence=0.2):
        return int(density_peaks(np.array([[heat]]), cutoff=0.1, min_density=0.5, prominence=prominence).n_clusters[0])

    assert count(0.0, 0.0) == 0
    assert count(4.0, 0.0) == 1
    # Parted by nothing, both rise from 0; by two hundredths less, the second one by a tenth of what counts in full.
    assert count(4.0, 0.0, 4.0) == count(4.0, 0.0, 2.0) == 2
    assert count(4.0, 3.92, 4.0) == 1
    assert count(4.0, 3.61, 4.0) == 1
    assert count(4.0, 3.59, 4.0) == 2
    # Of two halves one is a whole, the denser one; up to a tenth of the densest there is nothing of any.
    assert count(4.0, 0.0, 1.21, 0.0, 1.2) == 2
    assert count(4.0, 0.0, 1.19) == 1
    assert count(*[4.0, *[0.0, 0.4] * 20]) == 1
    # What is joined to the densest by way of another is joined as low as the lowest pass.
    assert count(5.0, 1.0, 3.0, 2.9, 4.0) == 2


def test_the_greatest_masses_are_the_centres():
    heat = np.array([[[4.0, 0.0, 1.2, 0.0, 1.3, 0.0, 1.25]]])
    found = density_peaks(heat, cutoff=0.1, min_density=0.5, prominence=0.2)
    # 0.5 + 0.5625 + 0.53125 are 1.59375.
    assert found.n_clusters.tolist() == [3]
    assert sorted(found.centres[0, :, 0]) == [0, 4, 6]
    asked = density_peaks(heat, cutoff=0.1, min_density=0.5, prominence=0.2, n_centres=np.array([2]))
    by_gamma = density_peaks(heat, cutoff=0.1, n_centres=np.array([2]))
    np.testing.assert_array_equal(asked.labels, by_gamma.labels)


@given(
    arrays(np.float64, (2, 6, 8), elements=st.floats(0, 100, width=32)),
    st.integers(-60, 60),
    st.sampled_from([0.4, 1.2]),
)
@settings(max_examples=80)
def test_a_power_of_two_times_the_heat_changes_nothing_by_prominence(heats, power, cutoff):
    parameters = {"cutoff": cutoff, "min_density": 0.5, "prominence": 0.2}
    found, other = density_peaks(heats, **parameters), density_peaks(heats * 2.0**power, **parameters)
    for name in ("labels", "n_clusters", "delta", "centres"):
        np.testing.assert_array_equal(getattr(found, name), getattr(other, name))
    np.testing.assert_array_equal(found.density * 2.0**power, other.density)


@given(
    arrays(np.float64, (6, 8), elements=st.floats(1, 9)),
    arrays(np.float64, (6, 8), elements=st.floats(-1, 1)),
    st.sampled_from([1e-6, 0.01, 0.5]),
    st.sampled_from([0.4, 1.2]),
)
@settings(max_examples=80)
def test_prominences_change_by_no_more_than_twice_what_the_density_does(heat, noise, eps, cutoff):
    """With the local maxima that come and go, whose prominence is 0 before or after."""
    heats = np.stack([heat, heat + eps * noise])
    found = density_peaks(heats, cutoff=cutoff, min_density=0.5, prominence=0.2)
    parent = MODULE._denser_neighbour(np, found.density)
    maxima = MODULE._local_maxima(np, found.density, parent)
    rises = np.zeros((2, heat.size))
    rises.ravel()[maxima.cell] = maxima.density - saddles(found.density, parent, maxima.cell)
    # The kernel's sum over all that a cell of the grid can see, and the rounding of densities.
    y, x = np.mgrid[-5:6, -7:8]
    most = eps * np.exp(-(y**2 + x**2) / cutoff**2).sum() + found.density.max() * 2.0**-39
    rises = -np.sort(-rises, axis=1)
    assert (abs(rises[0] - rises[1]) <= 2 * most).all()


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


@pytest.mark.parametrize("prominence", [None, 0.2])
def test_large_noisy_grids_are_measured_in_parts(monkeypatch, prominence):
    heats = np.random.default_rng(0).random((2, 20, 20))
    whole = density_peaks(heats, cutoff=0.4, min_density=0.5, prominence=prominence)
    monkeypatch.setattr(MODULE, "_PAIRS_AT_ONCE", 1000)
    parts = density_peaks(heats, cutoff=0.4, min_density=0.5, prominence=prominence)
    for field in fields(whole):
        np.testing.assert_array_equal(getattr(parts, field.name), getattr(whole, field.name))


@pytest.mark.parametrize("chosen", [{}, {"min_density": 0.5, "prominence": 0.2}], ids=["thresholds", "prominence"])
def test_results_do_not_depend_on_the_batch(bumps, chosen):
    heats = np.concatenate([bumps(np.arange(10) % 5, seed=2), np.zeros((1, 14, 14)), np.ones((1, 14, 14))])
    together = density_peaks(heats, cutoff=1.5, **chosen)
    for n in range(len(heats)):
        alone = density_peaks(heats[n : n + 1], cutoff=1.5, **chosen)
        for field in fields(alone):
            batched, single = getattr(together, field.name)[n], getattr(alone, field.name)[0]
            if field.name == "centres":
                batched = batched[: len(single)]
            np.testing.assert_array_equal(batched, single)


@pytest.mark.parametrize("chosen", [{}, {"min_density": 0.5, "prominence": 0.2}], ids=["thresholds", "prominence"])
def test_empty_heatmaps_and_batches(chosen):
    found = density_peaks(np.zeros((2, 4, 5)), cutoff=1.0, **chosen)
    assert found.n_clusters.tolist() == [0, 0]
    assert (found.labels == -1).all()
    assert found.centres.shape == (2, 0, 2)
    assert density_peaks(np.zeros((0, 4, 5)), cutoff=1.0, **chosen).labels.shape == (0, 4, 5)
    assert (density_peaks(np.ones((1, 4, 5)), cutoff=1.0, n_centres=np.array([0]), **chosen).labels == -1).all()


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
        ({"min_density": 0.5, "prominence": 0.0}, "prominence must be above 0"),
        ({"min_density": 0.5, "prominence": 1.5}, "1.5"),
        ({"min_density": 0.5, "prominence": np.nan}, "nan"),
        ({"prominence": 0.2}, "min_density must be above 0.1"),
    ],
)
def test_refuses(change, message):
    arguments = {"weights": np.ones((1, 3, 3)), "cutoff": 1.0, **change}
    with pytest.raises(ValueError, match=re.escape(message)):
        density_peaks(arguments.pop("weights"), **arguments)
