import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pc_engine.kernels import cluster_boxes, density_peaks


def test_by_hand():
    labels = np.array([[[0, 0, -1, -1], [-1, 0, -1, 1], [-1, -1, -1, -1]]])
    density = np.array([[[1.0, 4.0, 0.0, 0.0], [0.0, 2.0, 9.0, 3.0], [0.0, 0.0, 0.0, 0.0]]])
    found = cluster_boxes(labels, density, np.array([2]))
    np.testing.assert_array_equal(found.boxes, [[[0, 0, 2, 2], [3, 1, 4, 2]]])
    np.testing.assert_allclose(found.score, [[0.7, 0.3]])
    trimmed = cluster_boxes(labels, density, np.array([2]), trim=0.5)
    np.testing.assert_array_equal(trimmed.boxes, [[[1, 0, 2, 2], [3, 1, 4, 2]]])
    np.testing.assert_allclose(trimmed.score, [[0.7, 0.3]])
    np.testing.assert_array_equal(cluster_boxes(labels, density, np.array([2]), trim=1.0).boxes[0, 0], [1, 0, 2, 1])


def test_sides_between_cells_by_hand():
    labels = np.zeros((1, 3, 6), int)
    labels[0, 2] = -1
    density = np.array([[[0.0, 1.0, 4.0, 8.0, 3.0, 0.0], [0.0, 0.0, 2.0, 4.0, 2.0, 0.0], [9.0, 9, 9, 9, 9, 9]]])
    found = cluster_boxes(labels, density, np.array([1]), trim=0.25, interpolate=True)
    # 2 is reached a third of the way from the middle of column 1 to that of 2, and two thirds of that from 4 to 5; the
    # map ends above; the row below is none of the cluster's and counts as 0, so that 2 is half-way from 4.
    np.testing.assert_allclose(found.boxes[0, 0], [1.5 + 1 / 3, 0, 4.5 + 1 / 3, 1.5 + 1 / 2])
    np.testing.assert_allclose(found.score, [[1.0]])
    # A bar that fills the map ends with it; with all cells kept nothing falls below.
    everywhere = cluster_boxes(np.zeros((1, 3, 3), int), np.ones((1, 3, 3)), np.array([1]), trim=0.5, interpolate=True)
    np.testing.assert_array_equal(everywhere.boxes[0, 0], [0, 0, 3, 3])
    for interpolate in (True, False):
        whole = cluster_boxes(labels, density, np.array([1]), interpolate=interpolate)
        np.testing.assert_array_equal(whole.boxes[0, 0], [0, 0, 6, 2])


@given(
    arrays(np.int32, (2, 6, 7), elements=st.integers(-1, 3)),
    arrays(np.float64, (2, 6, 7), elements=st.integers(0, 5)),
    st.sampled_from([0.1, 0.3, 0.7, 1.0]),
)
@settings(max_examples=80)
def test_sides_between_cells_are_where_the_profile_crosses(labels, density, trim):
    n_clusters = labels.max(axis=(1, 2)) + 1
    on_edges = cluster_boxes(labels, density, n_clusters, trim=trim)
    found = cluster_boxes(labels, density, n_clusters, trim=trim, interpolate=True)
    np.testing.assert_array_equal(found.score, on_edges.score)
    np.testing.assert_array_equal(np.isnan(found.boxes), np.isnan(on_edges.boxes))
    assert not (np.abs(found.boxes - on_edges.boxes) > 0.5).any()
    for n, k in np.argwhere(~np.isnan(found.boxes[..., 0])):
        own = np.where(labels[n] == k, density[n], 0)
        threshold = trim * own.max()
        for axis, (low, high) in enumerate(((0, 2), (1, 3))):
            profile = own.max(axis=axis)
            middles = np.arange(len(profile)) + 0.5
            for side, end in ((low, 0), (high, len(profile))):
                at = found.boxes[n, k, side]
                if threshold and at != end:
                    assert np.interp(at, middles, profile) == pytest.approx(threshold)


@given(
    arrays(np.int32, (2, 6, 7), elements=st.integers(-1, 3)),
    arrays(np.float64, (2, 6, 7), elements=st.integers(0, 5)),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
@settings(max_examples=80)
def test_equals_the_loop_over_cells(labels, density, trim):
    n_clusters = labels.max(axis=(1, 2)) + 1
    found = cluster_boxes(labels, density, n_clusters, trim=trim)
    for n in range(2):
        total = density[n][labels[n] >= 0].sum()
        for k in range(found.boxes.shape[1]):
            cells = np.argwhere(labels[n] == k)
            if not len(cells):
                assert np.isnan(found.boxes[n, k]).all()
                assert found.score[n, k] == 0
                continue
            heat = np.array([density[n, i, j] for i, j in cells])
            kept = cells[heat >= trim * heat.max()]
            top, left = kept.min(axis=0)
            bottom, right = kept.max(axis=0) + 1
            np.testing.assert_array_equal(found.boxes[n, k], [left, top, right, bottom])
            np.testing.assert_allclose(found.score[n, k], heat.sum() / total if total else 0)


def test_boxes_of_density_peaks_hold_their_clusters(bumps):
    heats = bumps([0, 1, 2, 3, 4])
    peaks = density_peaks(heats, cutoff=1.5)
    whole = cluster_boxes(peaks.labels, peaks.density, peaks.n_clusters)
    trimmed = cluster_boxes(peaks.labels, peaks.density, peaks.n_clusters, trim=0.7)
    np.testing.assert_allclose(np.nansum(whole.score, axis=1), 1)
    for n, count in enumerate(peaks.n_clusters):
        for k in range(count):
            x, y = peaks.centres[n, k]
            for x0, y0, x1, y1 in (whole.boxes[n, k], trimmed.boxes[n, k]):
                assert x0 <= x < x1
                assert y0 <= y < y1
            assert (trimmed.boxes[n, k, :2] >= whole.boxes[n, k, :2]).all()
            assert (trimmed.boxes[n, k, 2:] <= whole.boxes[n, k, 2:]).all()


def test_results_do_not_depend_on_the_batch(bumps):
    heats = bumps(np.arange(8) % 5)
    peaks = density_peaks(heats, cutoff=1.5)
    together = cluster_boxes(peaks.labels, peaks.density, peaks.n_clusters, trim=0.5)
    for n, count in enumerate(peaks.n_clusters):
        alone = cluster_boxes(peaks.labels[n : n + 1], peaks.density[n : n + 1], peaks.n_clusters[n : n + 1], trim=0.5)
        np.testing.assert_array_equal(together.boxes[n, :count], alone.boxes[0])
        np.testing.assert_array_equal(together.score[n, :count], alone.score[0])


def test_slots_beyond_the_clusters_are_empty():
    labels = np.array([[[0, -1], [1, 1]]])
    found = cluster_boxes(labels, np.ones((1, 2, 2)), np.array([2]), slots=4)
    np.testing.assert_array_equal(found.boxes[0, :2], [[0, 0, 1, 1], [0, 1, 2, 2]])
    assert np.isnan(found.boxes[0, 2:]).all()
    np.testing.assert_allclose(found.score[0], [1 / 3, 2 / 3, 0, 0])


def test_empty():
    found = cluster_boxes(np.full((2, 3, 3), -1), np.zeros((2, 3, 3)), np.array([0, 0]))
    assert found.boxes.shape == (2, 0, 4)
    assert cluster_boxes(np.zeros((0, 3, 3), int), np.zeros((0, 3, 3)), np.zeros(0, int)).score.shape == (0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.zeros((1, 2, 2), int)}, "same shape"),
        ({"density": np.full((1, 3, 3), np.nan)}, "nan"),
        ({"n_clusters": np.array([1, 1])}, "n_clusters"),
        ({"trim": 1.1}, "trim"),
        ({"n_clusters": np.array([2]), "slots": 1}, "reaches 2"),
        ({"slots": -1}, "at least 0"),
    ],
)
def test_refuses(change, message):
    arguments = {"labels": np.zeros((1, 3, 3), int), "density": np.ones((1, 3, 3)), "n_clusters": np.array([1])}
    with pytest.raises(ValueError, match=re.escape(message)):
        cluster_boxes(**{**arguments, **change})
