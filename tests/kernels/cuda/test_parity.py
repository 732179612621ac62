"""Every kernel in CUDA C gives what the NumPy code gives, on ordinary and on adversarial heatmaps."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

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

FEW = settings(max_examples=60)
RADII = [0.5, 1.0, np.sqrt(2), 1.5, np.sqrt(5), 3.0, 40.0, 1e9]
GRIDS = [(7, 7), (14, 14), (28, 28), (10, 17), (1, 9), (23, 2), (1, 1)]


def small_heats(elements, dtype=np.float64):
    shape = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
    return arrays(dtype, shape, elements=elements)


def hard_heats(height, width):
    """Empty, one cell, flat, a chessboard, two far corners, mirrored blobs, a faint cell, 1e300, 1e-300, ties."""
    heats = np.zeros((10, height, width))
    heats[1, height // 2, width // 3] = 2.0
    heats[2] = 1.0
    heats[3] = np.indices((height, width)).sum(axis=0) % 2
    heats[4, 0, 0], heats[4, -1, -1] = 1.0, 0.75
    blob = np.exp(-((np.arange(height)[:, None] - height / 2) ** 2 + (np.arange(width) - width / 4) ** 2) / 3)
    heats[5] = blob + blob[:, ::-1]
    heats[6, 0, 0], heats[6, -1, width // 2] = 1.0, 1e-12
    heats[7] = blob * 1e300
    heats[8] = blob * 1e-300
    heats[9] = np.arange(height * width).reshape(height, width) % 5
    return heats


def real_heats(bumps, size, seed=0):
    return bumps([1, 2, 3, 4, 5, 2], size=size, seed=seed).astype(np.float32)


def assert_equal_slots(found, expected, **tolerance):
    """Equal in the slots that both have, and nothing in those that only one has."""
    slots = min(found.shape[1], expected.shape[1])
    np.testing.assert_allclose(found[:, :slots], expected[:, :slots], **{"rtol": 0, "atol": 0, **tolerance})
    rest = found[:, slots:]
    assert (np.isnan(rest) | (rest == 0)).all()


# DBSCAN


def assert_dbscan_agrees(device, heats, **parameters):
    found, expected = device(dbscan, heats, **parameters), dbscan(heats, **parameters)
    for field in fields(expected):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@given(
    small_heats(st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0])), st.sampled_from(RADII), st.sampled_from([0.1, 0.6, 1.1, 3])
)
@FEW
def test_dbscan_agrees_where_sums_meet_the_threshold(device, heats, eps, min_weight):
    # Sums of tenths depend on their order in the last bit: both have to add in the same.
    assert_dbscan_agrees(device, heats, eps=eps, min_weight=min_weight)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("eps", RADII)
def test_dbscan_agrees_on_hard_heatmaps(device, grid, eps):
    assert_dbscan_agrees(device, hard_heats(*grid), eps=eps, min_weight=2.0)


@pytest.mark.parametrize("size", [14, 28])
def test_dbscan_agrees_on_smooth_heatmaps(device, bumps, size):
    for min_weight in (0.3, 1.0, 2.5):
        assert_dbscan_agrees(device, real_heats(bumps, size), eps=1.5, min_weight=min_weight)


def test_dbscan_follows_a_winding_cluster(device):
    heat = np.zeros((1, 15, 15))
    heat[0, ::2] = 1
    heat[0, 1::4, -1] = heat[0, 3::4, 0] = 1
    assert_dbscan_agrees(device, heat, eps=1.0, min_weight=2)
    assert device(dbscan, heat, eps=1.0, min_weight=2).n_clusters.tolist() == [1]


# Density peaks


def assert_peaks_agree(device, heats, **parameters):
    """Compare with NumPy; return in how many images the densities were the same to the last bit, and of how many.

    Densities are rounded to 40 bits. If one lies at a tie of that rounding, the order of two equal cells may differ.
    """
    found, expected = device(density_peaks, heats, **parameters), density_peaks(heats, **parameters)
    peak = expected.density.max(axis=(1, 2), initial=0, keepdims=True)
    assert (abs(found.density - expected.density) <= 4e-12 * peak).all()
    same = (found.density == expected.density).all(axis=(1, 2))
    for name in ("labels", "n_clusters", "delta"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one[same], other[same])
    assert found.centres.shape[1] == -(-heats.shape[1] // 2) * -(-heats.shape[2] // 2)
    assert_equal_slots(found.centres[same], expected.centres[same])
    return same.sum(), len(same)


def test_peaks_agree_on_any_heatmap(device):
    compared = np.zeros(2)

    @given(
        # Numbers below the smallest normal one are zero on a GPU; see `pc_engine.kernels.cuda`.
        st.one_of(
            small_heats(st.integers(0, 3)), small_heats(st.floats(0, 1e6, width=32, allow_subnormal=False), np.float32)
        ),
        st.sampled_from([0.3, 1.0, 1.7, 6.0]),
        st.sampled_from([0.0, 0.2, 1.0]),
        st.sampled_from([0.0, 2.5, 4.0]),
        st.one_of(st.none(), st.integers(0, 99)),
        st.sampled_from([None, None, 1e-3, 0.2, 1.0]),
    )
    @settings(FEW, max_examples=200)
    def check(heats, cutoff, min_density, min_distance, seed, prominence):
        wanted = None if seed is None else np.random.default_rng(seed).integers(-1, 6, len(heats))
        limits = {"min_density": min_density, "min_distance": min_distance}
        if prominence is not None:
            limits |= {"min_density": min_density or 0.11, "prominence": prominence}
        compared[:] += assert_peaks_agree(device, heats, cutoff=cutoff, n_centres=wanted, **limits)

    check()
    assert compared[0] >= 0.98 * compared[1] > 0


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_peaks_agree_on_hard_heatmaps(device, grid):
    for chosen in ({}, {"min_density": 0.5, "prominence": 0.2}):
        cutoffs = (0.2, 1.0, 3.0)
        compared = [assert_peaks_agree(device, hard_heats(*grid), cutoff=c, **chosen) for c in cutoffs]
        same, count = np.sum(compared, axis=0)
        assert same >= count - 2


@pytest.mark.parametrize("size", [14, 28])
def test_peaks_agree_on_smooth_heatmaps(device, bumps, size):
    heats = real_heats(bumps, size)
    wanted = np.array([1, 2, 50, -1, 0, 3])
    by_prominence = {"min_density": 0.5, "prominence": 0.2}
    for parameters in (
        {},
        {"n_centres": wanted},
        {"min_density": 0.5, "min_distance": 4.0},
        by_prominence,
        {**by_prominence, "n_centres": wanted},
    ):
        same, count = assert_peaks_agree(device, heats, cutoff=1.0, **parameters)
        assert same == count


def test_peaks_agree_around_walls(device):
    heats = np.zeros((3, 15, 15))
    heats[:, ::2] = 1
    heats[:, 1::4, -1] = heats[:, 3::4, 0] = 1  # one way from a corner to the opposite one
    heats[1, 0, 0], heats[1, -1, -1] = 3, 2
    heats[2, ::2] += np.random.default_rng(0).random((8, 15))
    for cutoff in (0.2, 1.0):
        assert_peaks_agree(device, heats, cutoff=cutoff, min_density=0.5, prominence=0.2)


# Boxes


@given(
    arrays(np.int32, (2, 6, 7), elements=st.integers(-1, 3)),
    arrays(np.float64, (2, 6, 7), elements=st.integers(0, 5)),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    st.booleans(),
    st.sampled_from([None, 5]),
)
@FEW
def test_boxes_agree(device, labels, density, trim, interpolate, slots):
    n_clusters = labels.max(axis=(1, 2)).astype(np.int64) + 1
    found = device(cluster_boxes, labels, density, n_clusters, trim=trim, interpolate=interpolate, slots=slots)
    # NumPy's boxes have room for the batch's largest number, which is not every image's.
    labels = np.where(labels < n_clusters[:, None, None], labels, -1)
    expected = cluster_boxes(labels, density, n_clusters, trim=trim, interpolate=interpolate, slots=slots)
    assert found.boxes.shape[1] == (42 if slots is None else slots)
    assert_equal_slots(found.boxes, expected.boxes)
    assert_equal_slots(found.score, expected.score, atol=1e-14)


def test_more_clusters_than_slots_is_refused(device):
    labels = np.arange(6).reshape(1, 2, 3).repeat(2, axis=0) % np.array([6, 2])[:, None, None]
    density, n_clusters = np.ones((2, 2, 3)), np.array([6, 2])
    found = device(cluster_boxes, labels, density, n_clusters, slots=3)
    assert np.isnan(found.boxes[0]).all()
    assert np.isnan(found.score[0]).all()
    np.testing.assert_array_equal(found.score[1], [0.5, 0.5, 0])
    with pytest.raises(ValueError, match="slots"):
        cluster_boxes(labels, density, n_clusters, slots=3)


# Gaussian mixtures


def assert_mixtures_agree(device, heats, counts, atol=1e-6, **parameters):
    counts = np.asarray(counts)
    slots = int(counts.max()) + 1
    found = device(weighted_gmm, heats, counts, max_components=slots, **parameters)
    expected = weighted_gmm(heats, counts, max_components=slots, **parameters)
    for field in fields(expected):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=atol, err_msg=field.name)
    return expected


@given(small_heats(st.integers(0, 9)), st.integers(0, 99))
@FEW
def test_mixtures_agree_on_any_heatmap(device, heats, seed):
    # Few iterations: near a symmetric start the last bits decide which way EM breaks the symmetry.
    assert_mixtures_agree(device, heats, np.random.default_rng(seed).integers(0, 6, len(heats)), max_iter=6)


@pytest.mark.parametrize("size", [14, 28])
def test_mixtures_agree_on_smooth_heatmaps(device, bumps, size):
    for seed in range(3):
        expected = assert_mixtures_agree(device, real_heats(bumps, size, seed), [1, 2, 3, 4, 4, 0], tol=1e-4)
        assert expected.n_iter.max() > 5


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid != (28, 28)], ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_mixtures_agree_on_hard_heatmaps(device, grid, count):
    assert_mixtures_agree(device, hard_heats(*grid), np.full(10, count), max_iter=6)


def test_mixtures_agree_where_densities_underflow(device):
    heat = np.zeros((2, 40, 40))
    heat[0, 0, 0], heat[0, -1, -1], heat[0, 20, 12] = 1.0, 0.75, 1e-3
    heat[1, 0, 0], heat[1, 12, 3] = 1.0, 1e-4
    starts = np.array([[[0.0, 0.0], [39.0, 39.0], [0, 0]], [[0.0, 0.0], [1e5, 1e5], [0, 0]]])
    assert_mixtures_agree(device, heat, [2, 2], means_init=starts, atol=1e-9)
    assert_mixtures_agree(device, heat[1:, :14, :14], [1], atol=1e-9)


def test_a_component_without_heat_keeps_its_place(device, bumps):
    starts = np.array([[[6.0, 6.0], [1e5, 1e5], [0, 0]]])
    expected = assert_mixtures_agree(device, bumps([1]), [2], means_init=starts, variance_floor=0.2)
    assert expected.mixing[0].tolist() == [1, 0, 0]


# Heatmaps


@pytest.fixture(scope="module", params=[(7, 7), (14, 14), (5, 6), (1, 1), (28, 28)], ids=str)
def maps(request):
    rng = np.random.default_rng(0)
    return np.maximum(rng.standard_normal((3, 33, *request.param)), 0).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_greatest_activations_agree(device, maps, dtype):
    maps = maps.astype(dtype) - dtype(0.5)
    maps[0, 1, 0, 0], maps[1, 2], maps[2, 0, -1, -1] = np.nan, -np.inf, np.inf
    found = device(channel_max, maps)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, channel_max(maps))


def test_numbers_of_half_precision_of_every_kind_are_read(device):
    # Some of every exponent; both ends of the subnormal and of the normal numbers, infinity, not a number.
    bits = np.concatenate([np.arange(0, 1 << 16, 31), [0x1, 0x3FF, 0x400, 0x7BFF, 0x7C00, 0xFC00, 0x7E00]])
    numbers = bits.astype(np.uint16).view(np.float16).reshape(1, -1, 1, 1)
    np.testing.assert_array_equal(device(channel_max, numbers), numbers[..., 0, 0])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("factor", [0.0, 1.0, 1.7])
@pytest.mark.parametrize("softness", [0.0, 0.05, 3.0])
def test_mean_heatmaps_agree(device, maps, dtype, factor, softness):
    maps = maps - np.array([0, 0.5, 1], np.float32)[:, None, None, None]  # of either sign, as before an activation
    given = maps.astype(dtype), factor, softness
    found, expected = device(mean_heatmap, *given), mean_heatmap(*given)
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_mean_heatmaps_without_contrast_are_the_mean(device):
    maps = np.ones((3, 5, 4, 4), dtype=np.float32)
    maps[1] = 0
    maps[2, 0, 0, 0] = np.nan
    found = device(mean_heatmap, maps, 2.0)
    np.testing.assert_array_equal(found, mean_heatmap(maps, 2.0))
    np.testing.assert_array_equal(found[0], np.ones((4, 4)))
    assert np.isnan(found[2, 0, 0])


def test_soft_clamps_of_nothing_of_sizes_and_of_what_is_not_finite_agree(device):
    maps = np.ones((5, 2, 3, 3), np.float32)
    maps[0] = 0
    maps[1], maps[2] = 1e-30, 1.5e38
    maps[3, 0, 1, 1], maps[4, 0, 1, 1] = np.nan, np.inf
    np.testing.assert_allclose(
        device(mean_heatmap, maps, 1.0, 0.25), mean_heatmap(maps, 1.0, 0.25), rtol=1e-6, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_selected_heatmaps_agree(device, maps, dtype, layers, factor):
    rng = np.random.default_rng(1)
    first, second = maps.astype(dtype), maps[:, :9][:, ::-1].astype(dtype)
    stacks = [(first, rng.integers(0, 33, (3, 7))), (second, rng.integers(0, 9, (3, 4)).astype(np.int32))][:layers]
    found, expected = device(selected_heatmap, stacks, factor), selected_heatmap(stacks, factor)
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_selected_heatmaps_add_in_the_order_of_numpy(device):
    # Nothing is subtracted, so that only the order of the sum is left to differ.
    maps = (10.0 ** np.random.default_rng(0).uniform(-4, 4, (2, 40, 6, 6))).astype(np.float32)
    layers = [(maps, np.arange(80).reshape(2, 40) % 37)]
    np.testing.assert_array_equal(device(selected_heatmap, layers, 0.0), selected_heatmap(layers, 0.0))


def test_selected_heatmaps_of_other_grids_and_of_nothing(device):
    rng = np.random.default_rng(0)
    for grids in (((6, 6), (3, 4)), ((6, 6), (3, 6)), ((6, 6), (6, 4))):
        layers = [(rng.random((2, 5, *grid)).astype(np.float32), np.array([[0, 4], [1, 2]])) for grid in grids]
        np.testing.assert_allclose(device(selected_heatmap, layers), selected_heatmap(layers), atol=1e-5)
    nothing = [(layers[0][0], np.zeros((2, 0), int))]
    np.testing.assert_array_equal(device(selected_heatmap, nothing), np.zeros((2, 6, 6)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("factor", [0.0, 1.5])
@pytest.mark.parametrize("top", [None, 5])
def test_weighted_heatmaps_agree(device, maps, dtype, factor, top):
    maps, weights = maps.astype(dtype), np.random.default_rng(1).standard_normal((3, 33)).astype(dtype)
    found = device(weighted_heatmap, maps, weights, factor, top)
    expected = weighted_heatmap(maps, weights, factor, top)
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("value", [3e36, 3e37, 3e38])  # of the second the sum overflows, of the third the mean
def test_heatmaps_whose_mean_overflows_agree_and_are_no_empty_picture(device, value, factor):
    maps = np.full((3, 2, 3, 3), value, np.float32)
    maps[:, 0, 1, 1], maps[1, 0, 0, 0], maps[2] = 1.1 * value, np.inf, 1
    indices, ones = np.tile(np.arange(2, dtype=np.int32), (3, 1)), np.ones((3, 2), np.float32)
    for operation, *args in (
        (selected_heatmap, [(maps, indices)], factor),
        (mean_heatmap, maps, factor),
        (weighted_heatmap, maps, ones, factor),
    ):
        with np.errstate(over="ignore", invalid="ignore"):
            expected = operation(*args)
        np.testing.assert_allclose(device(operation, *args), expected, rtol=1e-5, err_msg=operation.__name__)
        assert not np.isnan(expected[2]).any()


def test_weighted_heatmaps_of_values_that_are_not_finite_agree(device):
    maps = np.ones((4, 2, 3, 3), np.float32)
    maps[0, 0, 0, 0], maps[1], maps[2, 1, 2, 2] = np.nan, 3e38, -np.inf
    weights = np.full((4, 2), 2, np.float32)
    for factor in (0.0, 0.5):
        with np.errstate(over="ignore", invalid="ignore"):
            expected = weighted_heatmap(maps, weights, factor)
        np.testing.assert_array_equal(device(weighted_heatmap, maps, weights, factor), expected)
    assert device(weighted_heatmap, maps[:, :, :0], weights).shape == (4, 0, 3)
    np.testing.assert_array_equal(device(weighted_heatmap, maps[:, :0], weights[:, :0]), np.zeros((4, 3, 3)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("top", [1, 5, 32, 33])
def test_weights_of_the_maps_that_add_most_agree(device, maps, dtype, top):
    maps, weights = maps.astype(dtype), np.random.default_rng(1).standard_normal((3, 33)).astype(dtype)
    found, expected = device(top_weights, maps, weights, top), top_weights(maps, weights, top)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@FEW
@given(
    weights=arrays(np.float32, (2, 9), elements=st.sampled_from([-1.0, -0.0, 0.0, 1.0, 2.0, np.nan, np.inf, -np.inf])),
    values=arrays(np.float32, (2, 9), elements=st.sampled_from([1.0, 1.0, 0.0, 3e38, np.nan, -np.inf])),
    top=st.integers(1, 9),
)
def test_weights_of_maps_that_add_the_same_or_no_number_agree(make_host, weights, values, top):
    maps = np.repeat(values, 6, axis=1).reshape(2, 9, 2, 3)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = top_weights(maps, weights, top)
    np.testing.assert_array_equal(make_host()(top_weights, maps, weights, top), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("new", [(7, 7), (14, 14), (28, 28), (9, 5), (1, 1), (5, 28)], ids=str)
def test_resized_maps_agree(device, maps, dtype, new):
    maps = maps.astype(dtype)
    found, expected = device(resize_maps, maps, *new), resize_maps(maps, *new)
    assert found.dtype == expected.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=2e-3 if dtype == np.float16 else 1e-6, atol=1e-6)
    np.testing.assert_array_equal(device(resize_maps, maps[0, 0], *new), found[0, 0])


@pytest.mark.parametrize("new", [(7, 14), (14, 7), (13, 14), (21, 21)], ids=str)
def test_a_cell_that_is_no_number_spoils_only_what_is_resized_from_it(device, new):
    maps = np.ones((1, 7, 7), np.float32)
    maps[0, 3, 4] = np.nan
    found = np.isnan(device(resize_maps, maps, *new)[0])
    apart = [np.abs((np.arange(size) + 0.5) * 7 / size - 0.5 - at) < 1 for size, at in zip(new, (3, 4), strict=True)]
    np.testing.assert_array_equal(found, np.outer(*apart))


# Channels last


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("channels", [8, 5, 40])
@pytest.mark.parametrize(
    ("window", "stride", "pads"),
    [((2, 2), (2, 2), (0, 0, 0, 0)), ((3, 2), (1, 3), (1, 0, 2, 1)), ((1, 1), (1, 1), (0, 0, 0, 0))],
)
def test_pooled_maps_agree(device, dtype, channels, window, stride, pads):
    maps = np.random.default_rng(0).standard_normal((3, 7, 9, channels)).astype(dtype)
    maps[1, 2, 3] = np.nan
    maps[2, :2, :2] = -np.inf
    np.testing.assert_array_equal(device(max_pool, maps, window, stride, pads), max_pool(maps, window, stride, pads))


def test_maps_that_begin_anywhere_are_pooled(device):
    maps = np.random.default_rng(0).standard_normal((2, 4, 6, 8)).astype(np.float16)
    with device.active():
        room = device.put(np.zeros(maps.size + 1, np.float16))
        room[1:] = device.put(maps.ravel())
        found = max_pool(room[1:].reshape(maps.shape), (2, 2), (2, 2))
    np.testing.assert_array_equal(found.get(), max_pool(maps, (2, 2), (2, 2)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("channels", [16, 5])
@pytest.mark.parametrize(
    ("window", "stride", "pads"),
    [((3, 3), (1, 1), (1, 1, 1, 1)), ((3, 3), (2, 2), (0, 0, 1, 1)), ((2, 5), (1, 3), (0, 2, 0, 3))],
)
@pytest.mark.parametrize("bounds", [(0.0, 6.0), (-np.inf, np.inf)], ids=["relu6", "free"])
def test_convolutions_of_single_maps_agree(device, dtype, channels, window, stride, pads, bounds):
    rng = np.random.default_rng(0)
    maps, weights, bias = (
        rng.standard_normal(shape).astype(dtype) for shape in ((3, 7, 9, channels), (*window, channels), (channels,))
    )
    settings = {"stride": stride, "pads": pads, "bounds": bounds}
    found = device(depthwise_convolution, maps, weights, bias, **settings)
    np.testing.assert_array_equal(found, depthwise_convolution(maps, weights, bias, **settings))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("shape", [(3, 14, 14, 40), (1, 1, 1, 1), (2, 5, 13, 3), (2, 8, 8, 64)])
def test_planes_agree(device, dtype, shape):
    maps = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    found = device(to_planes, maps)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, to_planes(maps))


@pytest.mark.parametrize(
    ("window", "stride", "pads", "channels"),
    [(3, 1, (1, 1), 16), (5, 2, (2, 2), 24), (1, 1, (0, 0), 4), (4, 3, (0, 2), 17)],
)
def test_columns_of_pixels_agree(device, window, stride, pads, channels):
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 11, 3), np.uint8)
    settings = {"window": window, "stride": stride, "pads": pads, "channels": channels}
    found, expected = device(pixel_columns, images, 1.0, **settings), pixel_columns(images, 1.0, **settings)
    np.testing.assert_array_equal(found, expected)


def pixels_and_filters(size, window, filters, seed=0):
    """Images, and weights and a bias with which sums are about as large as 1."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((filters, *window, 4)) / 512
    images = rng.integers(0, 256, (2, *size, 3), np.uint8)
    return images, weights.astype(np.float16), rng.standard_normal(filters).astype(np.float16)


def assert_pixels_are_convolved_alike(device, images, weights, bias, constant=100.0, **settings):
    found = device(pixel_convolution, images, weights, bias, constant, **settings)
    expected = pixel_convolution(images, weights, bias, constant, **settings)
    assert found.dtype == np.float16
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "window", "stride", "pads"),
    [
        ((9, 21), (3, 3), (1, 1), (1, 1, 1, 1)),
        ((9, 40), (3, 3), (2, 2), (0, 0, 1, 1)),
        ((70, 16), (3, 3), (1, 1), (1, 1, 1, 1)),  # tiles below one another
        ((4, 300), (2, 3), (1, 1), (0, 2, 1, 0)),  # and beside one another
        ((1, 1), (1, 1), (1, 1), (0, 0, 0, 0)),
        ((7, 9), (2, 2), (3, 1), (2, 0, 0, 1)),
        ((3, 2), (3, 4), (1, 1), (4, 5, 6, 7)),  # whole windows outside
        ((30, 60), (2, 6), (7, 5), (0, 0, 0, 0)),
    ],
)
@pytest.mark.parametrize("filters", [8, 64, 136])
def test_convolutions_of_pixels_agree(device, size, window, stride, pads, filters):
    given = pixels_and_filters(size, window, filters)
    for bounds in ((-np.inf, np.inf), (0.0, 6.0)):
        assert_pixels_are_convolved_alike(device, *given, stride=stride, pads=pads, bounds=bounds)


def test_pixels_are_told_from_what_lies_outside(device):
    images, weights, bias = np.zeros((1, 5, 40, 3), np.uint8), np.zeros((8, 3, 3, 4), np.float16), np.zeros(8)
    weights[..., 3] = 1
    found = device(pixel_convolution, images, weights, bias.astype(np.float16), 0.5, pads=(1, 1, 1, 1))
    inside = np.pad(np.full((5, 40), 0.5), 1)
    expected = np.lib.stride_tricks.sliding_window_view(inside, (3, 3)).sum(axis=(2, 3))
    np.testing.assert_array_equal(found, np.broadcast_to(expected[None, ..., None], found.shape))


@pytest.mark.parametrize("filter_", [0, 1, 5, 7, 8, 31, 62])
def test_each_value_of_a_filter_meets_its_own(device, filter_):
    images = np.random.default_rng(0).integers(0, 256, (1, 4, 19, 3), np.uint8)
    weights = np.zeros((64, 3, 3, 4), np.float16)
    for row, column, part in np.ndindex(3, 3, 4):
        weights[...] = 0
        weights[filter_, row, column, part] = 1
        assert_pixels_are_convolved_alike(device, images, weights, weights[:, 0, 0, 0], pads=(1, 1, 1, 1))


def test_filters_that_begin_anywhere_and_values_that_are_no_numbers(device):
    images, weights, bias = pixels_and_filters((5, 20), (3, 3), 16)
    weights[3, 1, 1, 1], bias[5], bias[6] = np.inf, np.nan, -np.inf
    images[0] = np.maximum(images[0], 1)
    with device.active():
        room = device.put(np.zeros(weights.size + 1, np.float16))
        room[1:] = device.put(weights.ravel())
        placed = room[1:].reshape(weights.shape)
        found = pixel_convolution(device.put(images[:1]), placed, device.put(bias), 1.0, bounds=(0.0, 6.0))
    expected = pixel_convolution(images[:1], weights, bias, 1.0, bounds=(0.0, 6.0))
    np.testing.assert_allclose(found.get(), expected, rtol=1e-3, atol=1e-3)
    assert np.isnan(expected[..., 5]).all()


def test_filters_without_a_kernel_are_applied_all_the_same(device):
    for window, filters in (((7, 7), 8), ((3, 3), 5)):
        assert_pixels_are_convolved_alike(device, *pixels_and_filters((12, 13), window, filters), stride=(2, 2))


# Moments


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_moments_agree(device, dtype, grid):
    heats = np.minimum(hard_heats(*grid), 1e30).astype(dtype)
    found = density_peaks(heats, cutoff=1.0)
    arguments = (found.labels, heats, found.n_clusters)
    one, other = device(cluster_moments, *arguments), cluster_moments(*arguments)
    for field in fields(other):
        assert_equal_slots(getattr(one, field.name), getattr(other, field.name), rtol=1e-9, atol=1e-9)


# Merging


UNIONS = [
    {},
    {"variance_floor": 0.1225, "reach": 2.0},
    {"valley_power": 3, "variance_floor": 0.1225, "reach": 5.0},
    {"valley_power": 1, "reach": 3.0},
]


@pytest.mark.parametrize("way", UNIONS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_merging_agrees(device, dtype, grid, way):
    heats = np.minimum(hard_heats(*grid), 1e30).astype(dtype)
    peaks = density_peaks(heats, cutoff=0.6, min_density=0, min_distance=0)
    slots = int(peaks.n_clusters.max()) + 1
    for wanted in (-1, 0, 1, 2, 5):
        arguments = (peaks.labels, heats, peaks.n_clusters, np.full(len(heats), wanted))
        one = device(merge_clusters, *arguments, slots=slots, **way)
        other = merge_clusters(*arguments, slots=slots, **way)
        for field in fields(other):
            np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))


@FEW
@given(heats=small_heats(st.integers(0, 9)), wanted=st.integers(0, 5), way=st.sampled_from(UNIONS))
def test_merging_of_ties_agrees(make_host, heats, wanted, way):
    """Whole numbers, so that many unions cost the same."""
    peaks = density_peaks(heats, cutoff=0.4, min_density=0, min_distance=0)
    arguments = (peaks.labels, heats, peaks.n_clusters, np.full(len(heats), wanted))
    slots = int(peaks.n_clusters.max(initial=0))
    one, other = make_host()(merge_clusters, *arguments, slots=slots, **way), merge_clusters(*arguments, **way)
    np.testing.assert_array_equal(one.labels, other.labels)


def test_merging_marks_bad_heat_and_too_many_clusters(make_host):
    labels, heats = np.zeros((3, 1, 2), int), np.ones((3, 1, 2))
    heats[1, 0, 0] = np.nan
    found = make_host()(merge_clusters, labels, heats, np.array([1, 1, 9]), np.ones(3, int), slots=4)
    assert found.n_clusters.tolist() == [1, -1, -1]
    assert found.labels[:, 0].tolist() == [[0, 0], [-1, -1], [-1, -1]]


@pytest.mark.slow
def test_merging_finds_the_cheapest_of_more_pairs_than_an_int_numbers(device):
    count = 46_341  # its square is the first beyond 2**31
    labels = np.arange(count).reshape(1, 1, count)
    heats = np.ones((1, 1, count), np.float32)
    heats[0, 0, -2:] = 0.5  # the last pair costs least
    found = device(merge_clusters, labels, heats, np.array([count]), np.array([count - 1]), slots=count)
    np.testing.assert_array_equal(found.labels[0, 0], np.minimum(np.arange(count), count - 2))
    assert found.n_clusters == count - 1


@pytest.mark.parametrize("way", UNIONS, ids=str)
def test_merging_of_clusters_whose_weights_overflow_agrees_and_ends(make_host, way):
    labels = np.array([[[0, 0, 1, 1, 2, 3]]])
    heats = np.full((1, 1, 6), 1.7e308)
    with np.errstate(over="ignore", invalid="ignore"):
        for wanted in (1, 2, 3):
            arguments = (labels, heats, np.array([4]), np.array([wanted]))
            one, other = make_host()(merge_clusters, *arguments, slots=4, **way), merge_clusters(*arguments, **way)
            np.testing.assert_array_equal(one.labels, other.labels)
            assert one.n_clusters == other.n_clusters == wanted


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_heat_scaled_to_its_peak_agrees(device, dtype, grid):
    heats = np.concatenate([np.minimum(hard_heats(*grid), 1e4), -np.ones((4, *grid))]).astype(dtype)
    heats[11, -1, -1], heats[12, 0, -1], heats[13, 0, 0] = np.nan, np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        found, expected = device(scale_to_peak, heats), scale_to_peak(heats)
    assert found.dtype == dtype
    # Equal, but where a device takes numbers below the smallest normal one for zero.
    np.testing.assert_allclose(found, expected, rtol=0, atol=np.finfo(np.float32).tiny)


# Tables


SCORES = [0.0, -0.0, 0.5, 1.0, -1.0, np.inf, -np.inf, np.nan]


@FEW
@given(
    scores=arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(0, 20)), elements=st.sampled_from(SCORES)),
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    most=st.sampled_from([None, 0, 1, 5, 20]),
)
def test_sorted_rows_agree(make_host, scores, dtype, most):
    places = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    rows = np.stack([places, scores, -places], axis=2).astype(dtype)
    found, expected = make_host()(sort_rows, rows, 1, most), sort_rows(rows, 1, most)
    assert found.dtype == expected.dtype == dtype
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


@pytest.mark.parametrize("count", [1, 49, 196, 784, 3000])
def test_rows_of_many_and_of_equal_scores_are_sorted_alike(device, count):
    rng = np.random.default_rng(count)
    rows = rng.standard_normal((3, count, 5))
    rows[1, :, 4] = rng.integers(0, 4, count)
    rows[2, :, 4] *= 1e-310  # numbers below the smallest normal one are told apart
    rows[:, count // 2 :: 3] = np.nan
    np.testing.assert_array_equal(device(sort_rows, rows, 4), sort_rows(rows, 4))
    rows = rows.astype(np.float32)
    np.testing.assert_array_equal(device(sort_rows, rows, 0, 7), sort_rows(rows, 0, 7))


# Taps


def assert_finite_images_agree(device, taps):
    with device.active():
        there = [device.put(tap.copy()) for tap in taps]
        with np.errstate(over="ignore", invalid="ignore"):  # which a device does not warn of
            found = finite_images(there)
    expected = finite_images(taps)
    assert found.dtype == expected.dtype == bool
    np.testing.assert_array_equal(found.get(), expected)
    for tap, own in zip(there, taps, strict=True):
        np.testing.assert_array_equal(tap.get(), own)
    return expected


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 7, 8, 192, 193, 5000, 70_001])
def test_one_value_anywhere_that_is_not_finite_is_found(device, dtype, size):
    for number, place in enumerate((0, size // 2, size - 1)):
        taps = [np.ones((5, size), dtype), np.full((5, 3), np.finfo(dtype).min / 4, dtype)]
        taps[0][1 + number, place] = (np.nan, np.inf, -np.inf)[number]
        assert assert_finite_images_agree(device, taps).sum() == 4


@FEW
@given(data=st.data())
def test_finite_images_of_any_taps_agree(make_host, data):
    count = data.draw(st.integers(1, 4))
    kinds = st.sampled_from([np.float16, np.float32, np.float64, np.int32])
    sizes = st.tuples(st.just(count), st.sampled_from([0, 1, 4, 9, 400]))
    taps = [np.ones(data.draw(sizes), kind) for kind in data.draw(st.lists(kinds, min_size=1, max_size=11))]
    for _ in range(data.draw(st.integers(0, 3))):
        tap = data.draw(st.sampled_from(taps))
        if tap.size and tap.dtype.kind == "f":
            place = data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, tap.shape[1] - 1))
            tap[place] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    assert_finite_images_agree(make_host(), taps)


def test_infinities_that_cancel_each_other_are_found_in_any_type(make_host):
    for kind in (np.float16, np.float32, np.float64):
        taps = [np.ones((2, 4), kind)]
        taps[0][1, :2] = np.inf, -np.inf
        assert_finite_images_agree(make_host(), taps)


def test_taps_that_begin_anywhere_and_lie_in_no_row_are_mended(device):
    with device.active():
        room = device.put(np.ones(4 * 64 + 1, np.float32))
        room[1 + 2 * 64 + 63] = np.nan
        begun, across = room[1:].reshape(4, 64), device.put(np.ones((64, 4), np.float32)).T
        across[0, 5] = np.inf
        found = finite_images([begun, across])
    np.testing.assert_array_equal(found.get(), [False, True, False, True])
    for tap in (begun, across):
        np.testing.assert_array_equal(tap.get(), np.repeat([[0], [1], [0], [1]], 64, axis=1))


# Products and scores


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (33, 70, 31), (32, 32, 64), (5, 200, 3), (3, 0, 2), (0, 2, 3)])
def test_products_of_matrices_agree(device, dtype, sizes):
    rows, depth, columns = sizes
    rng = np.random.default_rng(rows)
    a = rng.standard_normal((3, rows, depth)).astype(dtype)
    b = rng.standard_normal((3, columns, depth)).astype(dtype).transpose(0, 2, 1)
    found, expected = device(matrix_products, a, b), matrix_products(a, b)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=2e-3 if dtype == np.float16 else 1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("values", [1, 7, 1000])
@pytest.mark.parametrize("vectors", [1, 5, 8, 9])
def test_products_of_unit_rows_agree(device, dtype, values, vectors):
    rng = np.random.default_rng(values)
    rows = np.maximum(rng.standard_normal((4, values)), 0.01).astype(dtype)
    rows[1] = 0
    rows[2] *= 30
    weights = rng.standard_normal((vectors, values)).astype(np.float32)
    found, expected = device(unit_products, rows, weights), unit_products(rows, weights)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=3e-6)


def test_a_row_whose_norm_overflows_has_no_products(device):
    rows = np.array([[1e30, 1.0], [3.0, 4.0], [np.nan, 1.0]], np.float32)
    found = device(unit_products, rows, np.ones((2, 2), np.float32))
    np.testing.assert_allclose(found, [[np.nan] * 2, [1.4] * 2, [np.nan] * 2], rtol=1e-6)


# What NumPy code refuses, and what holds for all


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1.0, -np.finfo(np.float32).tiny])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bad_heat_marks_its_image_and_leaves_the_others_alone(device, bumps, value, dtype):
    heats = bumps([1, 2, 3]).astype(dtype)
    good = heats.copy()
    heats[1, 13, 13] = value
    counts = np.array([1, 2, 3])
    peaks, clean = device(density_peaks, heats, cutoff=1.0), density_peaks(good, cutoff=1.0)
    assert peaks.n_clusters[1] == -1
    assert (peaks.labels[1] == -1).all()
    assert np.isnan(peaks.centres[1]).all()
    assert np.isnan(peaks.density[1]).all()
    np.testing.assert_array_equal(peaks.labels[[0, 2]], clean.labels[[0, 2]])
    clusters = device(dbscan, heats, eps=1.5, min_weight=1.0)
    assert clusters.n_clusters[1] == -1
    assert (clusters.labels[1] == -1).all()
    mixtures = device(weighted_gmm, heats, counts, max_components=3)
    assert mixtures.n_components_.tolist() == [1, -1, 3]
    assert np.isnan(mixtures.means[1]).all()
    assert not mixtures.converged[1]
    for labels, n_clusters, density in ((peaks.labels, peaks.n_clusters, peaks.density),):
        boxes = device(cluster_boxes, labels, density, n_clusters)
        assert np.isnan(boxes.boxes[1]).all()
        assert np.isnan(boxes.score[1]).all()
        assert np.isfinite(boxes.score[[0, 2]]).all()
        moments = device(cluster_moments, labels, density, n_clusters)
        assert np.isnan(moments.means[1]).all()
        assert np.isnan(moments.share[1]).all()
        assert np.isfinite(moments.share[[0, 2]]).all()


def test_bad_counts_and_starts_are_marked(device, bumps):
    heats, starts = bumps([1, 1, 1, 1]), np.ones((4, 2, 2))
    starts[2, 1, 0], starts[3, 1, 0] = np.nan, np.nan
    mixtures = device(weighted_gmm, heats, np.array([-1, 3, 2, 1]), max_components=2, means_init=starts)
    assert mixtures.n_components_.tolist() == [-1, -1, -1, 1]


def test_an_index_of_no_map_spoils_its_image_alone(device):
    maps = np.random.default_rng(0).random((4, 5, 6, 6)).astype(np.float32)
    indices = np.array([[0, 1], [0, 5], [-1, 1], [2**32, 1]])
    found = device(selected_heatmap, [(maps, indices)])
    np.testing.assert_array_equal(np.isnan(found).all(axis=(1, 2)), [False, True, True, True])
    assert np.isfinite(found[0]).all()
    assert device(density_peaks, found, cutoff=1.0).n_clusters[1:].tolist() == [-1, -1, -1]


def every_result(device, maps, counts):
    """One image after the other through both modes' chains of kernels."""
    layers = [
        (maps, np.arange(20)[None].repeat(len(maps), axis=0)),
        (maps, np.arange(9)[None].repeat(len(maps), axis=0)),
    ]
    heat = device(selected_heatmap, layers)
    peaks = device(density_peaks, heat, cutoff=1.0, min_density=0.5, min_distance=4.0)
    boxes = device(cluster_boxes, peaks.labels, peaks.density, peaks.n_clusters, slots=peaks.centres.shape[1])
    attention = device(mean_heatmap, maps)
    mixtures = device(weighted_gmm, attention, counts, max_components=4)
    clusters = device(dbscan, attention, eps=1.5, min_weight=0.5)
    records = (peaks, boxes, mixtures, clusters)
    return [heat, attention, *(getattr(record, field.name) for record in records for field in fields(record))]


@pytest.fixture(scope="module")
def scene(bumps):
    rng = np.random.default_rng(3)
    counts = np.array([1, 2, 3, 4])
    maps = bumps(counts, seed=8)[:, None] * rng.random((4, 24, 1, 1)) + 0.02 * rng.random((4, 24, 14, 14))
    return maps.astype(np.float32), counts


def test_the_same_input_gives_the_same_bits(device, scene):
    for one, other in zip(every_result(device, *scene), every_result(device, *scene), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_image_does_not_depend_on_its_batch(device, scene):
    maps, counts = scene
    together = every_result(device, maps, counts)
    for n in range(len(maps)):
        alone = every_result(device, maps[n : n + 1], counts[n : n + 1])
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], other[n])


@pytest.mark.parametrize("threads", [1, 31, 33, 70])
def test_any_number_of_threads_finds_the_greatest(make_host, scene, threads):
    maps, _ = scene
    np.testing.assert_array_equal(make_host(threads=threads)(channel_max, maps), channel_max(maps))


@pytest.mark.parametrize("threads", [1, 2, 17, 40])
def test_any_number_of_threads_convolves_pixels(make_host, threads):
    given = pixels_and_filters((9, 40), (3, 3), 72)
    one, other = (make_host(threads=n)(pixel_convolution, *given, 1.0, pads=(1, 1, 1, 1)) for n in (threads, 6))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("threads", [1, 2, 17, 40])
def test_any_number_of_threads_gives_the_same(make_host, scene, threads):
    few, many = every_result(make_host(), *scene), every_result(make_host(threads=threads), *scene)
    for one, other in zip(few, many, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 if one.dtype == np.float32 else 1e-5)
        if one.dtype.kind == "i":
            np.testing.assert_array_equal(one, other)
