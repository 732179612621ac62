"""Each kernel on a GPU: the NumPy reference's results, and its rate beside that of a large copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from pc_engine.bench.gpu.device import copy_rate
from pc_engine.bench.gpu.report import Row, measured
from pc_engine.bench.gpu.subjects import Job
from pc_engine.bench.kernel_cases import made_up_maps
from pc_engine.bench.kernel_settings import (
    find_all_peaks,
    find_boxes,
    find_dense_cells,
    find_peaks,
    find_prominent_peaks,
    fit_mixtures,
    unite_clusters,
)
from pc_engine.fitted.counter import DEFAULT_LABELS, CountSVM
from pc_engine.kernels import (
    DensityPeaks,
    WeightedDbscan,
    channel_max,
    cluster_moments,
    depthwise_convolution,
    finite_images,
    matrix_products,
    max_pool,
    mean_heatmap,
    normalise_heatmap,
    pixel_columns,
    pixel_convolution,
    resize_maps,
    scale_to_peak,
    select_maps,
    selected_heatmap,
    sort_rows,
    to_planes,
    top_weights,
    weighted_heatmap,
)
from pc_engine.kernels.array_module import Array, to_host

#: Enough images that their maps, 200 MB, are several times the second-level cache of any card.
BATCH = 512
_CHANNELS, _GRID, _FC = 512, 14, 4096
_LAST, _PREV = 20, 50
# Filters of VGG's first layer.
_FIRST = 64
# Images that results are compared on: NumPy takes its time.
_CHECKED = 64
_VARIANCE_FLOOR = 0.35**2
_MOST_COMPONENTS = 4


@dataclass(frozen=True)
class DeviceCase:
    """A kernel, what it reads, and how near the NumPy reference its results have to be.

    Attributes
    ----------
    kernel
        Its name.
    inputs
        Arrays whose first axis is the batch, by the names that ``run`` takes them by.
    run
        Returns its result, or several, on the device of the inputs.
    tolerance
        Largest difference relative to the largest value; 0 where results have to be equal.
    read
        Bytes that it has to read an image, where that is not all of the inputs.
    """

    kernel: str
    inputs: Mapping[str, np.ndarray]
    run: Callable[..., Array]
    tolerance: float = 0.0
    read: int | None = None


def measure_kernels(job: Job, _: object = None) -> Iterator[Row]:
    """Yield the rate of a large copy, then each kernel: its difference from NumPy, its time, its share of that rate."""
    bandwidth = copy_rate(job.meter)
    yield {"kernel": "copy", "gb_per_s": bandwidth / 1e9}
    for case in device_cases():
        yield measured({"kernel": case.kernel}, case_row, case, job, bandwidth)


def case_row(case: DeviceCase, job: Job, bandwidth: float) -> Row:
    """Return what there is to say about one kernel; without a time where its results are wrong."""
    batch = len(next(iter(case.inputs.values())))
    placed = {name: job.meter.place(array) for name, array in case.inputs.items()}
    few = {name: array[:_CHECKED] for name, array in case.inputs.items()}
    expected, results = _results(case, few), _results(case, placed)
    difference = largest_difference(tuple(to_host(found)[:_CHECKED] for found in results), expected)
    row = {"kernel": case.kernel, "batch": batch, "difference": difference, "within": difference <= case.tolerance}
    if not difference <= case.tolerance:
        return {**row, "reason": "It differs from the NumPy reference: not timed, as a wrong result has no speed."}
    seconds = job.meter.seconds(lambda: case.run(**placed), queued=True)
    read = batch * case.read if case.read is not None else sum(array.nbytes for array in case.inputs.values())
    rate = (read + sum(found.nbytes for found in results)) / seconds
    return {
        **row,
        "us_per_image": 1e6 * seconds / batch,
        "gb_per_s": rate / 1e9,
        "share_of_copy": rate / bandwidth,
    }


def _results(case: DeviceCase, inputs: Mapping[str, Array]) -> tuple[Array, ...]:
    found = case.run(**inputs)
    return found if isinstance(found, tuple) else (found,)


def largest_difference(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> float:
    """Return the largest difference of any value, relative to the largest expected one of its array, or to 1.

    Slots that one of both leaves unused (NaN) have to be unused in the other, unless it has more of them; infinite
    where that, or a shape, differs.
    """
    worst = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        if ours.ndim != theirs.ndim:
            return np.inf
        # Where nobody asked how many clusters there are, a device makes room for as many as there are cells.
        shared = tuple(slice(min(a, b)) for a, b in zip(ours.shape, theirs.shape, strict=True))
        a, b = (array[shared].astype(np.float64) for array in (ours, theirs))
        if not np.array_equal(np.isnan(a), np.isnan(b)) or len(a) != len(theirs):
            return np.inf
        used = ~np.isnan(b)
        if used.any():
            largest = max(float(np.abs(b[used]).max()), 1.0)
            worst = max(worst, float(np.abs(a[used] - b[used]).max()) / largest)
    return worst


def device_cases(batch: int = BATCH) -> Iterator[DeviceCase]:
    """Yield every kernel with inputs as VGG gives them: ``batch`` images of 512 maps of 14 x 14 cells."""
    rng = np.random.default_rng(0)
    maps = made_up_maps(batch, _CHANNELS, _GRID)
    half = maps.astype(np.float16)
    features = np.maximum(rng.standard_normal((batch, _FC), np.float32), 0)
    last, prev = (np.argsort(rng.random((batch, _CHANNELS)), axis=1)[:, :k].astype(np.int32) for k in (_LAST, _PREV))
    evidence = rng.standard_normal((batch, _CHANNELS), np.float32)
    stack = select_maps(maps, prev)
    coarse = np.ascontiguousarray(maps[:, :_PREV, ::2, ::2])
    heat = normalise_heatmap(stack, 1.0)
    relative = heat / heat.mean(axis=(1, 2), keepdims=True)
    counts = rng.integers(1, _MOST_COMPONENTS + 1, batch)
    found = find_peaks(heat)
    slots = found.centres.shape[1]
    parts = find_all_peaks(heat)
    most_parts = parts.centres.shape[1]
    svm = _counter(rng)
    cells = _GRID * _GRID
    for name, array in (("fp32", maps), ("fp16", half)):
        yield DeviceCase(f"channel_max {name}", {"maps": array}, channel_max)
    for name, array in (("fp32", maps), ("fp16", half)):
        yield DeviceCase(
            f"selected_heatmap {name} ({_LAST} + {_PREV} maps)",
            {"maps": array, "last": last, "prev": prev},
            lambda maps, last, prev: selected_heatmap([(maps, last), (maps, prev)], 2.0),
            1e-4,
            read=(_LAST + _PREV) * (cells * array.itemsize + last.itemsize),
        )
    for name, array, tolerance in (("fp32", maps, 1e-4), ("fp16", half, 1e-3)):
        yield DeviceCase(f"mean_heatmap {name}", {"maps": array}, mean_heatmap, tolerance)
    for name, array in (("fp32", maps), ("fp16", half)):
        weighted = {"maps": array, "weights": evidence}
        yield DeviceCase(f"weighted_heatmap {name}", weighted, partial(weighted_heatmap, mean_factor=0.5), 1e-4)
        yield DeviceCase(f"top_weights {name} ({_LAST} maps)", weighted, partial(top_weights, top=_LAST), 1e-6)
        yield DeviceCase(
            f"finite_images {name}",
            {"maps": array, "features": features.astype(array.dtype)},
            lambda maps, features: finite_images([maps, features]),
        )
    yield DeviceCase("scale_to_peak", {"heat": heat}, scale_to_peak)
    for most, grid in ((cells // 4, f"{_GRID} x {_GRID}"), (4 * cells, f"{4 * _GRID} x {4 * _GRID}")):
        rows = rng.random((batch, most, 5))
        rows[:, most // 2 :] = np.nan
        yield DeviceCase(f"sort_rows (pointers of {grid} cells)", {"rows": rows}, partial(sort_rows, column=4))
    yield DeviceCase(
        f"select_maps ({_PREV} maps)",
        {"maps": maps, "indices": prev},
        select_maps,
        read=_PREV * (cells * maps.itemsize + prev.itemsize),
    )
    yield DeviceCase(f"normalise_heatmap ({_PREV} maps)", {"maps": stack}, normalise_heatmap, 1e-4)
    yield DeviceCase("resize_maps", {"maps": coarse}, partial(resize_maps, height=_GRID, width=_GRID), 1e-5)
    yield DeviceCase("count SVM scores", {"conv_last": maps, "fc6": features}, lambda **taps: svm.scores(taps), 1e-3)
    yield DeviceCase("weighted_gmm (1 to 4 components)", {"heat": heat, "counts": counts}, _mixtures, 1e-2)
    yield DeviceCase("density_peaks", {"heat": heat}, lambda heat: _clusters(find_peaks(heat)))
    yield DeviceCase(
        "density_peaks (by prominence)", {"heat": heat}, lambda heat: _clusters(find_prominent_peaks(heat))
    )
    clusters = {"labels": found.labels, "n_clusters": found.n_clusters}
    yield DeviceCase(
        "cluster_boxes", {**clusters, "density": found.density}, lambda **x: find_boxes(**x, slots=slots).boxes, 1e-6
    )
    yield DeviceCase(
        "cluster_boxes (between cells)",
        {**clusters, "density": heat},
        lambda **x: find_boxes(**x, interpolate=True, slots=slots).boxes,
        1e-6,
    )
    yield DeviceCase(
        "cluster_moments",
        {**clusters, "weights": found.density},
        lambda **x: cluster_moments(**x, slots=slots).means,
        1e-6,
    )
    yield DeviceCase(
        "merge_clusters",
        {"labels": parts.labels, "weights": heat, "n_clusters": parts.n_clusters, "wanted": counts},
        lambda **x: unite_clusters(**x, slots=most_parts).labels,
    )
    yield from _channels_last_cases(rng, batch)
    yield DeviceCase("dbscan", {"heat": relative}, lambda heat: _clusters(find_dense_cells(heat)))


def _channels_last_cases(rng: np.random.Generator, batch: int) -> Iterator[DeviceCase]:
    """Yield what a network with its channels last passes through, of VGG's and MobileNet's sizes."""
    some = np.maximum(rng.standard_normal(1 << 22, np.float32), 0).astype(np.float16)
    block = np.resize(some, (batch, 56, 56, 128))  # so many random ones would take longer than all kernels
    last = np.maximum(rng.standard_normal((batch, _GRID, _GRID, _CHANNELS), np.float32), 0).astype(np.float16)
    pixels = rng.integers(0, 256, (batch, 112, 112, 3), np.uint8)
    filters = rng.standard_normal((3, 3, 128), np.float32).astype(np.float16)
    around = (1, 1, 1, 1)
    yield DeviceCase("max_pool fp16", {"maps": block}, partial(max_pool, window=(2, 2), stride=(2, 2)))
    yield DeviceCase(
        "depthwise_convolution fp16 (3 x 3)",
        {"maps": block, "filters": filters},
        lambda maps, filters: depthwise_convolution(maps, filters, filters[0, 0], pads=around, bounds=(0, 6)),
        1e-3,
    )
    middle = np.maximum(rng.standard_normal((batch, 96, _GRID * _GRID), np.float32), 0).astype(np.float16)
    yield DeviceCase(
        "matrix_products fp16 (co-occurrence of 96 maps)",
        {"rows": middle},
        lambda rows: matrix_products(rows, rows.transpose(0, 2, 1)),
        1e-3,
    )
    yield DeviceCase("to_planes fp16", {"maps": last}, to_planes)
    yield DeviceCase(
        "pixel_columns (3 columns)",
        {"images": pixels},
        partial(pixel_columns, constant=1.0, window=3, pads=(1, 1), channels=16),
    )
    first = (rng.standard_normal((_FIRST, 3, 3, 4), np.float32) / 256).astype(np.float16)
    yield DeviceCase(
        f"pixel_convolution (3 x 3, {_FIRST} filters)",
        {"images": pixels, "weights": first, "bias": np.ascontiguousarray(first[:, 1, 1, 3])},
        partial(pixel_convolution, constant=1.0, pads=around, bounds=(0, np.inf)),
        1e-3,
    )


def _clusters(found: DensityPeaks | WeightedDbscan) -> tuple[Array, ...]:
    return found.labels, found.n_clusters


def _mixtures(heat: Array, counts: Array) -> tuple[Array, ...]:
    found = fit_mixtures(heat, counts, variance_floor=_VARIANCE_FLOOR, max_components=_MOST_COMPONENTS)
    return found.means, found.mixing


def _counter(rng: np.random.Generator) -> CountSVM:
    sizes = {"conv_last": _CHANNELS * _GRID * _GRID, "fc6": _FC}
    weights = {
        name: rng.standard_normal((len(DEFAULT_LABELS), size)).astype(np.float32) for name, size in sizes.items()
    }
    return CountSVM(tuple(sizes), DEFAULT_LABELS, weights, np.zeros(len(DEFAULT_LABELS), np.float32))
