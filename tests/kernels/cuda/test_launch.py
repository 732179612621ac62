"""What stands between an operation and a kernel: the seam, the loader, the arguments."""

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
    get_array_module,
    matrix_products,
    max_pool,
    mean_heatmap,
    merge_clusters,
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
    unit_products,
    weighted_gmm,
    weighted_heatmap,
)
from pc_engine.kernels.cuda import COMPILE_OPTIONS, STATIC_SHARED_BYTES, device_of

HEAT = np.random.default_rng(0).integers(0, 5, (3, 6, 7)).astype(np.float32)
MAPS = np.random.default_rng(1).standard_normal((3, 8, 6, 7)).astype(np.float32)
INDICES = np.random.default_rng(2).integers(0, 8, (3, 4))
COUNTS = np.array([2, 0, 3])
PIXELS = np.zeros((1, 2, 2, 3), np.uint8)
FILTERS = np.zeros((8, 1, 1, 4), np.float16)


def operations(where):
    """Every operation that has a kernel, and its result."""
    peaks = density_peaks(where.put(HEAT), cutoff=1.0, n_centres=where.put(COUNTS))
    slots = peaks.centres.shape[1]
    clusters = dbscan(where.put(HEAT), eps=1.5, min_weight=9.0)
    taps = [where.put(MAPS.copy()), where.put(HEAT.copy())]
    return {
        "density_peaks_f32": peaks,
        "cluster_boxes_f64": cluster_boxes(peaks.labels, peaks.density, peaks.n_clusters, slots=slots),
        "cluster_moments_f32": cluster_moments(clusters.labels, where.put(HEAT), clusters.n_clusters),
        "dbscan_f32": clusters,
        "merge_clusters_f32": merge_clusters(clusters.labels, where.put(HEAT), clusters.n_clusters, where.put(COUNTS)),
        "cluster_boxes_f32": cluster_boxes(clusters.labels, where.put(HEAT), clusters.n_clusters),
        "weighted_gmm_f32": weighted_gmm(where.put(HEAT), where.put(COUNTS), max_components=3),
        "channel_max_f32": channel_max(where.put(MAPS)),
        "mean_heatmap_f32": mean_heatmap(where.put(MAPS)),
        "depthwise_convolution_f32": depthwise_convolution(*map(where.put, (MAPS, MAPS[0], MAPS[0, 0, 0]))),
        "weighted_heatmap_f32": weighted_heatmap(where.put(MAPS), where.put(MAPS[:, :, 0, 0])),
        "top_weights_f32": top_weights(where.put(MAPS), where.put(MAPS[:, :, 0, 0]), 3),
        "finite_images_f32": finite_images(taps),
        "clear_images_f32": taps[0],
        "scale_to_peak_f32": scale_to_peak(where.put(HEAT)),
        "sort_rows_f32": sort_rows(where.put(HEAT), 2, 4),
        "resize_maps_f32": resize_maps(where.put(MAPS), 4, 9),
        "matrix_products_f32": matrix_products(where.put(HEAT), where.put(HEAT.transpose(0, 2, 1))),
        "max_pool_f32": max_pool(where.put(MAPS), (2, 2)),
        "pixel_columns_f16": pixel_columns(where.put(PIXELS), 1.0, window=1, channels=4),
        "pixel_convolution_1_f16": pixel_convolution(*map(where.put, (PIXELS, FILTERS, FILTERS[:, 0, 0, 0]))),
        "unit_products_f32": unit_products(where.put(MAPS[0, 0]), where.put(MAPS[0, 1])),
        "to_planes_f32": to_planes(where.put(MAPS)),
        "selected_heatmap_f32": selected_heatmap([(where.put(MAPS), where.put(INDICES))]),
    }


def test_host_arrays_go_to_no_device(make_host):
    with make_host().active():
        assert device_of(HEAT) is None
        assert get_array_module(HEAT) is np


def test_each_operation_is_one_launch_or_two_that_wait_for_nothing(make_host):
    host = make_host()
    with host.active():
        found = operations(host)
    assert sorted(launch.kernel for launch in host.cupy.launches) == sorted(found)
    assert {launch.threads for launch in host.cupy.launches} == {6}


def test_more_vectors_than_a_kernel_takes_are_dealt_out(make_host):
    """In cuBLAS's product of all, a row's bits could depend on how many rows there are."""
    host = make_host()
    rows, weights = MAPS[:, 0].reshape(3, 42), np.arange(17 * 42, dtype=np.float32).reshape(17, 42)
    np.testing.assert_allclose(host(unit_products, rows, weights), unit_products(rows, weights), rtol=1e-5)
    assert [launch.kernel for launch in host.cupy.launches] == ["unit_products_f32"] * 3


def test_the_products_of_any_number_of_vectors_can_be_recorded(make_host):
    """CuPy copies the addresses of many arrays that it joins from the host, and a CUDA graph would do so each time."""
    host = make_host()
    weights = np.ones((100, 42), np.float32)
    assert host(unit_products, MAPS[:, 0].reshape(3, 42), weights).shape == (3, 100)


def test_feature_vectors_are_given_to_no_library_whose_rounding_may_depend_on_the_batch(make_host, monkeypatch):
    """CuPy's products are those of cuBLAS, which need not be installed either."""
    host = make_host()
    rows, weights = MAPS[:, 0].reshape(3, 42).astype(np.float64), np.arange(84, dtype=np.float32).reshape(2, 42)
    expected = unit_products(rows, weights)

    def refuse(*_):
        raise AssertionError("a product of matrices")

    for name in ("__matmul__", "__rmatmul__"):
        monkeypatch.setattr(host.cupy.ndarray, name, refuse, raising=False)
    for name in ("matmul", "dot", "einsum"):
        monkeypatch.setattr(host.cupy, name, refuse, raising=False)
    np.testing.assert_allclose(host(unit_products, rows, weights), expected, rtol=1e-5)
    assert [launch.kernel for launch in host.cupy.launches] == ["unit_products_f32"]


def test_operations_without_a_kernel_wait_for_nothing_either(make_host):
    host = make_host()
    np.testing.assert_array_equal(host(normalise_heatmap, MAPS), normalise_heatmap(MAPS))
    assert not host.cupy.launches


def test_maps_in_a_type_that_no_kernel_takes_are_left_to_the_array_library(make_host):
    host, maps = make_host(), MAPS.astype(np.float64)
    for operation, *args in [
        (channel_max, maps),
        (mean_heatmap, maps),
        (selected_heatmap, [(maps, INDICES)]),
        (weighted_heatmap, maps, maps[:, :, 0, 0]),
        (max_pool, maps, (2, 2)),
        (depthwise_convolution, maps, maps[0], maps[0, 0, 0]),
        (to_planes, maps),
    ]:
        np.testing.assert_array_equal(host(operation, *args), operation(*args), err_msg=operation.__name__)
    assert not host.cupy.launches


def test_each_source_is_compiled_once(make_host):
    host = make_host()
    with host.active():
        operations(host)
        operations(host)
    assert len(host.cupy.modules) == 15
    assert {module.options for module in host.cupy.modules} == {COMPILE_OPTIONS}
    assert not any('#include "' in module.code for module in host.cupy.modules)


def test_the_stand_in_notices_waiting(make_host, waited):
    host = make_host()
    with host.active():
        array = host.put(HEAT)
        for look in (bool, float, int, list):
            with pytest.raises(waited):
                look(array.max())
        with pytest.raises(waited):
            array[array > 0]
        with pytest.raises(waited):
            host.cupy.flatnonzero(array)


def test_the_stand_in_notices_arguments_that_do_not_fit_the_kernel(make_host):
    host = make_host()
    host(dbscan, HEAT, eps=1.0, min_weight=2.0)
    launch, kernel = host.cupy.launches[0], host.cupy.modules[0].get_function("dbscan_f32")

    def run(shared_bytes=launch.shared_bytes, **changed):
        arguments = [changed.get(f"argument_{n}", argument) for n, argument in enumerate(launch.arguments)]
        kernel((3,), (6,), tuple(host.put(one) for one in arguments), shared_mem=shared_bytes)

    run()
    for message, change in [
        ("beyond its", {"shared_bytes": launch.shared_bytes - 64}),
        ("wants f4", {"argument_0": HEAT.astype(float)}),
        ("wants i4", {"argument_1": np.int64(6)}),
        ("guess the type", {"argument_1": 6}),
    ]:
        with pytest.raises(AssertionError, match=message):
            run(**change)


def test_the_largest_count_is_read_from_where_it_lies(make_host, waited):
    host = make_host()
    with host.active():
        assert weighted_gmm(host.put(HEAT), COUNTS).means.shape == (3, 3, 2)
        with pytest.raises(waited):
            weighted_gmm(host.put(HEAT), host.put(COUNTS))


def test_a_block_gets_whole_warps_up_to_the_kernel_s_limit(make_host):
    host = make_host(threads=1024)
    with host.active():
        device = device_of(host.put(HEAT))
        assert [device.threads("dbscan", tasks) for tasks in (1, 49, 196, 784)] == [32, 64, 224, 256]
        assert device.threads("mean_heatmap", 100_000) == 1024


def test_kernels_may_use_all_of_a_block_s_memory(make_host):
    # 56x56 cells: 88 KiB for a mixture of two, where a launch gets 48 KiB unless the kernel was told.
    host = make_host(block_bytes=227 << 10)
    heat = np.zeros((1, 56, 56))
    heat[0, [3, 50], [3, 50]] = 1
    found = host(weighted_gmm, heat, np.array([2]), max_components=2)
    np.testing.assert_allclose(np.sort(found.means[0], axis=0), [[3, 3], [50, 50]])
    assert host.cupy.launches[0].shared_bytes > 48 << 10


def test_the_state_of_images_too_large_for_a_block_is_in_an_array(make_host):
    host, roomy = make_host(block_bytes=STATIC_SHARED_BYTES), make_host()
    with roomy.active():
        expected = operations(roomy)
    with host.active():
        found = operations(host)
    for one, other in zip(host.cupy.launches, roomy.cupy.launches, strict=True):
        assert (one.kernel, one.shared_bytes) == (other.kernel, 0)
        assert len(one.arguments) == len(other.arguments) + 2 * (other.shared_bytes > 0)
    for name, result in expected.items():
        for field in getattr(result, "__dataclass_fields__", [None]):
            one, other = (each if field is None else getattr(each, field) for each in (found[name], result))
            np.testing.assert_array_equal(one.get(), other.get(), err_msg=f"{name} {field}")


def test_bad_heat_costs_its_own_image_there_too(make_host):
    host = make_host(block_bytes=STATIC_SHARED_BYTES)
    heat = HEAT.copy()
    heat[1, 2, 3] = np.nan
    assert host(density_peaks, heat, cutoff=1.0).n_clusters.tolist()[1] == -1
    assert host(weighted_gmm, heat, np.ones(3, int), max_components=1).n_components_.tolist() == [1, -1, 1]


def test_prominences_and_soft_clamps_are_one_launch_that_waits_for_nothing(make_host):
    host, roomy = make_host(block_bytes=STATIC_SHARED_BYTES), make_host()
    for where in (host, roomy):
        found = where(density_peaks, HEAT, cutoff=0.7, min_density=0.5, prominence=0.2)
        expected = density_peaks(HEAT, cutoff=0.7, min_density=0.5, prominence=0.2)
        np.testing.assert_array_equal(found.labels, expected.labels)
        where(mean_heatmap, MAPS, 1.0, 0.05)
        assert [launch.kernel for launch in where.cupy.launches] == ["density_peaks_f32", "mean_heatmap_f32"]
    assert [launch.shared_bytes > 0 for launch in (*host.cupy.launches, *roomy.cupy.launches)] == [0, 0, 1, 1]


def test_prominences_alone_make_a_state_larger(make_host):
    host = make_host()
    for prominence in (None, 0.2):
        host(density_peaks, HEAT, cutoff=1.0, min_density=0.5, prominence=prominence)
    sizes = [launch.shared_bytes for launch in host.cupy.launches]
    assert sizes[1] - sizes[0] == 2 * 8 * HEAT[0].size


def test_an_empty_batch_launches_nothing(make_host):
    host = make_host()
    assert host(density_peaks, HEAT[:0], cutoff=1.0).labels.shape == (0, 6, 7)
    assert host(dbscan, HEAT[:0], eps=1.0, min_weight=1.0).labels.shape == (0, 6, 7)
    assert host(weighted_gmm, HEAT[:0], COUNTS[:0], max_components=4).means.shape == (0, 4, 2)
    assert host(channel_max, MAPS[:0]).shape == (0, 8)
    assert host(mean_heatmap, MAPS[:0]).shape == (0, 6, 7)
    assert host(selected_heatmap, [(MAPS[:0], INDICES[:0])]).shape == (0, 6, 7)
    assert host(finite_images, [MAPS[:0]]).shape == (0,)
    assert host(scale_to_peak, HEAT[:0]).shape == (0, 6, 7)
    assert host(sort_rows, HEAT[:0], 0).shape == (0, 6, 7)
    assert host(sort_rows, HEAT, 0, 0).shape == (3, 0, 7)
    assert host(top_weights, MAPS[:0], MAPS[:0, :, 0, 0], 1).shape == (0, 8)
    assert not host.cupy.launches


def test_taps_go_through_as_few_launches_as_their_types_allow(make_host):
    host = make_host()
    taps = [*(MAPS[:, :channels] for channels in range(1, 9)), MAPS[:, 0, 0, :0], MAPS[:, 0, 0], COUNTS]
    taps += [MAPS.astype(np.float16), MAPS.astype(np.float64)]
    with host.active():
        given = [host.put(np.ascontiguousarray(tap)) for tap in taps]
        assert finite_images(given).get().all()
        # In the place of one that does not lie in a row a copy would be cleared.
        assert finite_images([given[0].transpose(0, 2, 3, 1)[:, :, ::2]]).get().all()
    kernels = [f"{kernel}_{kind}" for kernel in ("finite_images", "clear_images") for kind in ("f16", "f32", "f32")]
    assert [launch.kernel for launch in host.cupy.launches] == kernels
    # 6 threads read 768 bytes, which four maps of 168 bytes are less than, or eight of half as many.
    assert [launch.blocks for launch in host.cupy.launches] == [3, 3 * (4 * 1 + 4 * 2), 3, 3, 3, 3]


def test_shapes_and_settings_are_refused_on_a_device_too(make_host):
    host = make_host()
    for message, operation, *args in [
        ("shape", dbscan, HEAT[0], {"eps": 1.0, "min_weight": 1.0}),
        ("eps", dbscan, HEAT, {"eps": -1.0, "min_weight": 1.0}),
        ("cutoff", density_peaks, HEAT, {"cutoff": 0.0}),
        ("prominence", density_peaks, HEAT, {"cutoff": 1.0, "min_density": 0.5, "prominence": 2.0}),
        ("min_density", density_peaks, HEAT, {"cutoff": 1.0, "prominence": 0.2}),
        ("n_centres", density_peaks, HEAT, {"cutoff": 1.0, "n_centres": COUNTS[:2]}),
        ("max_iter", weighted_gmm, HEAT, COUNTS, {"max_iter": 0}),
        ("max_components", weighted_gmm, HEAT, COUNTS, {"max_components": -1}),
        ("means_init", weighted_gmm, HEAT, COUNTS, {"max_components": 3, "means_init": np.zeros((3, 2, 2))}),
        ("same shape", cluster_boxes, np.zeros((3, 6, 6), int), HEAT, COUNTS, {}),
        ("trim", cluster_boxes, np.zeros((3, 6, 7), int), HEAT, COUNTS, {"trim": 2.0}),
        ("slots", cluster_boxes, np.zeros((3, 6, 7), int), HEAT, COUNTS, {"slots": -1}),
        ("floating-point", mean_heatmap, MAPS.astype(int), {}),
        ("softness", mean_heatmap, MAPS, {"softness": -1.0}),
        ("integer indices", selected_heatmap, [(MAPS, INDICES.astype(float))], {}),
        ("at least one layer", selected_heatmap, [], {}),
    ]:
        with pytest.raises(ValueError, match=message):
            host(operation, *args[:-1], **args[-1])
    assert not host.cupy.launches


def test_maps_in_any_layout_and_type(make_host):
    host = make_host()
    channels_last = MAPS.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    for maps in (channels_last, MAPS.astype(np.float64), MAPS.astype(np.float16)):
        with host.active():
            given = host.put(maps.view())
            np.testing.assert_array_equal(np.asarray(channel_max(given)), channel_max(maps))
            np.testing.assert_allclose(np.asarray(mean_heatmap(given)), mean_heatmap(maps), rtol=1e-4, atol=1e-6)


def test_selecting_maps_on_a_device_waits_for_nothing(make_host):
    host = make_host()
    np.testing.assert_array_equal(host(select_maps, MAPS, INDICES), select_maps(MAPS, INDICES))
    found = host(select_maps, MAPS, np.where(INDICES[0, 0] == INDICES, 8, INDICES))
    np.testing.assert_array_equal(np.isnan(found[:, :, 0, 0]), INDICES[0, 0] == INDICES)
