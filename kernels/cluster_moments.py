"""Where the weight of each cluster lies, and how far it spreads: ellipses around the clusters of a heatmap."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.clusters import checked_clusters, launch_on_clusters, slots_for
from pc_engine.kernels.cuda import device_of
from pc_engine.kernels.validation import checked_weights


@dataclass(frozen=True)
class ClusterMoments:
    """Moments of each cluster, K being ``slots``, or else the largest number of clusters in the batch.

    Attributes
    ----------
    means, variances
        (N, K, 2) float64: along x and y, in cells, whose centres lie at integers. NaN in unused slots and where a
        cluster has no weight.
    share
        (N, K) float64: share of the image's clustered weight that lies in the cluster; 0 in unused slots. On a device,
        the shares of an image that is refused are NaN.
    """

    means: Array
    variances: Array
    share: Array


def cluster_moments(labels: Array, weights: Array, n_clusters: Array, *, slots: int | None = None) -> ClusterMoments:
    """Return the weighted mean and variance of the cells of each cluster.

    Parameters
    ----------
    labels
        (N, H, W) integers: 0 … ``n_clusters[n]`` - 1, or -1 for cells of no cluster.
    weights
        (N, H, W) floating point, >= 0.
    n_clusters
        (N,) integers.
    slots
        See `pc_engine.kernels.cluster_boxes`.

    Raises
    ------
    ValueError
        If shapes disagree, ``weights`` holds negative or non-finite values, or an image has more clusters than there
        are slots. A device marks the images whose values are so; see `pc_engine.kernels.cuda`.
    """
    labels, weights, numbers = checked_clusters(labels, weights, n_clusters, slots, "weights")
    xp = get_array_module(weights)
    device = device_of(weights)
    if device is not None:
        return launch_on_clusters(
            device,
            "cluster_moments",
            (labels, weights, numbers),
            slots,
            lambda n, k: ClusterMoments(xp.empty((n, k, 2)), xp.empty((n, k, 2)), xp.empty((n, k))),
        )
    heat = checked_weights(weights, "cluster_moments")
    count, slots = len(heat), slots_for(numbers, slots)
    _, height, width = heat.shape
    means, variances = (xp.full((count, slots, 2), math.nan) for _ in range(2))
    held = xp.zeros((count, slots))
    for k in range(slots):
        inside = xp.where(labels == k, heat, 0)
        held[:, k] = inside.sum(axis=(1, 2))
        # Without weight there is no mean; what is divided by 1 instead is put aside below.
        total = xp.where(held[:, k] > 0, held[:, k], 1)
        for axis, length in ((0, width), (1, height)):
            along = inside.sum(axis=1 + axis)
            places = xp.arange(length)
            mean = along @ places / total
            square = (along * (places - mean[:, None]) ** 2).sum(axis=1) / total
            means[:, k, axis] = xp.where(held[:, k] > 0, mean, math.nan)
            variances[:, k, axis] = xp.where(held[:, k] > 0, square, math.nan)
    clustered = held.sum(axis=1, keepdims=True)
    return ClusterMoments(means, variances, held / xp.where(clustered == 0, 1.0, clustered))
