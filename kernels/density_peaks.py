"""Clustering by density peaks of weighted grid cells, for a batch of heatmaps (Rodriguez & Laio 2014)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import Device, device_of, no_array
from pc_engine.kernels.saddles import position_in_image, roots, saddles
from pc_engine.kernels.validation import check_positive, checked_counts, checked_weights, device_weights

# Densities are rounded to this many bits below the image's peak: cells that are equally dense by symmetry then tie
# and are ordered by index, whatever the last bits of a matrix product on this machine or device are.
_DENSITY_BITS = 40
#: Share of the image's greatest density up to which a local maximum is no part of a centre by prominence. What is left
#: of a background has many maxima, all of them prominent where nothing is between them: without this, which is well
#: below the weakest objects that are counted, they would add up to some.
LEAST_DENSITY = 0.1
# How much of a centre a local maximum is, is rounded to so many bits behind the point: up to 8192 of them then have the
# same sum in any order, on any machine.
_MASS_BITS = 40
# Distances from local maxima to all cells are formed for so many pairs at a time, to bound memory on noisy heatmaps.
_PAIRS_AT_ONCE = 1 << 21

# The 8 neighbours as (dy, dx), nearest first, then by row-major index: the order in which a denser one is preferred.
_NEIGHBOURS = ((-1, 0), (0, -1), (0, 1), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))


@dataclass(frozen=True)
class DensityPeaks:
    """Clusters of each heatmap, K being the largest number of clusters in the batch.

    On a device, where reading that number would wait, K is the most that the grid can hold: no two local maxima touch,
    hence ceil(H / 2) * ceil(W / 2).

    Attributes
    ----------
    labels
        (N, H, W) int32: cluster of each cell, numbered from 0 by decreasing ``density * delta`` of the centre (ties:
        the denser centre, then the lower row-major index); -1 where the weight is 0, or where the image has no centre.
    n_clusters
        (N,) int64. On a device, -1 where the weights are refused; density and delta are NaN there.
    density
        (N, H, W) float64: rho, rounded to 40 bits below the image's peak; 0 where the weight is 0.
    delta
        (N, H, W) float64, in cells, at the local maxima of the density: distance to the nearest denser cell, or for
        the densest cell to the farthest cell of positive weight. NaN elsewhere (there it would be 1 or sqrt(2)).
    centres
        (N, K, 2) float64: (x, y) of the centre cells, cell centres at integer coordinates; NaN in unused slots.
    """

    labels: Array
    n_clusters: Array
    density: Array
    delta: Array
    centres: Array


@dataclass(frozen=True)
class _LocalMaxima:
    """The M cells of the batch that are denser than their neighbours, in order of ``cell``.

    Attributes: ``cell`` flat index into (N, H, W), ``image`` its n, ``density``, ``delta``, ``parent`` flat index of
    the nearest denser cell (itself for the densest cell of an image), ``densest`` whether it is that cell.
    """

    cell: Array
    image: Array
    density: Array
    delta: Array
    parent: Array
    densest: Array


def density_peaks(
    weights: Array,
    *,
    cutoff: float,
    min_density: float = 0.1,
    min_distance: float = 2.0,
    n_centres: Array | None = None,
    prominence: float | None = None,
) -> DensityPeaks:
    """Find the density peaks of each heatmap and assign every cell of positive weight to one of them.

    Parameters
    ----------
    weights
        (N, H, W), finite, >= 0. Cells of weight 0 neither count nor belong to a cluster.
    cutoff
        d_c in cells: rho_i = sum_j w_j exp(-(d_ij / d_c)**2).
    min_density
        0 … 1. A centre's density is at least this share of the greatest density of its image. With ``prominence``, from
        which share on a local maximum's density counts in full; above 0.1.
    min_distance
        A centre is at least this many cells away from the nearest denser cell. Only local maxima of the density can
        be centres, so that values up to 2 make no difference. The densest cell of an image is a centre in any case.
        Not read with ``prominence``.
    n_centres
        (N,) integers. Where >= 0, the image gets the ``n_centres`` local maxima with the greatest ``rho * delta``
        instead (all, if there are fewer); where negative, the two thresholds or ``prominence`` decide.
    prominence
        Above 0, at most 1; None for the two thresholds. A local maximum i from which the density falls to saddle_i
        before it rises to a denser one is m_i of a centre, with ``top`` the image's greatest density: ::

            m_i = clip((rho_i / top - 0.1) / (min_density - 0.1), 0, 1) * min(1, (rho_i - saddle_i) / top / prominence)

        Centres are the densest cell and as many others as the sum of their m_i says, rounded, those with the greatest
        m_i (ties: the denser, then the lower row-major index).

    Returns
    -------
    DensityPeaks

    Raises
    ------
    ValueError
        If a weight is negative or not finite, or a parameter lies outside its range. A device marks the images whose
        weights are so; see `pc_engine.kernels.cuda`.

    Notes
    -----
    Rodriguez & Laio, "Clustering by fast search and find of density peaks", Science 344:1492, 2014, doi
    10.1126/science.1242072. Cells are in a total order: denser is the higher rho, among equals the lower row-major
    index; of several nearest denser cells the one of the lowest index is taken. A cell with a denser cell among its 8
    neighbours has its nearest denser cell there, so that only local maxima look at the whole grid: O(H W) for each
    local maximum in place of each cell, with the same result. The density is a separable convolution.

    A saddle is the highest pass over which a path through cells of positive weight, from one to one of its 8
    neighbours, leads to a denser cell; 0 where none does. If all densities change by at most e, the rho_i - saddle_i,
    sorted, change by at most 2 e: Cohen-Steiner, Edelsbrunner & Harer, "Stability of persistence diagrams", Discrete &
    Computational Geometry 37:103, 2007, doi 10.1007/s00454-006-1276-5. The distance to the nearest denser cell may
    change by any amount. And a sum of shares is rounded once, where each local maximum may cross a threshold.
    """
    xp = get_array_module(weights)
    check_positive(cutoff, "cutoff")
    if not 0 <= min_density <= 1:
        raise ValueError(f"min_density must be between 0 and 1, but is {min_density}.")
    if not min_distance >= 0:
        raise ValueError(f"min_distance must be at least 0 cells, but is {min_distance}.")
    if prominence is not None:
        _check_prominence(prominence, min_density)
    wanted = None if n_centres is None else checked_counts(n_centres, weights, "n_centres")
    device = device_of(weights)
    if device is not None:
        settings = tuple(map(xp.float64, (cutoff, min_density, min_distance, prominence or 0)))
        return _on_device(device, device_weights(weights, "density_peaks"), settings, wanted)
    heat = checked_weights(weights, "density_peaks")

    # Cells of weight 0 stand below every density, so that they are never denser than anything.
    density = xp.where(heat > 0, _gaussian_density(xp, heat, cutoff), -1.0)
    parent = _denser_neighbour(xp, density)
    maxima = _local_maxima(xp, density, parent)
    if prominence is None:
        stands_out = _above_thresholds(density, maxima, min_density, min_distance)
    else:
        stands_out = _prominent(maxima, density, saddles(density, parent, maxima.cell), min_density, prominence)
    parent[maxima.cell] = maxima.parent
    centre, number, n_clusters = _centres(xp, maxima, len(heat), stands_out, wanted)

    cells = maxima.cell[centre]
    parent[cells] = cells
    label_of_cell = xp.full(heat.size, -1, dtype=xp.int32)
    label_of_cell[cells] = number
    labels = label_of_cell[roots(parent)].reshape(heat.shape)
    delta = xp.full(heat.size, math.nan)
    delta[maxima.cell] = maxima.delta
    centres = xp.full((len(heat), int(n_clusters.max()) if len(heat) else 0, 2), math.nan)
    row, column = xp.divmod(cells % (heat.shape[1] * heat.shape[2]), heat.shape[2])
    centres[maxima.image[centre], number] = xp.stack([column, row], axis=1)
    return DensityPeaks(labels, n_clusters, xp.maximum(density, 0), delta.reshape(heat.shape), centres)


def _check_prominence(prominence: float, min_density: float) -> None:
    if not 0 < prominence <= 1:
        raise ValueError(f"prominence must be above 0 and at most 1, but is {prominence}.")
    if not min_density > LEAST_DENSITY:
        raise ValueError(f"With a prominence min_density must be above {LEAST_DENSITY}, but is {min_density}.")


def _gaussian_density(xp: ModuleType, heat: Array, cutoff: float) -> Array:
    """Return rho (N, H, W), rounded so that equal densities compare equal."""
    _, height, width = heat.shape
    density = _gaussian(xp, height, cutoff) @ heat @ _gaussian(xp, width, cutoff)
    _, exponent = xp.frexp(density.max(axis=(1, 2), keepdims=True))
    return xp.ldexp(xp.rint(xp.ldexp(density, _DENSITY_BITS - exponent)), exponent - _DENSITY_BITS)


def _gaussian(xp: ModuleType, size: int, cutoff: float) -> Array:
    """Symmetric matrix (size, size) of exp(-(d / cutoff)**2) between positions on one axis."""
    position = xp.arange(size, dtype=xp.float64)
    return xp.exp(-(((position[:, None] - position) / cutoff) ** 2))


def _denser_neighbour(xp: ModuleType, density: Array) -> Array:
    """Flat index (N*H*W,) of each cell's nearest denser neighbour among 8; its own index where there is none."""
    count, height, width = density.shape
    padded = xp.full((count, height + 2, width + 2), -1.0)
    padded[:, 1:-1, 1:-1] = density
    # A byte a cell: the greatest preference among the denser neighbours, 0 for none.
    preference = xp.zeros(density.shape, dtype=xp.uint8)
    for rank, (dy, dx) in enumerate(_NEIGHBOURS):
        neighbour = padded[:, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
        # Among equals the lower row-major index is the denser cell.
        denser = neighbour >= density if (dy, dx) < (0, 0) else neighbour > density
        xp.maximum(preference, denser * xp.uint8(len(_NEIGHBOURS) - rank), out=preference)
    preference *= density >= 0
    step = xp.asarray([0] + [dy * width + dx for dy, dx in reversed(_NEIGHBOURS)])
    return xp.arange(density.size) + step[preference.ravel()]


def _local_maxima(xp: ModuleType, density: Array, parent: Array) -> _LocalMaxima:
    """Measure delta at the cells of positive weight that name themselves in ``parent``."""
    _, height, width = density.shape
    cell = xp.flatnonzero((parent == xp.arange(density.size)) & (density.ravel() >= 0))
    step = max(1, _PAIRS_AT_ONCE // (height * width))
    # At least one part, be it empty: a batch may hold no heat at all.
    firsts = range(0, max(len(cell), 1), step)
    parts = [_nearest_denser(xp, density, cell[first : first + step]) for first in firsts]
    parent, squared, densest = (xp.concatenate(column) for column in zip(*parts, strict=True))
    return _LocalMaxima(
        cell=cell,
        image=cell // (height * width),
        density=density.ravel()[cell],
        delta=xp.sqrt(squared.astype(xp.float64)),
        parent=parent,
        densest=densest,
    )


def _nearest_denser(xp: ModuleType, density: Array, cell: Array) -> tuple[Array, Array, Array]:
    """For M cells the nearest denser cell, the squared distance to it, and whether there is none.

    Where there is none the cell names itself, and the distance is that to the farthest cell of positive weight.
    """
    _, height, width = density.shape
    here = cell % (height * width)
    row, column = xp.divmod(here, width)
    squared = (
        (xp.arange(height) - row[:, None])[:, :, None] ** 2 + (xp.arange(width) - column[:, None])[:, None, :] ** 2
    ).reshape(len(cell), height * width)
    others, denser = _denser_cells(xp, density, cell)
    beyond_grid = height * height + width * width
    to_denser = xp.where(denser, squared, beyond_grid)
    nearest = to_denser.argmin(axis=1)
    distance = xp.take_along_axis(to_denser, nearest[:, None], axis=1)[:, 0]
    densest = distance == beyond_grid
    distance[densest] = xp.where(others[densest] >= 0, squared[densest], 0).max(axis=1)
    return xp.where(densest, cell, cell - here + nearest), distance, densest


def _denser_cells(xp: ModuleType, density: Array, cell: Array) -> tuple[Array, Array]:
    """For M cells the densities of their image's cells (M, H*W), and which of these are denser."""
    count, height, width = density.shape
    image, here = xp.divmod(cell, height * width)
    others = density.reshape(count, height * width)[image]
    own = density.ravel()[cell][:, None]
    lower_index = xp.arange(height * width) < here[:, None]
    return others, (others > own) | ((others == own) & lower_index)


def _above_thresholds(density: Array, maxima: _LocalMaxima, min_density: float, min_distance: float) -> Array:
    """Whether each local maximum is dense enough, and far enough from a denser cell, or the densest of its image."""
    top = density.max(axis=(1, 2))[maxima.image]
    return maxima.densest | ((maxima.density >= min_density * top) & (maxima.delta >= min_distance))


def _prominent(maxima: _LocalMaxima, density: Array, saddle: Array, min_density: float, prominence: float) -> Array:
    """Whether each local maximum is the densest of its image or among the heaviest, as many as their masses sum to."""
    xp = get_array_module(density)
    count = len(density)
    top = density.max(axis=(1, 2))[maxima.image]
    share = xp.clip((maxima.density / top - LEAST_DENSITY) / (min_density - LEAST_DENSITY), 0, 1)
    share[maxima.densest] = 0
    mass = share * (xp.minimum((maxima.density - saddle) / top, prominence) / prominence)
    mass = xp.ldexp(xp.rint(xp.ldexp(mass, _MASS_BITS)), -_MASS_BITS)
    others = xp.floor(xp.bincount(maxima.image, weights=mass, minlength=count) + 0.5)
    # By image, then the densest, mass, density, index; the last key is the primary one.
    keys = [maxima.cell.astype(xp.float64), -maxima.density, -mass, ~maxima.densest, maxima.image]
    order = xp.lexsort(xp.stack(keys))
    image = maxima.image[order]
    chosen = xp.zeros(len(order), dtype=bool)
    chosen[order] = position_in_image(image, count) <= others[image]
    return chosen


def _centres(
    xp: ModuleType, maxima: _LocalMaxima, count: int, stands_out: Array, wanted: Array | None
) -> tuple[Array, Array, Array]:
    """Choose the centres among the local maxima: their positions in ``maxima``, cluster numbers, and how many (N,)."""
    gamma = maxima.density * maxima.delta
    # By image, then gamma, density, index; the last key is the primary one.
    order = xp.lexsort(xp.stack([maxima.cell.astype(xp.float64), -maxima.density, -gamma, maxima.image]))
    image, chosen = maxima.image[order], stands_out[order]
    if wanted is not None:
        quota = wanted[image]
        chosen = xp.where(quota >= 0, position_in_image(image, count) < quota, chosen)
    order, image = order[chosen], image[chosen]
    return order, position_in_image(image, count), xp.bincount(image, minlength=count)


def _on_device(device: Device, heat: Array, settings: tuple[Any, ...], wanted: Array | None) -> DensityPeaks:
    """Launch the kernel in ``cuda/density_peaks.cu``."""
    xp = get_array_module(heat)
    count, height, width = heat.shape
    slots = ((height + 1) // 2) * ((width + 1) // 2)
    peaks = DensityPeaks(
        labels=xp.empty(heat.shape, dtype=xp.int32),
        n_clusters=xp.empty(count, dtype=xp.int64),
        density=xp.empty(heat.shape),
        delta=xp.empty(heat.shape),
        centres=xp.empty((count, slots, 2)),
    )
    device.launch(
        "density_peaks",
        heat,
        no_array(xp) if wanted is None else wanted,
        *map(xp.int32, (height, width, slots)),
        *settings,
        *vars(peaks).values(),
        blocks=count,
        tasks=height * width,
        # Prominences take two more arrays of cells.
        doubles=(5 if settings[-1] > 0 else 3) * height * width + max(height, width),
        ints=3 * height * width,
    )
    return peaks
