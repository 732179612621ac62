"""Fewer clusters of each heatmap: the two whose union spreads least become one, again and again (Ward 1963)."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cluster_moments import cluster_moments
from pc_engine.kernels.clusters import checked_clusters, launch_on_clusters, slots_for
from pc_engine.kernels.cuda import device_of
from pc_engine.kernels.validation import checked_counts, checked_weights, device_weights

# Costs are rounded to this part of a cell's square: those that are equal by symmetry then are so to the last bit, and
# the clusters' order decides.
_COST_BITS = 30


@dataclass(frozen=True)
class MergedClusters:
    """What is left of the clusters of each heatmap.

    Attributes
    ----------
    labels
        (N, H, W) int32: cluster of each cell, numbered from 0 in the order of the first of those that it was made of;
        -1 where there was none before, or where none is left.
    n_clusters
        (N,) int64. On a device, -1 where the weights are refused; labels are -1 there.
    """

    labels: Array
    n_clusters: Array


def merge_clusters(
    labels: Array, weights: Array, n_clusters: Array, wanted: Array, *, slots: int | None = None
) -> MergedClusters:
    """Merge the clusters of each heatmap until no more than so many are left.

    Parameters
    ----------
    labels
        (N, H, W) integers: 0 … ``n_clusters[n]`` - 1, or -1 for cells of no cluster.
    weights
        (N, H, W) floating point, >= 0.
    n_clusters
        (N,) integers.
    wanted
        (N,) integers: how many clusters are to be left at most; 0 leaves none, and a negative number all.
    slots
        See `pc_engine.kernels.cluster_boxes`.

    Raises
    ------
    ValueError
        If shapes disagree, ``weights`` holds negative or non-finite values, or an image has more clusters than there
        are slots. A device marks the images whose values are so; see `pc_engine.kernels.cuda`.

    Notes
    -----
    Ward, "Hierarchical grouping to optimize an objective function", J. Am. Stat. Assoc. 58:236, 1963, doi
    10.1080/01621459.1963.10500845. The spread of a cluster is the sum over its cells of the weight times the squared
    distance to its mean; by the union of two, of weights a and b at means u and v, it grows by a b / (a + b) |u - v|².
    These costs are rounded to 2^-30 of the image's clustered weight; of equals the pair whose first cluster comes first
    is taken, then whose second does.
    """
    labels, weights, numbers = checked_clusters(labels, weights, n_clusters, slots, "weights")
    xp = get_array_module(weights)
    limit = checked_counts(wanted, weights, "wanted")
    device = device_of(weights)
    if device is not None:
        return launch_on_clusters(
            device,
            ("merge_clusters", "merge_clusters"),
            (labels, device_weights(weights, "merge_clusters"), numbers),
            slots,
            lambda n, _: MergedClusters(xp.empty((n, *labels.shape[1:]), xp.int32), xp.empty(n, xp.int64)),
            limit,
            doubles=2,
            ints=1,
        )
    heat = checked_weights(weights, "merge_clusters")
    slots = slots_for(numbers, slots)
    places = xp.arange(slots)
    alive = places < numbers[:, None]
    becomes = xp.where(alive, places, -1)
    moments = cluster_moments(labels, heat, numbers, slots=slots)
    weight, mean = xp.where(alive, moments.share, 0), xp.nan_to_num(moments.means)
    limit = xp.where(limit < 0, slots, limit)
    pairs = (places[:, None] < places).ravel()
    while True:
        todo = xp.flatnonzero(alive.sum(axis=1) > xp.maximum(limit, 1))
        if not len(todo):
            break
        cost = xp.where(pairs & _both(alive[todo]), _costs(xp, weight[todo], mean[todo]), xp.inf)
        first, second = xp.divmod(cost.argmin(axis=1), slots)
        one, other = weight[todo, first], weight[todo, second]
        together = one + other
        share = xp.where(together > 0, other / xp.where(together > 0, together, 1), 0)[:, None]
        mean[todo, first] += share * (mean[todo, second] - mean[todo, first])
        weight[todo, first] = together
        alive[todo, second] = False
        becomes[todo] = xp.where(becomes[todo] == second[:, None], first[:, None], becomes[todo])
    alive &= limit[:, None] > 0
    number = xp.where(alive, xp.cumsum(alive, axis=1) - 1, -1)
    # What is no cluster stands behind the last one.
    renamed = xp.full((len(heat), slots + 1), -1)
    renamed[:, :slots] = xp.where(becomes >= 0, xp.take_along_axis(number, xp.maximum(becomes, 0), axis=1), -1)
    flat = xp.where(labels >= 0, labels, slots).reshape(len(heat), heat.shape[1] * heat.shape[2])
    found = xp.take_along_axis(renamed, flat, axis=1).reshape(heat.shape)
    return MergedClusters(found.astype(xp.int32), alive.sum(axis=1).astype(xp.int64))


def _both(alive: Array) -> Array:
    """Return of each pair of slots whether both hold a cluster, (N, K K) of (N, K)."""
    both: Array = (alive[:, :, None] & alive[:, None]).reshape(len(alive), alive.shape[1] ** 2)
    return both


def _costs(xp: ModuleType, weight: Array, mean: Array) -> Array:
    """Return the rounded cost of each pair of clusters, (N, K K), of weights (N, K) at means (N, K, 2)."""
    one, other = weight[:, :, None], weight[:, None]
    together = one + other
    apart = mean[:, :, None] - mean[:, None]
    squared = apart[..., 0] * apart[..., 0] + apart[..., 1] * apart[..., 1]
    cost = one * other / xp.where(together > 0, together, 1) * squared
    return xp.rint(xp.ldexp(cost, _COST_BITS)).reshape(len(weight), weight.shape[1] ** 2)
