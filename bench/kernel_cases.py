"""The kernels at work on made-up feature maps, each beside an oracle that does the same image by image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.preprocessing import normalize

from pc_engine.bench.kernel_oracles import (
    VARIANCE_FLOOR,
    boxes_of,
    dbscan_of,
    heat_of,
    means_of,
    mixture_of,
    peaks_of,
    prominences_of,
    resized,
    unions_of,
)
from pc_engine.bench.kernel_settings import (
    find_all_peaks,
    find_boxes,
    find_dense_cells,
    find_peaks,
    find_prominent_peaks,
    fit_mixtures,
    unite_clusters,
)
from pc_engine.fitted.counter import DEFAULT_LABELS
from pc_engine.kernels import (
    channel_max,
    cluster_moments,
    finite_images,
    mean_heatmap,
    normalise_heatmap,
    resize_maps,
    scale_to_peak,
    select_maps,
    selected_heatmap,
    sort_rows,
    top_weights,
    unit_products,
    weighted_heatmap,
)

# The mode of operations that are timed as a part of another one already, and of those that belong to all modes.
_INSIDE, _EVERY = "inside selected_heatmap", "every mode"
# Sizes of the method (paper 3.1, 4): maps that a signature selects, and the length of fc6 and fc7.
_SELECTED, _FC = 70, 8192
# Maps that the evidence selects.
_TOP = 20
# Integer heat: scikit-learn's mixture takes no weights, so its sample repeats each cell as often as its heat says.
_HEAT_LEVELS = 50


@dataclass(frozen=True)
class Case:
    """A kernel on a batch, and the same work image by image.

    Attributes
    ----------
    run
        Returns what is compared, an array whose first axis is the batch.
    peer
        Returns the same for image n.
    tolerance
        Largest difference of any value, relative to the largest value of the peer.
    moved
        Arrays that are read, and written, at the least.
    """

    kernel: str
    mode: str
    peer_name: str
    run: Callable[[], np.ndarray]
    peer: Callable[[int], np.ndarray]
    moved: tuple[np.ndarray, ...]
    tolerance: float = 0.0


def made_up_maps(batch: int, channels: int, grid: int) -> np.ndarray:
    """Return maps (batch, channels, grid, grid) float32 of one to four bumps an image, with noise, clamped at 0."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:grid, :grid]
    heat = np.zeros((batch, grid, grid))
    for image in heat:
        for _ in range(rng.integers(1, 5)):
            y, x = rng.uniform(1, grid - 2, 2)
            width = rng.uniform(0.06, 0.14) * grid
            image += rng.uniform(0.5, 1) * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * width**2))
    gain = rng.random((batch, channels, 1, 1), np.float32)
    noise = rng.standard_normal((batch, channels, grid, grid), np.float32)
    maps: np.ndarray = np.maximum(heat[:, None].astype(np.float32) * gain + np.float32(0.05) * noise, 0)
    return maps


def kernel_cases(maps: np.ndarray) -> Iterator[Case]:
    """Yield every kernel on ``maps`` (N, C, H, W) with what each reads in the modes."""
    rng = np.random.default_rng(0)
    n, channels = maps.shape[:2]
    pooled = maps[:, :, ::2, ::2].reshape(n, -1)
    features = np.concatenate([pooled, np.maximum(rng.standard_normal((n, _FC), np.float32), 0)], axis=1)
    mean = maps.mean(axis=1, keepdims=True)
    heat = normalise_heatmap(mean, 1.0)
    levels = np.rint(heat / heat.max(axis=(1, 2), keepdims=True) * _HEAT_LEVELS).astype(np.float64)
    counts = np.full(n, 3)
    starts = _starts(levels, 3)
    chosen = rng.integers(0, channels, (n, min(_SELECTED, channels)))
    stack = select_maps(maps, chosen)
    coarse = np.ascontiguousarray(stack[:, :, ::2, ::2])
    signature_heat = normalise_heatmap(stack, 1.0).astype(np.float64)
    relative = signature_heat / signature_heat.mean(axis=(1, 2), keepdims=True)
    peaks = find_peaks(signature_heat)
    slots = int(peaks.n_clusters.max())
    parts = find_all_peaks(signature_heat)
    evidence = rng.standard_normal((n, channels), np.float32)
    top = min(_TOP, channels - 1)
    pointers = rng.random((n, -(-maps.shape[2] // 2) * -(-maps.shape[3] // 2), 5))

    weights = rng.standard_normal((len(DEFAULT_LABELS), features.shape[1]), np.float32)
    yield Case(
        f"unit_products ({len(weights)} labels)",
        "c2p",
        "sklearn normalize, NumPy",
        lambda: unit_products(features, weights),
        lambda i: weights @ normalize(features[i : i + 1])[0],
        (features, features[:, : len(weights)]),
        1e-4,
    )
    yield Case(
        "mean_heatmap",
        "c2p",
        "NumPy",
        lambda: mean_heatmap(maps, 1.0),
        lambda i: heat_of(maps[i].mean(axis=0, keepdims=True)),
        (maps, heat),
        1e-5,
    )
    yield Case(
        "weighted_gmm (3 components)",
        "c2p",
        "sklearn GaussianMixture",
        lambda: _mixtures(levels, counts, starts),
        lambda i: mixture_of(levels[i], starts[i]),
        (levels, starts),
        1e-4,
    )
    yield Case(
        "channel_max",
        "fit-signatures",
        "NumPy",
        lambda: channel_max(maps),
        lambda i: np.array([one.max() for one in maps[i]]),
        (maps, maps[:, :, 0, 0]),
    )
    yield Case(
        f"selected_heatmap ({chosen.shape[1]} maps)",
        "p2c",
        "NumPy",
        lambda: selected_heatmap([(maps, chosen)], 1.0),
        lambda i: heat_of(maps[i][chosen[i]]),
        (stack, heat, chosen),
        1e-5,
    )
    yield Case(
        "weighted_heatmap",
        "p2c without signatures",
        "NumPy",
        lambda: weighted_heatmap(maps, evidence),
        lambda i: np.maximum(np.einsum("c,chw->hw", evidence[i], maps[i]), 0),
        (maps, heat, evidence),
        1e-4,
    )
    yield Case(
        f"top_weights ({top} maps)",
        "p2c without signatures",
        "NumPy",
        lambda: top_weights(maps, evidence, top),
        lambda i: _top_of(maps[i], evidence[i], top),
        (maps, evidence, evidence),
    )
    yield Case(
        "finite_images",
        _EVERY,
        "NumPy",
        lambda: finite_images([maps])[:, None],
        lambda i: np.isfinite(maps[i]).reshape(1, -1).all(axis=1),
        (maps,),
    )
    yield Case(
        "scale_to_peak",
        "combined",
        "NumPy",
        lambda: scale_to_peak(signature_heat),
        lambda i: signature_heat[i] / signature_heat[i].max(),
        (signature_heat, signature_heat),
    )
    yield Case(
        "sort_rows (pointers)",
        _EVERY,
        "NumPy lexsort",
        lambda: sort_rows(pointers, 4),
        lambda i: pointers[i][np.lexsort([-pointers[i, :, 4]])],
        (pointers, pointers),
    )
    yield Case(
        f"select_maps ({chosen.shape[1]} maps)",
        _INSIDE,
        "NumPy",
        lambda: select_maps(maps, chosen),
        lambda i: maps[i][chosen[i]],
        (stack, stack, chosen),
    )
    yield Case(
        "resize_maps (to twice the grid)",
        "p2c, layers of two grids",
        "SciPy map_coordinates",
        lambda: resize_maps(coarse, 2 * coarse.shape[2], 2 * coarse.shape[3]),
        lambda i: resized(coarse[i]),
        (coarse, np.repeat(coarse, 4, axis=1)),
        1e-5,
    )
    yield Case(
        f"normalise_heatmap ({chosen.shape[1]} maps)",
        _INSIDE,
        "NumPy",
        lambda: normalise_heatmap(stack, 1.0),
        lambda i: heat_of(stack[i]),
        (stack, heat),
        1e-5,
    )
    yield Case(
        "density_peaks",
        "p2c",
        "NumPy, all pairs of cells",
        lambda: find_peaks(signature_heat).labels,
        lambda i: peaks_of(signature_heat[i]),
        (signature_heat, peaks.labels, peaks.density),
    )
    yield Case(
        "density_peaks (by prominence)",
        "p2c with a prominence",
        "NumPy, a falling flood",
        lambda: _prominent(signature_heat),
        lambda i: prominences_of(signature_heat[i]),
        (signature_heat, peaks.labels, peaks.density),
    )
    yield Case(
        "cluster_boxes",
        "p2c",
        "SciPy find_objects",
        lambda: _filled(find_boxes(peaks.labels, peaks.density, peaks.n_clusters).boxes),
        lambda i: boxes_of(peaks.labels[i], peaks.density[i], slots),
        (peaks.labels, peaks.density),
    )
    yield Case(
        "cluster_moments",
        "combined",
        "SciPy center_of_mass",
        lambda: _filled(cluster_moments(peaks.labels, peaks.density, peaks.n_clusters).means),
        lambda i: means_of(peaks.labels[i], peaks.density[i], slots),
        (peaks.labels, peaks.density),
        1e-9,
    )
    yield Case(
        "merge_clusters",
        "combined, the embedded model",
        "SciPy center_of_mass, all pairs",
        lambda: unite_clusters(parts.labels, signature_heat, parts.n_clusters, counts).labels,
        lambda i: unions_of(parts.labels[i], signature_heat[i], int(counts[i])),
        (parts.labels, signature_heat),
    )
    yield Case(
        "dbscan",
        "p2c --cluster dbscan",
        "sklearn DBSCAN",
        lambda: find_dense_cells(relative).labels,
        lambda i: dbscan_of(relative[i]),
        (relative, peaks.labels),
    )


def _starts(heat: np.ndarray, k: int) -> np.ndarray:
    """Return means (N, k, 2) as (x, y) to start from: cells of the heat, spread over its order of rows."""
    starts = np.empty((len(heat), k, 2))
    for image, cells in zip(starts, heat, strict=True):
        y, x = np.nonzero(cells)
        picked = np.linspace(0, len(y) - 1, k).astype(int)
        image[:] = np.stack([x[picked], y[picked]], axis=1)
    return starts


def _mixtures(heat: np.ndarray, counts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the means and mixture weights (N, K, 3)."""
    found = fit_mixtures(heat, counts, variance_floor=VARIANCE_FLOOR, means_init=starts)
    return np.concatenate([found.means, found.mixing[..., None]], axis=2)


def _prominent(heat: np.ndarray) -> np.ndarray:
    """Return maps (N, H, W) with 1 at the density peaks by prominence, 0 elsewhere."""
    centres = find_prominent_peaks(heat).centres
    image, slot = np.nonzero(~np.isnan(centres[..., 0]))
    x, y = centres[image, slot].astype(int).T
    found = np.zeros(heat.shape)
    found[image, y, x] = 1
    return found


def _top_of(maps: np.ndarray, weights: np.ndarray, top: int) -> np.ndarray:
    """Return the weights (C,) of the maps (C, H, W) that add most, 0 for the others."""
    added = weights * np.array([one.mean() for one in maps])
    kept = np.zeros_like(weights)
    chosen = np.argsort(added)[-top:]
    kept[chosen] = weights[chosen]
    return kept


def _filled(boxes: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(boxes), -1.0, boxes)
