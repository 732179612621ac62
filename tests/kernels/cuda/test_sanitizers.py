"""g++'s sanitizers find nothing in the kernels, and would: every barrier that is left out is reported as a race."""

import dataclasses

import numpy as np
import pytest

from pc_engine.kernels import (
    channel_max,
    cluster_boxes,
    cluster_moments,
    dbscan,
    density_peaks,
    depthwise_convolution,
    finite_images,
    matrix_products,
    max_pool,
    mean_heatmap,
    merge_clusters,
    pixel_columns,
    pixel_convolution,
    resize_maps,
    scale_to_peak,
    selected_heatmap,
    sort_rows,
    to_planes,
    top_weights,
    unit_products,
    weighted_gmm,
    weighted_heatmap,
)
from pc_engine.kernels.cuda import FOLDER, STATIC_SHARED_BYTES, cuda_source

SOURCES = sorted(path.stem for path in FOLDER.glob("*.cu"))
_REPORTED = 66
_ATTEMPTS = 4
_INCLUDE = '#include "block.cuh"'
_WITH_STATE_IN_ARRAY = {
    source: cuda_source(source, state_in_array=True)
    for source in SOURCES
    if "BLOCK_STATE(arena)" in cuda_source(source)
}
_SHARED_LINES = (FOLDER / "block.cuh").read_text(encoding="utf-8").count("\n")


def barriers():
    """Sources, and the lines of their barriers in the text that is compiled."""
    found = []
    for source in SOURCES:
        before = (FOLDER / f"{source}.cu").read_text(encoding="utf-8").splitlines().index(_INCLUDE)
        for number, line in enumerate(cuda_source(source).splitlines(), start=1):
            shared = before < number <= before + _SHARED_LINES
            # One source that uses all of the shared reductions stands for the others.
            if "__syncthreads();" in line and (not shared or source == "weighted_gmm"):
                found.append(pytest.param(source, number, id=f"{source}-{number}"))
    return found


def run_all(host, bumps):
    heats = bumps([3, 4], size=9, seed=2)
    maps = np.maximum(np.random.default_rng(0).standard_normal((2, 9, 6, 6)), 0).astype(np.float32)
    indices = np.arange(14).reshape(2, 7) % 9
    corners = np.zeros((1, 60, 60))
    corners[0, 0, 0], corners[0, -1, -1], corners[0, 30, 20] = 1.0, 0.75, 1e-3
    host(dbscan, np.concatenate([heats, 0 * heats]), eps=1.5, min_weight=0.5)
    many_peaks = np.random.default_rng(0).random((2, 9, 9))
    peaks = host(density_peaks, many_peaks, cutoff=0.4, n_centres=np.array([5, -1]))
    host(density_peaks, many_peaks, cutoff=0.4, min_density=0.5, prominence=0.2)
    host(cluster_boxes, peaks.labels, peaks.density, peaks.n_clusters, trim=0.3, interpolate=True, slots=25)
    host(cluster_moments, peaks.labels, peaks.density, peaks.n_clusters, slots=25)
    host(merge_clusters, peaks.labels, peaks.density, peaks.n_clusters, np.array([2, 4]), slots=25)
    unions = {"valley_power": 3, "variance_floor": 0.1, "reach": 2.0, "slots": 25}
    host(merge_clusters, peaks.labels, peaks.density, peaks.n_clusters, np.array([1, 3]), **unions)
    host(weighted_gmm, heats, np.array([3, 2]), max_components=3, max_iter=4)
    far = np.array([[[0.0, 0.0], [59.0, 59.0]]])
    host(weighted_gmm, corners, np.array([2]), max_components=2, means_init=far, max_iter=2)
    host(channel_max, maps)
    host(mean_heatmap, maps)
    host(mean_heatmap, np.ones_like(maps), 1.0, 0.05)
    host(weighted_heatmap, maps, maps[:, :, 0, 0], 0.5)
    host(top_weights, maps, maps[:, :, 0, 0], 4)
    host(resize_maps, maps, 9, 5)
    host(scale_to_peak, heats)
    host(sort_rows, many_peaks, 3)
    taps = [np.ones((2, 400), np.float32), np.ones((2, 7), np.float32)]
    taps[1][:, 6] = np.nan
    host(finite_images, taps)
    host(selected_heatmap, [(maps, indices)] * 2)
    host(to_planes, maps)
    host(unit_products, maps.reshape(2, -1), np.ones((5, 9 * 36), np.float32))
    rows = np.arange(2 * 33 * 34, dtype=np.float32).reshape(2, 33, 34)
    host(matrix_products, rows, rows.transpose(0, 2, 1))
    host(max_pool, maps, (3, 2), (2, 2), (1, 0, 1, 1))
    host(max_pool, np.zeros((2, 4, 4, 16), np.float16), (2, 2), (2, 2))
    for channels in (3, 8):
        maps_of_four, filters = np.ones((2, 4, 4, channels), np.float16), np.ones((3, 3, channels), np.float16)
        host(depthwise_convolution, maps_of_four, filters, filters[0, 0], stride=(2, 1), pads=(1, 1, 1, 1))
    images = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    host(pixel_columns, images, 1.0, window=3, pads=(1, 1), channels=16)
    for window, filters in (((1, 1), 8), ((2, 3), 16), ((3, 3), 72)):
        of_pixels = np.ones((filters, *window, 4), np.float16)
        host(pixel_convolution, images, of_pixels, of_pixels[:, 0, 0, 0], 1.0, stride=(2, 1), pads=(1, 1, 1, 1))


@pytest.fixture(scope="module")
def launched(make_host, bumps):
    host = make_host(threads=5, block_bytes=227 << 10)
    run_all(host, bumps)
    return host.cupy


@pytest.fixture(scope="module")
def under_thread_sanitizer(launched, replay, tmp_path_factory):
    return replay("thread", launched, tmp_path_factory.mktemp("races"))


@pytest.fixture(scope="module")
def under_address_sanitizer(launched, replay, tmp_path_factory):
    return replay("address,undefined", launched, tmp_path_factory.mktemp("addresses"))


@pytest.fixture(scope="module")
def with_state_in_arrays(make_host, bumps, replay, tmp_path_factory):
    host = make_host(threads=5, block_bytes=STATIC_SHARED_BYTES)
    run_all(host, bumps)
    # The other modules are those of the fixture above.
    host.cupy.modules = [module for module in host.cupy.modules if module.code in _WITH_STATE_IN_ARRAY.values()]
    return replay("address,undefined", host.cupy, tmp_path_factory.mktemp("arrays"))


def assert_clean(replay):
    done = replay.run()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("done") == len(replay.launches) > 0


@pytest.mark.parametrize("source", SOURCES)
def test_no_race(under_thread_sanitizer, source):
    assert_clean(under_thread_sanitizer[cuda_source(source)])


@pytest.mark.parametrize("source", SOURCES)
def test_no_access_beyond_an_array_and_nothing_undefined(under_address_sanitizer, source):
    assert_clean(under_address_sanitizer[cuda_source(source)])


@pytest.mark.parametrize("source", _WITH_STATE_IN_ARRAY)
def test_no_access_beyond_the_array_of_a_state(with_state_in_arrays, source):
    assert_clean(with_state_in_arrays[_WITH_STATE_IN_ARRAY[source]])


@pytest.mark.parametrize("source", SOURCES)
def test_an_array_too_small_is_reported(under_address_sanitizer, launched, source, tmp_path):
    replay = under_address_sanitizer[cuda_source(source)]
    launch = next(one for one in launched.launches if f"({one.kernel}, " in cuda_source(source))
    last = max(n for n, argument in enumerate(launch.arguments) if isinstance(argument, np.ndarray))
    arguments = [argument.ravel()[:-1] if n == last else argument for n, argument in enumerate(launch.arguments)]
    short = dataclasses.replace(launch, arguments=arguments).write(tmp_path / "short")
    done = dataclasses.replace(replay, launches=[short]).run()
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr
    assert done.returncode == _REPORTED


@pytest.mark.parametrize(("source", "line"), barriers())
def test_a_barrier_left_out_is_reported(under_thread_sanitizer, source, line):
    # ThreadSanitizer remembers a few accesses to each place, by chance which: a race may escape it once.
    for _ in range(_ATTEMPTS):
        done = under_thread_sanitizer[cuda_source(source)].run(omit_barrier_at_line=line)
        if done.returncode:
            break
    assert "ThreadSanitizer: data race" in done.stderr
    assert done.returncode == _REPORTED
