"""Boxes around the clusters of a heatmap: the pointers of "point then count" (paper 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.clusters import checked_clusters, launch_on_clusters, slots_for
from pc_engine.kernels.cuda import device_of
from pc_engine.kernels.validation import checked_weights


@dataclass(frozen=True)
class ClusterBoxes:
    """Extent and weight of each cluster, K being ``slots``, or else the largest number of clusters in the batch.

    Attributes
    ----------
    boxes
        (N, K, 4) float64: x0, y0, x1, y1 in cell edges: cell (row i, column j) covers [j, j+1] x [i, i+1]. Between
        them where they are interpolated. NaN in unused slots.
    score
        (N, K) float64: share of the image's clustered density that lies in the cluster; 0 in unused slots, and
        everywhere if the clustered density of an image is 0. On a device, boxes and scores of an image that is refused
        are NaN.
    """

    boxes: Array
    score: Array


def cluster_boxes(
    labels: Array,
    density: Array,
    n_clusters: Array,
    *,
    trim: float = 0.0,
    interpolate: bool = False,
    slots: int | None = None,
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
    interpolate
        Whether a side lies where the density, the greatest of the cluster's cells in each column or row, falls below
        that between the middles of the outermost cells and those next to them, which have 0 where they are none of the
        cluster's; at the outer edge of the map where that is what ends the box. Else all lie on edges of cells.
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
    if not 0 <= trim <= 1:
        raise ValueError(f"trim must be between 0 and 1, but is {trim}.")
    labels, density, numbers = checked_clusters(labels, density, n_clusters, slots, "density")
    xp = get_array_module(density)
    device = device_of(density)
    if device is not None:
        return launch_on_clusters(
            device,
            "cluster_boxes",
            (labels, density, numbers),
            slots,
            lambda n, k: ClusterBoxes(xp.empty((n, k, 4)), xp.empty((n, k))),
            xp.float64(trim),
            xp.int32(interpolate),
        )
    heat = checked_weights(density, "cluster_boxes")
    count, slots = len(heat), slots_for(numbers, slots)
    boxes = xp.full((count, slots, 4), math.nan)
    score = xp.zeros((count, slots))
    for k in range(slots):
        member = labels == k
        inside = heat * member
        score[:, k] = inside.sum(axis=(1, 2))
        threshold = trim * inside.max(axis=(1, 2))
        kept = member & (inside >= threshold[:, None, None])
        boxes[:, k] = _bounds(kept)
        if interpolate:
            boxes[:, k] += _beyond_bounds(inside, kept, threshold)
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


def _beyond_bounds(inside: Array, kept: Array, threshold: Array) -> Array:
    """Return how far (N, 4) the interpolated sides lie from those of `_bounds`; anything where no cell is kept."""
    xp = get_array_module(inside)
    sides = []
    for flip in (slice(None), slice(None, None, -1)):
        for axis in (1, 2):
            # Seen from this side: the first line with a kept cell, and the one before it.
            profile, lines = inside.max(axis=axis)[:, flip], kept.any(axis=axis)[:, flip]
            first = lines.argmax(axis=1)
            here, before = (
                xp.take_along_axis(profile, at[:, None], 1)[:, 0] for at in (first, xp.maximum(first, 1) - 1)
            )
            falls = (first > 0) & (before < threshold)
            inwards = 0.5 - (here - threshold) / xp.where(falls, here - before, 1)
            sides.append(xp.where(falls, inwards, 0) * (1 if flip.step is None else -1))
    return xp.stack(sides, axis=1)
