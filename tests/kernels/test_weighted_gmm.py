import re
import sys
import warnings
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from pc_engine.kernels import weighted_gmm


def cells_of(heat):
    """Coordinates (n, 2) as (x, y) and weights of the positive cells, row-major."""
    y, x = np.nonzero(heat)
    return np.stack([x, y], axis=1).astype(float), heat[y, x]


def farthest_first(points, weights, count):
    chosen = [int(np.argmax(weights))]
    while len(chosen) < count:
        nearest = np.min([((points - points[c]) ** 2).sum(axis=1) for c in chosen], axis=0)
        chosen.append(int(np.argmax(weights * nearest)))
    return points[chosen]


def initial_variance(points, weights, count):
    share = weights / weights.sum()
    centre = share @ points
    return share @ (points - centre) ** 2 / count


def log_space_em(heat, count, max_iter=100, tol=1e-3, floor=0.35**2, means=None):
    """Plain EM over the list of positive cells: every responsibility in log space, one image, no separability."""
    points, weights = cells_of(heat)
    weights = weights / weights.max()
    count = min(count, len(points))
    means = farthest_first(points, weights, count) if means is None else means[:count].copy()
    weights = weights / weights.sum()
    variances = np.tile(np.maximum(initial_variance(points, weights, count), floor), (count, 1))
    mixing = np.full(count, 1 / count)
    previous = -np.inf
    for iteration in range(1, max_iter + 1):
        with np.errstate(divide="ignore"):
            log_mixing = np.log(mixing)
        parts = (
            log_mixing
            - np.log(2 * np.pi)
            - 0.5 * np.log(variances).sum(axis=1)
            - 0.5 * ((points[:, None] - means) ** 2 / variances).sum(axis=2)
        )
        total = np.logaddexp.reduce(parts, axis=1)
        share = np.exp(parts - total[:, None]) * weights[:, None]
        held = share.sum(axis=0)
        for k in np.flatnonzero(held > 0):
            means[k] = share[:, k] @ points / held[k]
            variances[k] = np.maximum(share[:, k] @ (points - means[k]) ** 2 / held[k], floor)
        mixing = held / held.sum()
        likelihood = weights @ total
        if abs(likelihood - previous) < tol:
            return means, variances, mixing, iteration, True, likelihood
        previous = likelihood
    return means, variances, mixing, max_iter, False, likelihood


def assert_is_log_space_em(heats, counts, atol=1e-6, **settings):
    mixtures = weighted_gmm(heats, np.asarray(counts), **settings)
    for n, (heat, count) in enumerate(zip(heats, counts, strict=True)):
        fitted = min(count, np.count_nonzero(heat))
        assert mixtures.n_components_[n] == fitted
        assert np.isnan(mixtures.means[n, fitted:]).all()
        assert np.isnan(mixtures.variances[n, fitted:]).all()
        assert (mixtures.mixing[n, fitted:] == 0).all()
        if fitted:
            means, variances, mixing, n_iter, converged, likelihood = log_space_em(heat, count, **settings)
            np.testing.assert_allclose(mixtures.means[n, :fitted], means, atol=atol)
            np.testing.assert_allclose(mixtures.variances[n, :fitted], variances, atol=atol)
            np.testing.assert_allclose(mixtures.mixing[n, :fitted], mixing, atol=atol)
            np.testing.assert_allclose(mixtures.log_likelihood[n], likelihood, atol=atol)
            assert (mixtures.n_iter[n], mixtures.converged[n]) == (n_iter, converged)


def two_corners(size=14):
    heat = np.zeros((size, size))
    heat[0, 0], heat[-1, -1] = 1.0, 0.75
    return heat


def one_cell(height=14, width=14):
    heat = np.zeros((height, width))
    heat[3 % height, 5 % width] = 2.0
    return heat


@pytest.mark.parametrize("seed", range(4))
def test_equals_scikit_learn_on_repeated_points(bumps, seed):
    rng = np.random.default_rng(seed)
    counts = np.array([1, 2, 3, 4, 2, 4])
    heats = np.round(bumps(counts, seed=seed) * 40).astype(float)
    starts = np.full((len(counts), 4, 2), np.nan)
    for n, count in enumerate(counts):
        points, _ = cells_of(heats[n])
        starts[n, :count] = points[rng.choice(len(points), count, replace=False)]
    mixtures = weighted_gmm(heats, counts, means_init=starts, variance_floor=1e-9, tol=1e-5, max_iter=200)

    for n, count in enumerate(counts):
        points, weights = cells_of(heats[n])
        repeated = np.repeat(points, weights.astype(int), axis=0)
        expected = GaussianMixture(
            count,
            covariance_type="diag",
            tol=1e-5,
            reg_covar=1e-12,
            max_iter=200,
            weights_init=np.full(count, 1 / count),
            means_init=starts[n, :count],
            precisions_init=np.tile(1 / initial_variance(points, weights, count), (count, 1)),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            expected.fit(repeated)
        np.testing.assert_allclose(mixtures.means[n, :count], expected.means_, atol=1e-6)
        np.testing.assert_allclose(mixtures.variances[n, :count], expected.covariances_, atol=1e-6)
        np.testing.assert_allclose(mixtures.mixing[n, :count], expected.weights_, atol=1e-7)
        np.testing.assert_allclose(mixtures.log_likelihood[n], expected.lower_bound_, atol=1e-9)
        assert mixtures.n_iter[n] == expected.n_iter_
        assert mixtures.converged[n] == expected.converged_


def test_equals_log_space_em_on_smooth_heatmaps(bumps):
    counts = [0, 1, 2, 3, 4, 4, 3, 2, 1, 5] * 2
    assert_is_log_space_em(bumps(counts, seed=7), counts, tol=1e-5)


@pytest.mark.parametrize(
    "heat",
    [
        one_cell(),
        two_corners(),
        two_corners(60),
        np.ones((14, 14)),
        one_cell(1, 14),
        np.arange(14.0)[None] % 5,
        (np.arange(14.0)[:, None] ** 2) % 7,
        np.ones((1, 1)),
        np.eye(14)[::-1] + 1e-12,
        np.diag([1.0, *[0.0] * 12, 1e-9]),
    ],
    ids=["cell", "corners", "far-corners", "flat", "cell-in-row", "row", "column", "1x1", "diagonal", "faint-corner"],
)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_equals_log_space_em_on_hard_heatmaps(heat, count):
    assert_is_log_space_em(heat[None], [count], max_iter=30)


@given(
    arrays(np.float64, st.tuples(st.just(2), st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 9)),
    st.lists(st.integers(0, 4), min_size=2, max_size=2),
)
@settings(max_examples=60)
def test_equals_log_space_em_on_any_heatmap(heats, counts):
    # Few iterations: near a symmetric start the last bits decide which way EM breaks the symmetry.
    assert_is_log_space_em(heats, counts, max_iter=8)


def test_log_space_is_reached_when_components_are_far_from_cells():
    # Small variances and 59 cells of distance: densities of exp(-2000) in the middle. Two components lie on the same
    # cells, whose densities are sums.
    heat = two_corners(60)
    heat[30, 20], heat[0, 1] = 1e-6, 0.5
    starts = np.array([[[0.0, 0.0], [59.0, 59.0], [1.0, 0.0]]])
    mixtures = weighted_gmm(heat[None], np.array([3]), means_init=starts)
    expected = log_space_em(heat, 3, means=starts[0])
    np.testing.assert_allclose(mixtures.means[0], expected[0], atol=1e-9)
    np.testing.assert_allclose(mixtures.log_likelihood[0], expected[5], atol=1e-9)


@pytest.mark.parametrize("far", [(12, 2), (12, 3), (13, 1), (13, 2), (13, 3), (13, 4)])
def test_densities_at_the_edge_of_underflow_keep_their_precision(far):
    # A variance at the floor and 12 to 14 cells: densities from 1e-268 through subnormal numbers to 0. The second
    # image makes room for components that the first has not.
    heat = np.zeros((2, 14, 14))
    heat[0, 0, 0], heat[0][far] = 1.0, 1e-4
    heat[1] = 1.0
    assert_is_log_space_em(heat, [1, 3], atol=1e-10)


def test_component_without_responsibility_keeps_its_place_with_weight_zero(bumps):
    starts = np.array([[[6.0, 6.0], [1e5, 1e5]]])
    mixtures = weighted_gmm(bumps([1]), np.array([2]), means_init=starts, variance_floor=0.2)
    np.testing.assert_array_equal(mixtures.mixing[0], [1, 0])
    np.testing.assert_array_equal(mixtures.means[0, 1], [1e5, 1e5])
    points, weights = cells_of(bumps([1])[0])
    np.testing.assert_allclose(mixtures.variances[0, 1], initial_variance(points, weights, 2))
    alone = weighted_gmm(bumps([1]), np.array([1]))
    np.testing.assert_allclose(mixtures.means[0, 0], alone.means[0, 0])


def test_images_that_are_done_stop_costing(bumps, monkeypatch):
    # The package's attribute of this name is the function.
    module = sys.modules["pc_engine.kernels.weighted_gmm"]
    computed = []
    expectation = module._expectation
    monkeypatch.setattr(module, "_expectation", lambda *call: computed.append(len(call[1])) or expectation(*call))
    mixtures = weighted_gmm(bumps(np.arange(40) % 5, seed=1), np.arange(40) % 5, tol=1e-5)
    assert len(computed) == mixtures.n_iter.max()
    assert computed[0] == 32
    assert sum(computed) <= mixtures.n_iter.sum() / (1 - module._DROP_SHARE)
    assert sum(computed) < 0.5 * 32 * mixtures.n_iter.max()


def test_hand_made_components():
    # Two pairs of cells far apart: each component is a pair's mean and variance.
    heat = np.zeros((1, 12, 30))
    heat[0, 2, [3, 5]] = 1.0
    heat[0, [8, 10], 27] = 3.0
    mixtures = weighted_gmm(heat, np.array([2]), variance_floor=0.01)
    np.testing.assert_allclose(mixtures.means[0], [[27, 9], [4, 2]], atol=1e-6)
    np.testing.assert_allclose(mixtures.variances[0], [[0.01, 1], [1, 0.01]], atol=1e-6)
    np.testing.assert_allclose(mixtures.mixing[0], [0.75, 0.25], atol=1e-9)


def test_results_do_not_depend_on_the_batch(bumps):
    counts = np.arange(16) % 5
    heats = np.concatenate([bumps(counts[:14], seed=3), two_corners()[None], one_cell()[None]])
    together = weighted_gmm(heats, counts)
    for n, count in enumerate(counts):
        alone = weighted_gmm(heats[n : n + 1], counts[n : n + 1])
        for field in fields(alone):
            batched, single = getattr(together, field.name)[n], getattr(alone, field.name)[0]
            if np.ndim(batched):
                batched = batched[:count]
            np.testing.assert_allclose(batched, single, rtol=1e-9, atol=1e-9)


def test_only_ratios_of_weights_matter(bumps):
    counts = np.array([1, 3, 4])
    heats = bumps(counts).astype(np.float32)
    plain = weighted_gmm(heats, counts)
    for scale in (1e-30, 1e30, 1e307):
        scaled = weighted_gmm(heats.astype(np.float64) * scale, counts)
        np.testing.assert_allclose(scaled.means, plain.means, rtol=1e-9)
        np.testing.assert_allclose(scaled.log_likelihood, plain.log_likelihood, rtol=1e-9)


def test_likelihood_never_falls(bumps):
    heats, counts = bumps([4], seed=11), np.array([4])
    values = [float(weighted_gmm(heats, counts, max_iter=i, tol=0).log_likelihood[0]) for i in range(1, 30)]
    assert np.diff(values).min() > -1e-9


def test_empty_heatmaps_and_batches():
    empty = weighted_gmm(np.zeros((2, 5, 6)), np.array([3, 0]))
    assert empty.means.shape == (2, 3, 2)
    assert empty.n_components_.tolist() == [0, 0]
    assert empty.converged.all()
    assert np.isnan(empty.log_likelihood).all()
    assert weighted_gmm(np.zeros((0, 5, 6)), np.zeros(0, dtype=int)).means.shape == (0, 0, 2)
    assert weighted_gmm(np.ones((2, 5, 6)), np.array([0, 0])).mixing.shape == (2, 0)


def test_slots_beyond_the_components_are_empty(bumps):
    roomy, tight = (weighted_gmm(bumps([2, 1]), np.array([2, 1]), max_components=slots) for slots in (5, None))
    assert roomy.means.shape == (2, 5, 2)
    assert np.isnan(roomy.means[:, 2:]).all()
    assert (roomy.mixing[:, 2:] == 0).all()
    np.testing.assert_allclose(roomy.means[:, :2], tight.means, rtol=1e-9)


def test_equally_good_starts_are_taken_in_order_of_their_index():
    # Products of weight and squared distance to (0, 0): 5 * 9 at (0, 3), and 5 * 9 at (3, 0), and 9 elsewhere.
    heat = np.zeros((1, 4, 4))
    heat[0, 0, 0], heat[0, 0, 3], heat[0, 3, 0], heat[0, 2, 1] = 7, 5, 5, 1
    for mirrored in (heat, heat.transpose(0, 2, 1)):
        mixtures = weighted_gmm(mirrored, np.array([2]), max_iter=1, variance_floor=1e-6)
        assert mixtures.means[0, 1, 0] > mixtures.means[0, 1, 1]


def test_max_iter_ends_the_fit(bumps):
    mixtures = weighted_gmm(bumps([3, 1]), np.array([3, 1]), max_iter=1)
    assert mixtures.n_iter.tolist() == [1, 1]
    assert not mixtures.converged.any()
    assert np.isfinite(mixtures.means[0]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": np.full((1, 3, 3), np.nan)}, "image 0 has nan at cell"),
        ({"weights": np.where(np.arange(18).reshape(2, 3, 3) == 14, -1.0, 1.0)}, "image 1 has -1.0 at cell (1, 2)"),
        ({"weights": np.full((1, 3, 3), np.inf)}, "inf"),
        ({"weights": np.ones((3, 3))}, "shape"),
        ({"n_components": np.array([1, 2])}, "one integer per image"),
        ({"n_components": np.array([1.0])}, "dtype float64"),
        ({"n_components": np.array([-1])}, "at least 0"),
        ({"max_iter": 0}, "max_iter"),
        ({"tol": -1.0}, "tol"),
        ({"variance_floor": 0.0}, "variance_floor"),
        ({"n_components": np.array([3]), "max_components": 2}, "reaches 3"),
        ({"max_components": -1}, "max_components must be at least 0"),
        ({"means_init": np.zeros((1, 3, 2))}, "means_init must have shape"),
        ({"means_init": np.full((1, 1, 2), np.nan)}, "means_init must be finite"),
    ],
)
def test_refuses(change, message):
    arguments = {"weights": np.ones((1, 3, 3)), "n_components": np.array([1]), **change}
    if len(arguments["weights"]) == 2:
        arguments["n_components"] = np.array([1, 1])
    with pytest.raises(ValueError, match=re.escape(message)):
        weighted_gmm(arguments.pop("weights"), arguments.pop("n_components"), **arguments)
