"""Each kernel on a GPU: the NumPy reference's results, and its rate beside that of a large copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

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
        Arrays whose first axis is the batch.
    run
        Takes the inputs, on any device, and returns its results.
    tolerance
        Largest difference relative to the largest value; 0 where results have to be equal.
    read
        Bytes that it has to read an image, where that is not all of the inputs.
    """

    kernel: str
    inputs: Mapping[str, np.ndarray]
    run: Callable[[Mapping[str, Array]], tuple[Array, ...]]
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
    expected = case.run(few)
    results = case.run(placed)
    difference = largest_difference(tuple(to_host(found)[:_CHECKED] for found in results), expected)
    row = {"kernel": case.kernel, "batch": batch, "difference": difference, "within": difference <= case.tolerance}
    if not difference <= case.tolerance:
        return {**row, "reason": "It differs from the NumPy reference: not timed, as a wrong result has no speed."}
    seconds = job.meter.seconds(lambda: case.run(placed), queued=True)
    read = batch * case.read if case.read is not None else sum(array.nbytes for array in case.inputs.values())
    rate = (read + sum(found.nbytes for found in results)) / seconds
    return {
        **row,
        "us_per_image": 1e6 * seconds / batch,
        "gb_per_s": rate / 1e9,
        "share_of_copy": rate / bandwidth,
    }


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

    yield DeviceCase("channel_max fp32", {"maps": maps}, lambda x: (channel_max(x["maps"]),))
    yield DeviceCase("channel_max fp16", {"maps": half}, lambda x: (channel_max(x["maps"]),))
    for name, array in (("fp32", maps), ("fp16", half)):
        yield DeviceCase(
            f"selected_heatmap {name} ({_LAST} + {_PREV} maps)",
            {"maps": array, "last": last, "prev": prev},
            lambda x: (selected_heatmap([(x["maps"], x["last"]), (x["maps"], x["prev"])], 2.0),),
            1e-4,
            read=(_LAST + _PREV) * (cells * array.itemsize + last.itemsize),
        )
    yield DeviceCase("mean_heatmap fp32", {"maps": maps}, lambda x: (mean_heatmap(x["maps"]),), 1e-4)
    yield DeviceCase("mean_heatmap fp16", {"maps": half}, lambda x: (mean_heatmap(x["maps"]),), 1e-3)
    for name, array in (("fp32", maps), ("fp16", half)):
        yield DeviceCase(
            f"weighted_heatmap {name}",
            {"maps": array, "weights": evidence},
            lambda x: (weighted_heatmap(x["maps"], x["weights"], 0.5),),
            1e-4,
        )
        yield DeviceCase(
            f"top_weights {name} ({_LAST} maps)",
            {"maps": array, "weights": evidence},
            lambda x: (top_weights(x["maps"], x["weights"], _LAST),),
            1e-6,
        )
        yield DeviceCase(
            f"finite_images {name}",
            {"maps": array, "features": features.astype(array.dtype)},
            lambda x: (finite_images([x["maps"], x["features"]]),),
        )
    yield DeviceCase("scale_to_peak", {"heat": heat}, lambda x: (scale_to_peak(x["heat"]),))
    for most, grid in ((cells // 4, f"{_GRID} x {_GRID}"), (4 * cells, f"{4 * _GRID} x {4 * _GRID}")):
        rows = rng.random((batch, most, 5))
        rows[:, most // 2 :] = np.nan
        yield DeviceCase(f"sort_rows (pointers of {grid} cells)", {"rows": rows}, lambda x: (sort_rows(x["rows"], 4),))
    yield DeviceCase(
        f"select_maps ({_PREV} maps)",
        {"maps": maps, "prev": prev},
        lambda x: (select_maps(x["maps"], x["prev"]),),
        read=_PREV * (cells * maps.itemsize + prev.itemsize),
    )
    yield DeviceCase(
        f"normalise_heatmap ({_PREV} maps)", {"stack": stack}, lambda x: (normalise_heatmap(x["stack"], 2.0),), 1e-4
    )
    yield DeviceCase("resize_maps", {"maps": coarse}, lambda x: (resize_maps(x["maps"], _GRID, _GRID),), 1e-5)
    yield DeviceCase("count SVM scores", {"conv_last": maps, "fc6": features}, lambda x: (svm.scores(x),), 1e-3)
    yield DeviceCase("weighted_gmm (1 to 4 components)", {"heat": heat, "counts": counts}, _mixtures, 1e-2)
    yield DeviceCase("density_peaks", {"heat": heat}, lambda x: _clusters(find_peaks(x["heat"])))
    yield DeviceCase(
        "density_peaks (by prominence)", {"heat": heat}, lambda x: _clusters(find_prominent_peaks(x["heat"]))
    )
    yield DeviceCase(
        "cluster_boxes",
        {"labels": found.labels, "density": found.density, "n": found.n_clusters},
        lambda x: (find_boxes(x["labels"], x["density"], x["n"], slots=slots).boxes,),
        1e-6,
    )
    yield DeviceCase(
        "cluster_boxes (between cells)",
        {"labels": found.labels, "heat": heat, "n": found.n_clusters},
        lambda x: (find_boxes(x["labels"], x["heat"], x["n"], interpolate=True, slots=slots).boxes,),
        1e-6,
    )
    yield DeviceCase(
        "cluster_moments",
        {"labels": found.labels, "density": found.density, "n": found.n_clusters},
        lambda x: (cluster_moments(x["labels"], x["density"], x["n"], slots=slots).means,),
        1e-6,
    )
    yield DeviceCase(
        "merge_clusters",
        {"labels": parts.labels, "heat": heat, "n": parts.n_clusters, "counts": counts},
        lambda x: (unite_clusters(x["labels"], x["heat"], x["n"], x["counts"], slots=most_parts).labels,),
    )
    yield from _channels_last_cases(rng, batch)
    yield DeviceCase("dbscan", {"heat": relative}, lambda x: _clusters(find_dense_cells(x["heat"])))


def _channels_last_cases(rng: np.random.Generator, batch: int) -> Iterator[DeviceCase]:
    """Yield what a network with its channels last passes through, of VGG's and MobileNet's sizes."""
    some = np.maximum(rng.standard_normal(1 << 22, np.float32), 0).astype(np.float16)
    block = np.resize(some, (batch, 56, 56, 128))  # so many random ones would take longer than all kernels
    last = np.maximum(rng.standard_normal((batch, _GRID, _GRID, _CHANNELS), np.float32), 0).astype(np.float16)
    pixels = rng.integers(0, 256, (batch, 112, 112, 3), np.uint8)
    filters = rng.standard_normal((3, 3, 128), np.float32).astype(np.float16)
    yield DeviceCase("max_pool fp16", {"maps": block}, lambda x: (max_pool(x["maps"], (2, 2), (2, 2)),))
    yield DeviceCase(
        "depthwise_convolution fp16 (3 x 3)",
        {"maps": block, "filters": filters},
        lambda x: (_depthwise(x["maps"], x["filters"]),),
        1e-3,
    )
    middle = np.maximum(rng.standard_normal((batch, 96, _GRID * _GRID), np.float32), 0).astype(np.float16)
    yield DeviceCase(
        "matrix_products fp16 (co-occurrence of 96 maps)",
        {"rows": middle},
        lambda x: (matrix_products(x["rows"], x["rows"].transpose(0, 2, 1)),),
        1e-3,
    )
    yield DeviceCase("to_planes fp16", {"maps": last}, lambda x: (to_planes(x["maps"]),))
    yield DeviceCase(
        "pixel_columns (3 columns)",
        {"images": pixels},
        lambda x: (pixel_columns(x["images"], 1.0, window=3, pads=(1, 1), channels=16),),
    )
    first = (rng.standard_normal((_FIRST, 3, 3, 4), np.float32) / 256).astype(np.float16)
    yield DeviceCase(
        f"pixel_convolution (3 x 3, {_FIRST} filters)",
        {"images": pixels, "filters": first, "bias": np.ascontiguousarray(first[:, 1, 1, 3])},
        lambda x: (_convolved_pixels(x["images"], x["filters"], x["bias"]),),
        1e-3,
    )


def _convolved_pixels(images: Array, filters: Array, bias: Array) -> Array:
    return pixel_convolution(images, filters, bias, 1.0, pads=(1, 1, 1, 1), bounds=(0, np.inf))


def _depthwise(maps: Array, filters: Array) -> Array:
    return depthwise_convolution(maps, filters, filters[0, 0], pads=(1, 1, 1, 1), bounds=(0, 6))


def _clusters(found: DensityPeaks | WeightedDbscan) -> tuple[Array, ...]:
    return found.labels, found.n_clusters


def _mixtures(x: Mapping[str, Array]) -> tuple[Array, ...]:
    found = fit_mixtures(x["heat"], x["counts"], variance_floor=_VARIANCE_FLOOR, max_components=_MOST_COMPONENTS)
    return found.means, found.mixing


def _counter(rng: np.random.Generator) -> CountSVM:
    sizes = {"conv_last": _CHANNELS * _GRID * _GRID, "fc6": _FC}
    weights = {
        name: rng.standard_normal((len(DEFAULT_LABELS), size)).astype(np.float32) for name, size in sizes.items()
    }
    return CountSVM(tuple(sizes), DEFAULT_LABELS, weights, np.zeros(len(DEFAULT_LABELS), np.float32))
