"""An image's result must be the same whatever else is in its batch: a run may be cut into batches in any way."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pc_engine.kernels import (
    cluster_boxes,
    dbscan,
    density_peaks,
    matrix_products,
    merge_clusters,
    normalise_heatmap,
    resize_maps,
    scale_to_peak,
    sort_rows,
    top_weights,
    weighted_gmm,
    weighted_heatmap,
)


def mixtures(heats, counts):
    return weighted_gmm(heats, counts)


def peaks(heats, counts):
    return density_peaks(heats, cutoff=1.5, n_centres=counts - 1)


def prominences(heats, counts):
    return density_peaks(heats, cutoff=0.7, min_density=0.5, prominence=0.2)


def boxes(heats, counts):
    found = density_peaks(heats, cutoff=0.7)
    return cluster_boxes(found.labels, found.density, found.n_clusters, trim=0.5)


def unions(heats, counts):
    found = density_peaks(heats, cutoff=0.7, min_density=0, min_distance=0)
    return merge_clusters(found.labels, found.density, found.n_clusters, counts)


def clusters(heats, counts):
    return dbscan(heats, eps=1.5, min_weight=4)


@pytest.mark.parametrize("operation", [mixtures, peaks, prominences, boxes, unions, clusters])
@given(data=st.data())
@settings(max_examples=25)
def test_clustering_of_a_batch_is_that_of_each_image(operation, data):
    grid = data.draw(st.tuples(st.integers(1, 32), st.integers(1, 32)))
    heats = data.draw(arrays(np.float32, (4, *grid), elements=st.floats(0, 8, width=16)))
    counts = data.draw(arrays(np.int64, 4, elements=st.integers(0, 9)))
    together = operation(heats, counts)
    for n in range(4):
        alone = operation(heats[n : n + 1], counts[n : n + 1])
        for field in fields(alone):
            batched, single = getattr(together, field.name)[n], getattr(alone, field.name)[0]
            if batched.shape != single.shape:
                # Slots for clusters that only other images of the batch have.
                batched = batched[: len(single)]
            np.testing.assert_array_equal(batched, single)


@pytest.mark.parametrize("size", [7, 14, 16, 28, 32])
def test_mixtures_of_a_batch_are_those_of_each_image_to_the_last_bit(size):
    # Dense heat: a BLAS sums in another order for another width of its matrices, as soon as these are large enough.
    rng = np.random.default_rng(size)
    heats = rng.random((60, size, size), dtype=np.float32)
    counts = rng.integers(0, 10, 60)
    together = mixtures(heats, counts)
    for n in range(60):
        alone = mixtures(heats[n : n + 1], counts[n : n + 1])
        np.testing.assert_array_equal(together.means[n, : counts[n]], alone.means[0])
        np.testing.assert_array_equal(together.variances[n, : counts[n]], alone.variances[0])
        np.testing.assert_array_equal(together.mixing[n, : counts[n]], alone.mixing[0])
        assert together.n_iter[n] == alone.n_iter[0]


@pytest.mark.parametrize(
    "operation",
    [
        normalise_heatmap,
        lambda maps: resize_maps(maps, 9, 5),
        lambda maps: weighted_heatmap(maps, maps[:, :, 0, 0], 0.5),
        lambda maps: weighted_heatmap(maps.astype(np.float16), maps[:, :, 0, 0], top=2),
        lambda maps: top_weights(maps, maps[:, :, 0, 0], 2),
        lambda maps: scale_to_peak(maps[:, 0]),
        lambda maps: sort_rows(maps[:, 0], 0),
        lambda maps: matrix_products(maps[:, 0], maps[:, 0].transpose(0, 2, 1)),
    ],
    ids=["heat", "resize", "weighted", "weighted top", "top", "peak", "rows", "products"],
)
@given(data=st.data())
@settings(max_examples=25)
def test_normalisation_of_a_batch_is_that_of_each_image(operation, data):
    shape = data.draw(st.tuples(st.just(4), st.integers(1, 9), st.integers(1, 14), st.integers(1, 14)))
    maps = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal(shape).astype(np.float32)
    together = operation(maps)
    for n in range(4):
        np.testing.assert_array_equal(together[n], operation(maps[n : n + 1])[0])
