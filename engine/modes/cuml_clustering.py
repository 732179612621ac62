"""DBSCAN by cuML: a batch in one call, its images spread along an extra coordinate.

cuML clusters one set of points a call, and cannot fit many small ones at once. So the cells of image n get a third
coordinate, n times more than the radius: no cell is a neighbour of another image's, distances within an image stay as
they are, and one set of points holds the batch. Its pairs of points grow with the square of the batch, where those of
`pc_engine.kernels.dbscan` grow with the batch; so this serves as an alternative and as a check, not for speed. (cuML
has no Gaussian mixture at all.)
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from typing import Any

from pc_engine.errors import UsageError, first_line
from pc_engine.hardware.cuda import OUT_OF_MEMORY, failure
from pc_engine.kernels import WeightedDbscan
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.packages import missing, require

#: The name that ``--cluster`` takes.
NAME = "cuml-dbscan"
_PURPOSE = f"cluster with {NAME}"

#: From points (M, 3) float64, weights (M,) float64 and a radius to labels (M,): clusters numbered from 0 by their first
#: core point, -1 for noise. A core point has neighbours whose weights, its own included, sum to at least 1.
Fit = Callable[[Array, Array, float], Array]

# Pairs of points in one call. cuML holds so many flags at a time as `_MEGABYTES` allow, and goes through the rest.
_MOST_PAIRS = 1 << 30
_MEGABYTES = 512
# Squared distances between cells are integers: a radius given as a rounded square root still reaches that far.
_EPS_SLACK = 1e-6
# Weights are divided by the threshold, which rounds them: sums that reach it in whole numbers have to reach it so, too.
_WEIGHT_SLACK = 1e-9
# One thread at a time imports cuML: another would take what that changes meanwhile for what was there before.
_IMPORTING = threading.Lock()


def require_cuml(device: str) -> None:
    """Check that ``--cluster cuml-dbscan`` can be had on ``device``, ``"cpu"`` or ``"cuda:N"``; imports nothing heavy.

    Raises
    ------
    UsageError
        If it is the CPU.
    MissingPackageError
        If cuML is not installed.
    """
    if device == "cpu":
        raise UsageError(f"The clustering {NAME} runs on an NVIDIA GPU: add --device cuda, or use --cluster dbscan.")
    require("cuml", _PURPOSE)


def cuml_dbscan(weights: Array, *, eps: float, min_weight: float) -> WeightedDbscan:
    """Cluster the cells of each heatmap by cuML; otherwise as `pc_engine.kernels.dbscan`, for CuPy arrays.

    Parameters
    ----------
    weights
        (N, H, W), finite, >= 0. Cells of weight 0 take no part. An image with others is marked by -1 clusters.
    eps, min_weight
        Radius in cells, and the least sum of weights within it that makes a core cell.

    Raises
    ------
    MissingPackageError
        If cuML is not installed.
    DeviceMemoryError
        If it finds too little memory.

    Notes
    -----
    Waits for the device: cuML works on a stream of its own.
    """
    return spread_dbscan(weights, eps=eps, min_weight=min_weight, fit=_cuml_fit())


def spread_dbscan(
    weights: Array, *, eps: float, min_weight: float, fit: Fit, most_pairs: int = _MOST_PAIRS
) -> WeightedDbscan:
    """Cluster a batch with a DBSCAN for one set of points.

    Parameters
    ----------
    weights, eps, min_weight
        As of `cuml_dbscan`.
    fit
        The DBSCAN.
    most_pairs
        Images are handed over in groups of at most so many pairs of cells, at least one image each.
    """
    xp = get_array_module(weights)
    count, height, width = weights.shape
    sound = (xp.isfinite(weights) & (weights >= 0)).all(axis=(1, 2))
    heat = xp.where(sound[:, None, None], weights, 0)
    labels = xp.full(weights.shape, -1, dtype=xp.int32)
    n_clusters = xp.zeros(count, dtype=xp.int64)
    # From the size of the grid, as looking at how many cells have weight would wait for the device once more.
    group = max(math.isqrt(most_pairs) // (height * width), 1)
    for start in range(0, count, group):
        part = slice(start, start + group)
        labels[part], n_clusters[part] = _spread(heat[part], eps, min_weight, fit)
    return WeightedDbscan(labels, xp.where(sound, n_clusters, -1))


def _spread(heat: Array, eps: float, min_weight: float, fit: Fit) -> tuple[Array, Array]:
    """Return labels (N, H, W) and numbers of clusters (N,) of one group of images."""
    xp = get_array_module(heat)
    labels = xp.full(heat.shape, -1, dtype=xp.int32)
    n_clusters = xp.zeros(len(heat), dtype=xp.int64)
    image, y, x = xp.nonzero(heat)
    if not len(image):
        return labels, n_clusters
    squared = int(float(eps) ** 2 * (1 + _EPS_SLACK))
    # No two cells lie between this distance and the next integer's root, so that its rounding to float32 is harmless.
    radius = math.sqrt(squared + 0.5)
    gap = math.ceil(radius) + 1
    points = xp.stack([x, y, image * gap], axis=1).astype(xp.float64)
    relative = heat[image, y, x].astype(xp.float64) / (min_weight * (1 - _WEIGHT_SLACK))
    found = xp.asarray(fit(points, relative, radius)).astype(xp.int64, copy=False)
    labels[image, y, x], n_clusters = _by_image(found, image, len(heat))
    return labels, n_clusters


def _by_image(found: Array, image: Array, count: int) -> tuple[Array, Array]:
    """Number the clusters of each image from 0; return the labels of the points, and the numbers of clusters.

    Points come image by image, so that the numbers of an image's clusters follow one another.
    """
    xp = get_array_module(found)
    clustered = found >= 0
    # One past the last cluster of each image; images without any take that of the image before. CuPy's ``maximum.at``
    # refuses int64.
    past = xp.zeros(count, dtype=xp.int32)
    xp.maximum.at(past, image[clustered], found[clustered].astype(xp.int32) + 1)
    past = _running_maximum(past).astype(xp.int64)
    first = xp.concatenate([xp.zeros(1, dtype=xp.int64), past[:-1]])
    return xp.where(clustered, found - first[image], -1).astype(xp.int32), past - first


def _running_maximum(values: Array) -> Array:
    """Return the largest value up to each (CuPy has no ``maximum.accumulate``)."""
    xp = get_array_module(values)
    position = xp.arange(len(values))
    return xp.where(position[:, None] >= position, values, 0).max(axis=1)


@functools.cache
def _cuml_fit() -> Fit:
    try:
        import cupy

        # It has CuPy take memory from RAPIDS, which gets it from the driver each time and waits for the GPU to free it.
        with _IMPORTING:
            allocator = cupy.cuda.get_allocator()
            try:
                from cuml.cluster import DBSCAN
            finally:
                cupy.cuda.set_allocator(allocator)
    except ImportError:
        raise missing("cuml", _PURPOSE) from None

    def fit(points: Any, weights: Any, radius: float) -> Any:
        # What makes the points is queued on this thread's stream, which cuML does not wait for; for its own it does.
        stream = cupy.cuda.get_current_stream()
        stream.synchronize()
        model = DBSCAN(
            eps=radius,
            min_samples=1,
            max_mbytes_per_batch=_MEGABYTES,
            output_type="cupy",
            calc_core_sample_indices=False,
        )
        try:
            # What it does by CuPy is on the stream that its own waits for, where memory comes from that is free there.
            with cupy.cuda.Stream.null as default:
                labels = model.fit(points, sample_weight=weights).labels_
                default.synchronize()
        except MemoryError as error:  # of RAPIDS', or of CuPy's
            raise failure("clustering with cuML", first_line(error), OUT_OF_MEMORY) from None
        found = labels.astype(cupy.int64)
        stream.synchronize()  # before another thread's labels may lie where these were
        return found

    return fit
