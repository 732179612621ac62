"""Each kernel checked against an oracle, then timed beside working image by image and beside the memory bandwidth."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

from pc_engine.bench.environment import describe_environment, seconds_of
from pc_engine.bench.kernel_oracles import (
    CUTOFF,
    EPS,
    MAX_ITER,
    MIN_DENSITY,
    MIN_DISTANCE,
    MIN_WEIGHT,
    TOL,
    TRIM,
    VARIANCE_FLOOR,
    boxes_of,
    dbscan_of,
    heat_of,
    means_of,
    mixture_of,
    peaks_of,
    resized,
)
from pc_engine.counter import DEFAULT_LABELS
from pc_engine.errors import BackendError, UsageError
from pc_engine.kernels import (
    channel_max,
    cluster_boxes,
    cluster_moments,
    dbscan,
    density_peaks,
    l2_normalise,
    mean_heatmap,
    normalise_heatmap,
    resize_maps,
    select_maps,
    selected_heatmap,
    unit_products,
    weighted_gmm,
    weighted_heatmap,
)
from pc_engine.kernels.density_peaks import DensityPeaks

#: Sizes of the method (paper 3.1, 4): maps that a signature selects, and the length of fc6 and fc7.
_SELECTED, _FC = 70, 8192
# The mode of operations that are timed as a part of another one already.
_INSIDE = "inside selected_heatmap"
# Integer heat: scikit-learn's mixture takes no weights, so its sample repeats each cell as often as its heat says.
_HEAT_LEVELS = 50
_COPIED_BYTES = 1 << 28
_REPEATS = 7
#: The slow peers are timed on this many images at most.
_PEER_IMAGES = 16


@dataclass(frozen=True)
class KernelRate:
    """How fast a kernel is.

    Attributes
    ----------
    kernel, mode
        Its name, and the mode whose sum it counts to (``"c2p"``, ``"p2c"``, or ``"p2c --cluster dbscan"``).
    peer
        What it was checked against and is compared with, image by image.
    ms, peer_ms
        Milliseconds an image: best of several runs on the batch, one core.
    speedup
        ``peer_ms / ms``.
    bytes
        Bytes an image that have to be moved at the least: inputs read once and results written once.
    bandwidth_share
        Rate of those bytes over that of a large copy; above 1 where the batch stays in the caches.
    """

    kernel: str
    mode: str
    peer: str
    ms: float
    peer_ms: float
    speedup: float
    bytes: int
    bandwidth_share: float


@dataclass(frozen=True)
class KernelReport:
    """Rates of all kernels. ``bandwidth_gb_s`` counts bytes read and bytes written of a large copy on one core."""

    grid: int
    batch: int
    channels: int
    bandwidth_gb_s: float
    kernels: tuple[KernelRate, ...]
    machine: dict[str, Any] = field(default_factory=lambda: describe_environment("scikit-learn", "scipy"))

    @property
    def sums_ms(self) -> dict[str, float]:
        """Milliseconds an image over the kernels of each mode, and over all without counting any twice."""
        modes = dict.fromkeys(rate.mode for rate in self.kernels)
        sums = {mode: sum(rate.ms for rate in self.kernels if rate.mode == mode) for mode in modes}
        return {**sums, "all": sum(ms for mode, ms in sums.items() if mode != _INSIDE)}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "grid": self.grid,
            "batch": self.batch,
            "channels": self.channels,
            "bandwidth_gb_s": self.bandwidth_gb_s,
            "kernels": [asdict(rate) for rate in self.kernels],
            "sum_ms": self.sums_ms,
            "machine": self.machine,
        }


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


def measure_kernels(
    *, grid: int = 14, batch: int = 64, channels: int = 512, progress: Callable[[str, int, int], None] = lambda *_: None
) -> KernelReport:
    """Check and time all kernels on made-up feature maps, (batch, channels, grid, grid) float32.

    Raises
    ------
    UsageError
        If a size is too small to be one.
    BackendError
        If a kernel disagrees with its oracle. Then nothing is timed.
    """
    for name, value, least in (("grid", grid, 7), ("batch", batch, 1), ("channels", channels, 1)):
        if value < least:
            raise UsageError(f"--{name} is {value}, expected a number of at least {least}.")
    cases = list(kernel_cases(made_up_maps(batch, channels, grid)))
    with threadpool_limits(1), _quiet_mixtures():
        for case in cases:
            check(case, batch)
        bandwidth = copy_bandwidth()
        rates = []
        for place, case in enumerate(cases):
            progress(case.kernel, place, len(cases))
            rates.append(_timed(case, batch, bandwidth))
    return KernelReport(grid, batch, channels, bandwidth / 1e9, tuple(rates))


def made_up_maps(batch: int, channels: int, grid: int, seed: int = 0) -> np.ndarray:
    """Return maps (batch, channels, grid, grid) float32 of one to four bumps an image, with noise, clamped at 0."""
    rng = np.random.default_rng(seed)
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


def kernel_cases(maps: np.ndarray, seed: int = 0) -> Iterator[Case]:
    """Yield every kernel on ``maps`` (N, C, H, W) with what each reads in the modes."""
    rng = np.random.default_rng(seed)
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
    peaks = _peaks(signature_heat)
    slots = int(peaks.n_clusters.max())
    evidence = rng.standard_normal((n, channels), np.float32)

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
        "l2_normalise",
        "features alone",
        "sklearn normalize",
        lambda: l2_normalise(features),
        lambda i: normalize(features[i : i + 1])[0],
        (features, features),
        1e-5,
    )
    yield Case(
        "mean_heatmap",
        "c2p",
        "NumPy",
        lambda: mean_heatmap(maps, 1.0),
        lambda i: heat_of(maps[i].mean(axis=0, keepdims=True), 1.0),
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
        lambda i: heat_of(maps[i][chosen[i]], 1.0),
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
        lambda i: heat_of(stack[i], 1.0),
        (stack, heat),
        1e-5,
    )
    yield Case(
        "density_peaks",
        "p2c",
        "NumPy, all pairs of cells",
        lambda: _peaks(signature_heat).labels,
        lambda i: peaks_of(signature_heat[i]),
        (signature_heat, peaks.labels, peaks.density),
    )
    yield Case(
        "cluster_boxes",
        "p2c",
        "SciPy find_objects",
        lambda: _filled(cluster_boxes(peaks.labels, peaks.density, peaks.n_clusters, trim=TRIM).boxes),
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
        "dbscan",
        "p2c --cluster dbscan",
        "sklearn DBSCAN",
        lambda: dbscan(relative, eps=EPS, min_weight=MIN_WEIGHT).labels,
        lambda i: dbscan_of(relative[i]),
        (relative, peaks.labels),
    )


def check(case: Case, batch: int) -> None:
    """Raise BackendError unless the kernel gives what its peer gives, image by image."""
    found = case.run()
    for i in range(batch):
        expected = np.asarray(case.peer(i), np.float64)
        difference = float(np.abs(found[i] - expected).max()) if expected.size else 0.0
        if not difference <= case.tolerance * max(float(np.abs(expected).max(initial=0)), 1.0):
            raise BackendError(
                f"The kernel {case.kernel} differs from {case.peer_name} by {difference:.2g} on image {i}: nothing was "
                f"timed, as a wrong result has no speed."
            )


def copy_bandwidth() -> float:
    """Return bytes per second, read and written, of copying an array that no cache holds."""
    source = np.ones(_COPIED_BYTES // 8)
    target = np.zeros_like(source)
    return 2 * _COPIED_BYTES / min(seconds_of(lambda: np.copyto(target, source)) for _ in range(_REPEATS))


def _timed(case: Case, batch: int, bandwidth: float) -> KernelRate:
    few = min(batch, _PEER_IMAGES)
    seconds = min(seconds_of(case.run) for _ in range(_REPEATS)) / batch
    slow = min(seconds_of(lambda: [case.peer(i) for i in range(few)]) for _ in range(3)) / few
    moved = sum(array.nbytes for array in case.moved) // batch
    return KernelRate(
        case.kernel,
        case.mode,
        case.peer_name,
        1e3 * seconds,
        1e3 * slow,
        slow / seconds,
        moved,
        moved / seconds / bandwidth,
    )


@contextmanager
def _quiet_mixtures() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, that a mixture has not converged
        yield


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
    found = weighted_gmm(heat, counts, max_iter=MAX_ITER, tol=TOL, variance_floor=VARIANCE_FLOOR, means_init=starts)
    return np.concatenate([found.means, found.mixing[..., None]], axis=2)


def _peaks(heat: np.ndarray) -> DensityPeaks:
    return density_peaks(heat, cutoff=CUTOFF, min_density=MIN_DENSITY, min_distance=MIN_DISTANCE)


def _filled(boxes: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(boxes), -1.0, boxes)
