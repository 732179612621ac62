"""DBSCAN of weighted grid cells for a batch of heatmaps, by label propagation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import Device, device_of
from pc_engine.kernels.validation import check_positive, checked_weights, device_weights

# An ``eps`` of sqrt(2) or sqrt(13), rounded to float32 or float64, keeps the cells exactly that far away, while none is
# admitted that lies farther away by more than a part in two million.
_EPS_SLACK = 1e-6


@dataclass(frozen=True)
class WeightedDbscan:
    """Clusters of each heatmap.

    Attributes
    ----------
    labels
        (N, H, W) int32: cluster of each cell, numbered from 0 by the first core cell in row-major order; -1 for noise
        and for cells of weight 0.
    n_clusters
        (N,) int64. On a device, -1 where the weights are refused.
    """

    labels: Array
    n_clusters: Array


def dbscan(weights: Array, *, eps: float, min_weight: float) -> WeightedDbscan:
    """Cluster the cells of each heatmap with DBSCAN, each cell counting as much as its weight.

    Parameters
    ----------
    weights
        (N, H, W), finite, >= 0. Cells of weight 0 take no part.
    eps
        Radius in cells, inclusive: sqrt(2) reaches the eight neighbours.
    min_weight
        A cell is a core cell if the weights within ``eps`` of it, its own included, sum to at least this.

    Returns
    -------
    WeightedDbscan
        The labels of ``sklearn.cluster.DBSCAN(eps, min_samples=min_weight).fit(cells, sample_weight=weights)`` with
        the cells of positive weight in row-major order: a border cell within reach of several clusters belongs to
        the one of the lowest number.

    Raises
    ------
    ValueError
        If a weight is negative or not finite, or a parameter is not above 0. A device marks the images whose weights
        are so; see `pc_engine.kernels.cuda`.

    Notes
    -----
    Each core cell takes the lowest index among the core cells within reach, then the label of the cell it names
    (pointer jumping), until nothing changes. A round costs O(N H W eps). Ester et al., "A density-based algorithm
    for discovering clusters in large spatial databases with noise", KDD 1996.
    """
    xp = get_array_module(weights)
    check_positive(min_weight, "min_weight")
    check_positive(eps, "eps")
    device = device_of(weights)
    if device is not None:
        return _on_device(device, device_weights(weights, "dbscan"), eps, min_weight)
    heat = checked_weights(weights, "dbscan")
    count, height, width = heat.shape
    half_widths = _disc_half_widths(eps, height, width)

    alive = heat > 0
    core = alive & (_over_disc(xp.add, heat, half_widths) >= min_weight)
    root = _lowest_connected(core, half_widths)
    is_root = root == xp.arange(core.size, dtype=root.dtype).reshape(core.shape)
    number = xp.cumsum(is_root.reshape(count, height * width), axis=1, dtype=xp.int32) - 1
    # Larger than every label: neither a minimum nor, below, a cell within reach of a cluster.
    nothing = xp.int32(height * width)
    label_of_core = xp.where(core, number.ravel()[xp.where(core, root, 0)], nothing)
    label = xp.where(core, label_of_core, _over_disc(xp.minimum, label_of_core, half_widths))
    labels = xp.where(alive & (label < nothing), label, xp.int32(-1))
    return WeightedDbscan(labels, is_root.sum(axis=(1, 2)))


def _lowest_connected(core: Array, half_widths: list[int]) -> Array:
    """For each core cell the lowest flat index (N*H*W) of its connected component; N*H*W for the other cells."""
    xp = get_array_module(core)
    nothing = core.size
    index = xp.arange(nothing, dtype=xp.int32 if nothing < 2**31 else xp.int64)
    root = xp.where(core, index.reshape(core.shape), nothing)
    # One entry past the end names itself, so that cells outside of the cores can be looked up like any other.
    named = xp.full(nothing + 1, nothing, dtype=root.dtype)
    while True:
        named[:-1] = xp.where(core, _over_disc(xp.minimum, root, half_widths), nothing).ravel()
        lowest = named[named[:-1]].reshape(core.shape)
        if bool((lowest == root).all()):
            return root
        root = lowest


def _disc_half_widths(eps: float, height: int, width: int) -> list[int]:
    """Half-width of the disc of radius ``eps`` in each of its rows, from the middle one outwards, cut to the grid."""
    squared = _radius_squared(eps)
    reach = min(math.isqrt(squared), height - 1)
    return [min(math.isqrt(squared - dy * dy), width - 1) for dy in range(reach + 1)]


def _radius_squared(eps: float) -> int:
    """Greatest squared distance between cells that is within ``eps``."""
    return int(float(eps) ** 2 * (1 + _EPS_SLACK))


def _over_disc(combine: Any, values: Array, half_widths: list[int]) -> Array:
    """Combine (add, or take the minimum of) the values (N, H, W) within a disc around each cell.

    Each row of the disc is a window along the grid's row, and the windows grow out of one another: 4 passes a cell of
    radius, where going through the disc's offsets takes about pi a cell of radius squared.
    """
    windows = [values]
    for dx in range(1, half_widths[0] + 1):
        window = windows[-1].copy()
        combine(window[:, :, dx:], values[:, :, :-dx], out=window[:, :, dx:])
        combine(window[:, :, :-dx], values[:, :, dx:], out=window[:, :, :-dx])
        windows.append(window)
    combined = windows[half_widths[0]].copy()
    for dy, half_width in enumerate(half_widths[1:], start=1):
        combine(combined[:, dy:], windows[half_width][:, :-dy], out=combined[:, dy:])
        combine(combined[:, :-dy], windows[half_width][:, dy:], out=combined[:, :-dy])
    return combined


def _on_device(device: Device, heat: Array, eps: float, min_weight: float) -> WeightedDbscan:
    """Launch the kernel in ``cuda/dbscan.cu``."""
    xp = get_array_module(heat)
    count, height, width = heat.shape
    clusters = WeightedDbscan(xp.empty(heat.shape, dtype=xp.int32), xp.empty(count, dtype=xp.int64))
    # No two cells are farther apart, and the kernel squares such numbers in 32 bits.
    squared = min(_radius_squared(eps), height * height + width * width)
    device.launch(
        "dbscan",
        heat,
        *map(xp.int32, (height, width, squared)),
        xp.float64(min_weight),
        *vars(clusters).values(),
        blocks=count,
        tasks=height * width,
        doubles=height * width,
        ints=2 * height * width + height,
    )
    return clusters
