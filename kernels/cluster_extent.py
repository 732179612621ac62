"""Boxes around the clusters of a heatmap: the pointers of "point then count" (paper 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import Device, Launch, device_of, kernel_suffix, shared_bytes
from pc_engine.kernels.validation import checked_counts, checked_weights, device_weights


@dataclass(frozen=True)
class ClusterBoxes:
    """Extent and weight of each cluster, K being ``slots``, or else the largest number of clusters in the batch.

    Attributes
    ----------
    boxes
        (N, K, 4) float64: x0, y0, x1, y1 in cell edges: cell (row i, column j) covers [j, j+1] x [i, i+1].
        NaN in unused slots.
    score
        (N, K) float64: share of the image's clustered density that lies in the cluster; 0 in unused slots, and
        everywhere if the clustered density of an image is 0. On a device, boxes and scores of an image that is refused
        are NaN.
    """

    boxes: Array
    score: Array


def cluster_boxes(
    labels: Array, density: Array, n_clusters: Array, *, trim: float = 0.0, slots: int | None = None
) -> ClusterBoxes:
    """Draw the smallest box around the cells of each cluster.

    Parameters
    ----------
    labels
        (N, H, W) integers: 0 … ``n_clusters[n]`` - 1, or -1 for cells of no cluster.
    density
        (N, H, W) floating point, >= 0: density or heat, which ``trim`` and the score refer to.
    n_clusters
        (N,) integers.
    trim
        0 … 1. Only cells with at least ``trim`` times the greatest density of their cluster are enclosed. The paper
        encloses all (0); towards 1 the box shrinks to the peak. The score always counts the whole cluster.
    slots
        K, where the caller knows a bound: ``centres.shape[1]`` of `density_peaks`. None asks ``n_clusters`` for its
        largest value, and on a device, where that would wait, is as many as there are cells.

    Returns
    -------
    ClusterBoxes
        A cluster number that no cell bears has a NaN box and score 0.

    Raises
    ------
    ValueError
        If shapes disagree, ``density`` holds negative or non-finite values, ``trim`` is outside 0 … 1, or an image has
        more clusters than there are slots. A device marks the images whose values are so; see `pc_engine.kernels.cuda`.
    """
    xp = get_array_module(labels, density)
    labels, density = xp.asarray(labels), xp.asarray(density)
    if labels.shape != density.shape:
        raise ValueError(f"labels {labels.shape} and density {density.shape} must have the same shape.")
    if not 0 <= trim <= 1:
        raise ValueError(f"trim must lie between 0 and 1, and is {trim}.")
    numbers = checked_counts(n_clusters, density, "n_clusters")
    if slots is not None and slots < 0:
        raise ValueError(f"slots must be at least 0, and is {slots}.")
    device = device_of(density)
    if device is not None:
        heat = device_weights(density, "cluster_boxes")
        extents = _on_device(device, labels, heat, numbers, trim, slots)
        if extents is not None:
            return extents
    heat = checked_weights(density, "cluster_boxes")
    count, most = len(heat), int(numbers.max()) if len(heat) else 0
    slots = most if slots is None else slots
    if most > slots:
        raise ValueError(f"n_clusters reaches {most}, beyond the {slots} slots asked for.")
    boxes = xp.full((count, slots, 4), math.nan)
    score = xp.zeros((count, slots))
    for k in range(slots):
        member = labels == k
        inside = heat * member
        score[:, k] = inside.sum(axis=(1, 2))
        threshold = trim * inside.max(axis=(1, 2))
        boxes[:, k] = _bounds(member & (inside >= threshold[:, None, None]))
    total = score.sum(axis=1, keepdims=True)
    return ClusterBoxes(boxes, score / xp.where(total == 0, 1.0, total))


def _bounds(member: Array) -> Array:
    """Edges (N, 4) of the smallest box around the true cells of (N, H, W); NaN where there are none."""
    xp = get_array_module(member)
    _, height, width = member.shape
    columns, rows = member.any(axis=1), member.any(axis=2)
    edges = xp.stack(
        [
            columns.argmax(axis=1),
            rows.argmax(axis=1),
            width - columns[:, ::-1].argmax(axis=1),
            height - rows[:, ::-1].argmax(axis=1),
        ],
        axis=1,
    )
    return xp.where(rows.any(axis=1)[:, None], edges, math.nan)


def _on_device(
    device: Device, labels: Array, heat: Array, numbers: Array, trim: float, slots: int | None
) -> ClusterBoxes | None:
    """Launch the kernel in ``cuda/cluster_extent.cu``; None if an image's state exceeds the memory of a block."""
    xp = get_array_module(heat)
    count, height, width = heat.shape
    slots = height * width if slots is None else slots
    needed = shared_bytes(doubles=height * width + slots, ints=height * width)
    if needed > device.shared_limit:
        return None
    extents = ClusterBoxes(xp.empty((count, slots, 4)), xp.empty((count, slots)))
    device.launch(
        Launch(
            source="cluster_extent",
            kernel=f"cluster_boxes_{kernel_suffix([heat])}",
            blocks=count,
            threads=device.threads("cluster_extent", height * width),
            arguments=(
                *(xp.ascontiguousarray(labels, dtype=xp.int32), heat, numbers),
                *(xp.int32(height), xp.int32(width), xp.int32(slots), xp.float64(trim)),
                *(extents.boxes, extents.score),
            ),
            shared_bytes=needed,
        )
    )
    return extents
