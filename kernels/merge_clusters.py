"""Fewer clusters of each heatmap: the two that part least become one, again and again.

Two part little where their union spreads little, in the shape that all clusters of the image share, and where there is
no valley between them. A light cluster that is far from all others may be left out instead.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from types import ModuleType

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cluster_moments import cluster_moments
from pc_engine.kernels.clusters import checked_clusters, launch_on_clusters, slots_for
from pc_engine.kernels.cuda import device_of
from pc_engine.kernels.saddles import highest_passes
from pc_engine.kernels.validation import checked_counts, checked_weights

# Costs are rounded to this part of their unit: those that are equal by symmetry then are so to the last bit, and the
# clusters' order decides.
_COST_BITS = 30
# Of what is added to variances, and of the reach: beyond any grid, and no sum of squares overflows.
_LARGEST = 1e6


@dataclass(frozen=True)
class MergedClusters:
    """What is left of the clusters of each heatmap.

    Attributes
    ----------
    labels
        (N, H, W) int32: cluster of each cell, numbered from 0 in the order of the first of those that it was made of;
        -1 where there was none before, or where it was left out.
    n_clusters
        (N,) int64. On a device, -1 where the weights are refused; labels are -1 there.
    """

    labels: Array
    n_clusters: Array


def merge_clusters(
    labels: Array,
    weights: Array,
    n_clusters: Array,
    wanted: Array,
    *,
    valley_power: int = 0,
    variance_floor: float | None = None,
    reach: float | None = None,
    slots: int | None = None,
) -> MergedClusters:
    """Merge the clusters of each heatmap, or leave some out, until no more than so many are left.

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
    valley_power
        >= 0. How much a valley between two clusters parts them; 0 does not look for any.
    variance_floor
        In cells², > 0: the clusters of an image are taken to have one shape, which may be longer along one axis, and
        this is added to its variances along x and y. None takes them for round.
    reach
        In cells, > 0. A cluster is left out where that costs less than any union: what is light, and about so far from
        all that is heavy, or farther. None leaves out none.
    slots
        See `pc_engine.kernels.cluster_boxes`.

    Raises
    ------
    ValueError
        If shapes disagree, a parameter lies outside its range, ``weights`` holds negative or non-finite values, or an
        image has more clusters than there are slots. A device marks the images whose values are so; see
        `pc_engine.kernels.cuda`.

    Notes
    -----
    With weights that sum to 1 over an image's clusters, X and Y are what clusters have of scatter along x and y: the
    sum over cells of the weight times the squared distance to the mean of their cluster. By the union of two, of
    weights a and b, X grows by dx, which is a b / (a + b) times the squared distance of their means along x, and Y by
    dy. The union costs ::

        2 ((x + dx) (y + dy) - x y) / (x + y) (1 - r)^p        with x = X + f and y = Y + f

    where f is the floor and p the power, and ``(dx + dy) (1 - r)^p`` without a floor. With p = 0 that is the criterion
    of Ward (J. Am. Stat. Assoc. 58:236, 1963, doi 10.1080/01621459.1963.10500845), and with a floor that of Friedman &
    Rubin, the determinant of the scatter (J. Am. Stat. Assoc. 62:1159, 1967, doi 10.1080/01621459.1967.10500923), here
    without the correlation of x and y, and relative to the mean of both.

    r is how little of a valley there is: the greatest weight at which one gets from one cluster to the other, between
    cells that are neighbours among 8, as a share of the lower one of their greatest weights; 0 where they do not touch.
    A union has the passes of both, and the greater peak.

    To leave a cluster of weight a out costs ``a reach²``: as much as its union with one that weighs much more, so far
    away, where X and Y are equal and a is small. In the shape that all share it is nearer across, and farther along.

    Costs are rounded to 2^-30; of equals the pair whose first cluster comes first is taken, then whose second does,
    and a union before a cluster is left out; of those the first of the lightest.
    """
    if valley_power < 0:
        raise ValueError(f"valley_power must be at least 0, but is {valley_power}.")
    for name, value in (("variance_floor", variance_floor), ("reach", reach)):
        if value is not None and not 0 < value <= _LARGEST:
            raise ValueError(f"{name} must be above 0 and at most {_LARGEST:g}, but is {value}.")
    labels, weights, numbers = checked_clusters(labels, weights, n_clusters, slots, "weights")
    xp = get_array_module(weights)
    limit = checked_counts(wanted, weights, "wanted")
    device = device_of(weights)
    if device is not None:
        return launch_on_clusters(
            device,
            "merge_clusters",
            (labels, weights, numbers),
            slots,
            lambda n, _: MergedClusters(xp.empty((n, *labels.shape[1:]), xp.int32), xp.empty(n, xp.int64)),
            limit,
            xp.int32(valley_power),
            *map(xp.float64, (variance_floor or -1, reach or -1)),
            doubles=3,
            ints=1,
        )
    heat = checked_weights(weights, "merge_clusters")
    slots = slots_for(numbers, slots)
    places = xp.arange(slots)
    alive = places < numbers[:, None]
    becomes = xp.where(alive, places, -1)
    unions = _Unions(xp, labels, heat, numbers, slots, valley_power, variance_floor)
    limit = xp.where(limit < 0, slots, limit)
    pairs = (places[:, None] < places).ravel()
    while True:
        todo = xp.flatnonzero(alive.sum(axis=1) > xp.maximum(limit, 1))
        if not len(todo):
            break
        cost = xp.rint(xp.ldexp(unions.costs(todo), _COST_BITS)).reshape(len(todo), slots * slots)
        cost = xp.where(pairs & _both(alive[todo]), cost, xp.inf)
        first, second = xp.divmod(cost.argmin(axis=1), slots)
        if reach is not None:
            omission = xp.where(alive[todo], xp.rint(xp.ldexp(unions.omission_costs(todo, reach), _COST_BITS)), xp.inf)
            omitted = omission.min(axis=1) < cost.min(axis=1)
            first = xp.where(omitted, -1, first)
            second = xp.where(omitted, omission.argmin(axis=1), second)
        united = first >= 0
        unions.unite(todo[united], first[united], second[united])
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


class _Unions:
    """What is known of the clusters of N images, in K slots each, and what their unions cost."""

    def __init__(
        self,
        xp: ModuleType,
        labels: Array,
        heat: Array,
        numbers: Array,
        slots: int,
        valley_power: int,
        variance_floor: float | None,
    ) -> None:
        moments = cluster_moments(labels, heat, numbers, slots=slots)
        self._xp, self._valley_power, self._floor = xp, valley_power, variance_floor
        self._weight, self._mean = moments.share, xp.nan_to_num(moments.means)
        self._scatter = (moments.share[..., None] * xp.nan_to_num(moments.variances)).sum(axis=1)
        weight, mean = self._weight, self._mean
        self._growth = _growth(weight[:, :, None], mean[:, :, None], weight[:, None], mean[:, None])
        if valley_power:
            self._peak, self._ridge = _peaks_and_ridges(xp, labels, heat, slots)
            self._valley = _valley(self._peak[:, :, None], self._peak[:, None], self._ridge, valley_power)

    def costs(self, images: Array) -> Array:
        """Return what the union of each two clusters of some images costs, (n, K, K)."""
        by_x, by_y = self._xp.moveaxis(self._growth[images], 3, 0)
        if self._floor is None:
            cost = by_x + by_y
        else:
            along_x, along_y = (self._scatter[images] + self._floor).T[:, :, None, None]
            cost = 2 * (by_x * along_y + by_y * along_x + by_x * by_y) / (along_x + along_y)
        return cost * self._valley[images] if self._valley_power else cost

    def omission_costs(self, images: Array, reach: float) -> Array:
        """Return what it costs to leave each cluster of some images out, (n, K)."""
        cost: Array = self._weight[images] * reach**2
        return cost

    def unite(self, images: Array, first: Array, second: Array) -> None:
        """Make one cluster of two in each of some images (n,)."""
        xp, here, there = self._xp, (images, first), (images, second)
        self._scatter[images] += self._growth[images, first, second]
        one, other = self._weight[here], self._weight[there]
        together = one + other
        share = (other / xp.where(together > 0, together, 1))[:, None]
        self._mean[here] += share * (self._mean[there] - self._mean[here])
        self._weight[here] = together
        row = _growth(together[:, None], self._mean[here][:, None], self._weight[images], self._mean[images])
        self._growth[images, first] = self._growth[images, :, first] = row
        if self._valley_power:
            for held in (self._peak, self._ridge):
                held[here] = xp.maximum(held[here], held[there])
            self._ridge[images, :, first] = self._ridge[here]
            row = _valley(self._peak[here][:, None], self._peak[images], self._ridge[here], self._valley_power)
            self._valley[images, first] = self._valley[images, :, first] = row


def _growth(weight: Array, mean: Array, others: Array, means: Array) -> Array:
    """Return how the scatter along x and y grows by the union of clusters with others, (..., 2)."""
    xp = get_array_module(weight)
    together = weight + others
    apart = mean - means
    grown: Array = (weight * others / xp.where(together > 0, together, 1))[..., None] * (apart * apart)
    return grown


def _valley(peak: Array, peaks: Array, ridge: Array, power: int) -> Array:
    """Return how much the valleys between clusters and others part them, of their peaks and the passes between them."""
    xp = get_array_module(peak)
    lower = xp.minimum(peak, peaks)
    valley = 1 - ridge / xp.where(lower > 0, lower, 1)
    parted: Array = math.prod(itertools.repeat(valley, power))
    return parted


def _peaks_and_ridges(xp: ModuleType, labels: Array, heat: Array, slots: int) -> tuple[Array, Array]:
    """Return the greatest weight of each cluster, (N, K), and of the pass between each two, (N, K, K), 0 if none."""
    count = len(heat)
    number = xp.where(labels >= 0, labels.astype(xp.int64) + slots * xp.arange(count)[:, None, None], -1)
    inside = number >= 0
    peak, ridge = xp.zeros(count * slots), xp.zeros((count, slots, slots))
    xp.maximum.at(peak, number[inside], heat[inside])
    pairs, height = highest_passes(heat, number)
    image, first = xp.divmod(pairs[0], slots)
    second = pairs[1] % slots
    ridge[image, first, second] = ridge[image, second, first] = height
    return peak.reshape(count, slots), ridge


def _both(alive: Array) -> Array:
    """Return of each pair of slots whether both hold a cluster, (N, K K) of (N, K)."""
    both: Array = (alive[:, :, None] & alive[:, None]).reshape(len(alive), alive.shape[1] ** 2)
    return both
