"""Where the weight of each cluster lies, and how far it spreads: ellipses around the clusters of a heatmap."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import Device, Launch, device_of, kernel_suffix, shared_bytes
from pc_engine.kernels.validation import checked_counts, checked_weights, device_weights


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
    xp = get_array_module(labels, weights)
    labels, weights = xp.asarray(labels), xp.asarray(weights)
    if labels.shape != weights.shape:
        raise ValueError(f"labels {labels.shape} and weights {weights.shape} must have the same shape.")
    numbers = checked_counts(n_clusters, weights, "n_clusters")
    if slots is not None and slots < 0:
        raise ValueError(f"slots must be at least 0, and is {slots}.")
    device = device_of(weights)
    if device is not None:
        moments = _on_device(device, labels, device_weights(weights, "cluster_moments"), numbers, slots)
        if moments is not None:
            return moments
    heat = checked_weights(weights, "cluster_moments")
    count, most = len(heat), int(numbers.max()) if len(heat) else 0
    slots = most if slots is None else slots
    if most > slots:
        raise ValueError(f"n_clusters reaches {most}, beyond the {slots} slots asked for.")
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


def _on_device(device: Device, labels: Array, heat: Array, numbers: Array, slots: int | None) -> ClusterMoments | None:
    """Launch the kernel in ``cuda/cluster_moments.cu``; None if an image's state exceeds the memory of a block."""
    xp = get_array_module(heat)
    count, height, width = heat.shape
    slots = height * width if slots is None else slots
    needed = shared_bytes(doubles=height * width + slots, ints=height * width)
    if needed > device.shared_limit:
        return None
    moments = ClusterMoments(xp.empty((count, slots, 2)), xp.empty((count, slots, 2)), xp.empty((count, slots)))
    device.launch(
        Launch(
            source="cluster_moments",
            kernel=f"cluster_moments_{kernel_suffix([heat])}",
            blocks=count,
            threads=device.threads("cluster_moments", height * width),
            arguments=(
                *(xp.ascontiguousarray(labels, dtype=xp.int32), heat, numbers),
                *map(xp.int32, (height, width, slots)),
                *(moments.means, moments.variances, moments.share),
            ),
            shared_bytes=needed,
        )
    )
    return moments
