"""What each kernel computes, for one image, the plain way or by scikit-learn and SciPy."""

from __future__ import annotations

import itertools

import numpy as np
from scipy import ndimage
from sklearn.cluster import DBSCAN
from sklearn.mixture import GaussianMixture

from pc_engine.bench.kernel_settings import (
    CUTOFF,
    EPS,
    MAX_ITER,
    MIN_DENSITY,
    MIN_DISTANCE,
    MIN_WEIGHT,
    PROMINENCE,
    REACH,
    SHAPE_FLOOR,
    TOL,
    TRIM,
    VALLEY_POWER,
)
from pc_engine.kernels.density_peaks import LEAST_DENSITY

# scikit-learn adds this to variances where the kernel takes a maximum; too small to tell.
VARIANCE_FLOOR = 1e-9


def heat_of(maps: np.ndarray) -> np.ndarray:
    """Return the heatmap (H, W) of maps (k, H, W): above their mean, summed (paper 4)."""
    heat: np.ndarray = np.maximum(maps - maps.mean(), 0).sum(axis=0)
    return heat


def mixture_of(heat: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return means and weights (K, 3) of scikit-learn's mixture of integer heat (H, W), from starts (K, 2) as (x, y).

    It takes no sample weights, so each cell is repeated as often as its heat says.
    """
    y, x = np.nonzero(heat)
    points = np.repeat(np.stack([x, y], axis=1), heat[y, x].astype(int), axis=0)
    k = len(starts)
    fitted = GaussianMixture(
        k,
        covariance_type="diag",
        reg_covar=VARIANCE_FLOOR,
        tol=TOL,
        max_iter=MAX_ITER,
        means_init=starts,
        weights_init=np.full(k, 1 / k),
        precisions_init=np.tile(1 / np.maximum(points.var(axis=0) / k, VARIANCE_FLOOR), (k, 1)),
        random_state=0,
    ).fit(points)
    return np.concatenate([fitted.means_, fitted.weights_[:, None]], axis=1)


def resized(maps: np.ndarray) -> np.ndarray:
    """Return maps (k, H, W) at twice the grid, with half-pixel centres and clamped edges."""
    k, height, width = maps.shape
    y, x = ((np.arange(2 * size) + 0.5) / 2 - 0.5 for size in (height, width))
    where = np.meshgrid(np.arange(k), y, x, indexing="ij")
    resized: np.ndarray = ndimage.map_coordinates(maps, where, order=1, mode="nearest")
    return resized


def peaks_of(heat: np.ndarray) -> np.ndarray:
    """Return the labels of density peaks over all pairs of cells of one image (Rodriguez & Laio 2014)."""
    cells = np.flatnonzero(heat > 0)
    y, x = np.divmod(cells, heat.shape[1])
    squared = (y[:, None] - y) ** 2 + (x[:, None] - x) ** 2
    density = np.exp(-squared / CUTOFF**2) @ heat.ravel()[cells]
    order = np.argsort(-density, kind="stable")
    labels = np.full(heat.size, -1)
    delta = np.full(len(cells), np.sqrt(squared[order[0]].max()))
    parent = np.full(len(cells), -1)
    for position, cell in enumerate(order[1:], start=1):
        denser = np.sort(order[:position])
        parent[cell] = denser[squared[cell, denser].argmin()]
        delta[cell] = np.sqrt(squared[cell, parent[cell]])
    outstanding = (density >= MIN_DENSITY * density.max()) & (delta >= MIN_DISTANCE)
    outstanding[order[0]] = True
    centres = [cell for cell in np.lexsort((-density, -density * delta)) if outstanding[cell]]
    for number, cell in enumerate(centres):
        labels[cells[cell]] = number
    for cell in order:
        if not outstanding[cell]:
            labels[cells[cell]] = labels[cells[parent[cell]]]
    return labels.reshape(heat.shape)


def prominences_of(heat: np.ndarray) -> np.ndarray:
    """Return the map (H, W) of one image with 1 at its density peaks by prominence, 0 elsewhere, by a falling flood."""
    size = range(max(heat.shape))
    near = np.exp(-(np.subtract.outer(size, size) ** 2) / CUTOFF**2)
    density = (near[: heat.shape[0], : heat.shape[0]] @ heat @ near[: heat.shape[1], : heat.shape[1]]).ravel()
    width = heat.shape[1]
    island: dict[int, int] = {}
    saddle: dict[int, float] = {}
    for cell in sorted(np.flatnonzero(heat).tolist(), key=lambda cell: (-density[cell], cell)):
        y, x = divmod(cell, width)
        around = itertools.product((-1, 0, 1), (-1, 0, 1))
        known = {(y + dy) * width + x + dx for dy, dx in around if 0 <= x + dx < width} & island.keys()
        # Peaks in the order in which they came out of the flood.
        touched = [peak for peak in saddle if peak in {island[other] for other in known}]
        if not touched:
            saddle[cell] = 0.0
        island[cell] = touched[0] if touched else cell
        for peak in touched[1:]:
            saddle[peak] = density[cell]
            island = {other: touched[0] if joined == peak else joined for other, joined in island.items()}
    found = np.zeros(heat.shape)
    peaks = list(saddle)
    if not peaks:
        return found
    top = density[peaks[0]]
    mass = {
        peak: min(max((density[peak] / top - LEAST_DENSITY) / (MIN_DENSITY - LEAST_DENSITY), 0), 1)
        * min((density[peak] - saddle[peak]) / top / PROMINENCE, 1)
        for peak in peaks[1:]
    }
    others = sorted(mass, key=lambda peak: -mass[peak])[: int(sum(mass.values()) + 0.5)]
    found.ravel()[[peaks[0], *others]] = 1
    return found


def boxes_of(labels: np.ndarray, density: np.ndarray, slots: int) -> np.ndarray:
    """Return the boxes (slots, 4) of the cells that are dense enough for their cluster, -1 in unused slots."""
    boxes = np.full((slots, 4), -1.0)
    peak = np.array(ndimage.maximum(density, labels, np.arange(slots)))
    kept = (labels >= 0) & (density >= TRIM * peak[labels])
    for number, found in enumerate(ndimage.find_objects(np.where(kept, labels + 1, 0), slots)):
        if found is not None:
            rows, columns = found
            boxes[number] = columns.start, rows.start, columns.stop, rows.stop
    return boxes


def means_of(labels: np.ndarray, weights: np.ndarray, slots: int) -> np.ndarray:
    """Return the weighted centre (slots, 2) as (x, y) of the cells of each cluster, -1 in unused slots."""
    means = np.full((slots, 2), -1.0)
    used = np.arange(labels.max() + 1)
    if len(used):
        means[used] = np.array(ndimage.center_of_mass(weights, labels, used))[:, ::-1]
    return means


def unions_of(labels: np.ndarray, weights: np.ndarray, wanted: int) -> np.ndarray:
    """Return the labels of an image once so many clusters are left: unions, and what is left out, that cost least."""
    labels, left = labels.copy(), list(range(labels.max() + 1))
    mass = np.array(ndimage.sum(weights, labels, left))
    mean = np.array(ndimage.center_of_mass(weights, labels, left))
    peak = np.array(ndimage.maximum(weights, labels, left))
    inside = labels >= 0
    apart = np.argwhere(inside) - mean[labels[inside]]
    whole = mass.sum()
    scatter = (weights[inside, None] * apart**2).sum(axis=0) / whole + SHAPE_FLOOR
    while len(left) > wanted:
        grown = {
            (a, b): mass[a] * mass[b] / (mass[a] + mass[b]) / whole * (mean[a] - mean[b]) ** 2
            for a, b in itertools.combinations(left, 2)
        }
        costs = {pair: 2 * (np.prod(scatter + by) - np.prod(scatter)) / scatter.sum() for pair, by in grown.items()}
        for pair, ridge in _ridges(labels, weights).items():
            costs[pair] *= (1 - ridge / peak[list(pair)].min()) ** VALLEY_POWER
        one, other = min(costs, key=lambda pair: costs[pair])
        lightest = min(left, key=lambda k: mass[k])
        if mass[lightest] / whole * REACH**2 < costs[one, other]:
            left.remove(lightest)
            labels[labels == lightest] = -1
            continue
        scatter += grown[one, other]
        together = mass[one] + mass[other]
        mean[one] = (mass[one] * mean[one] + mass[other] * mean[other]) / together
        mass[one] = together
        peak[one] = max(peak[one], peak[other])
        left.remove(other)
        labels[labels == other] = one
    for number, k in enumerate(left):
        labels[labels == k] = number
    return labels


def _ridges(labels: np.ndarray, weights: np.ndarray) -> dict[tuple[int, int], float]:
    """Return of each pair of clusters that touch the greatest weight that leads from one to the other."""
    highest: dict[tuple[int, int], float] = {}
    rows, columns = labels.shape
    for (y, x), (dy, dx) in itertools.product(np.ndindex(rows, columns), ((0, 1), (1, -1), (1, 0), (1, 1))):
        if y + dy < rows and 0 <= x + dx < columns and min(labels[y, x], labels[y + dy, x + dx]) >= 0:
            one, other = sorted((int(labels[y, x]), int(labels[y + dy, x + dx])))
            if one != other:
                height = min(weights[y, x], weights[y + dy, x + dx])
                highest[one, other] = max(height, highest.get((one, other), 0.0))
    return highest


def dbscan_of(heat: np.ndarray) -> np.ndarray:
    """Return scikit-learn's DBSCAN labels (H, W) of the cells of positive heat, -1 elsewhere."""
    labels = np.full(heat.shape, -1)
    cells = np.argwhere(heat > 0)
    if len(cells):
        weights = heat[heat > 0]
        labels[heat > 0] = DBSCAN(eps=EPS, min_samples=MIN_WEIGHT).fit(cells, sample_weight=weights).labels_
    return labels
