import numpy as np
import pytest

from pc_engine.kernels import normalise_heatmap, resize_maps, select_maps, selected_heatmap


def layer(seed, grid=(5, 6), channels=9, chosen=4, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return rng.random((3, channels, *grid)).astype(dtype), rng.integers(0, channels, (3, chosen))


def test_by_hand():
    maps = np.array([[[[1.0, 0.0]], [[9.0, 9.0]], [[5.0, 2.0]]]])
    np.testing.assert_array_equal(selected_heatmap([(maps, np.array([[0, 2]]))], 1.0), [[[3, 0]]])
    np.testing.assert_array_equal(selected_heatmap([(maps, np.array([[2]])), (maps, np.array([[0]]))]), [[[1, 0]]])


def test_equals_the_loop_over_images_and_maps():
    layers = [layer(0), layer(1, chosen=7)]
    found = selected_heatmap(layers, 0.5)
    for n in range(3):
        stack = np.concatenate([maps[n, indices[n]] for maps, indices in layers]).astype(np.float64)
        expected = np.maximum(stack - 0.5 * stack.mean(), 0).sum(axis=0)
        np.testing.assert_allclose(found[n], expected, rtol=1e-5, atol=1e-6)


def test_layers_of_other_grids_are_brought_to_the_finest():
    layers = [layer(0, (4, 8)), layer(1, (7, 3))]
    stacks = [resize_maps(select_maps(*one), 7, 8) for one in layers]
    expected = normalise_heatmap(np.concatenate(stacks, axis=1), 1.5)
    np.testing.assert_array_equal(selected_heatmap(layers, 1.5), expected)


def test_half_precision_adds_up_in_single():
    maps = np.full((1, 70, 2, 2), 2000, dtype=np.float16)
    found = selected_heatmap([(maps, np.arange(70)[None])], 0.0)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.full((1, 2, 2), 140_000))


def test_does_not_depend_on_the_batch():
    maps, indices = layer(0)
    together = selected_heatmap([(maps, indices)])
    for n in range(3):
        np.testing.assert_array_equal(together[n], selected_heatmap([(maps[n : n + 1], indices[n : n + 1])])[0])


def test_refuses():
    maps, indices = layer(0)
    with pytest.raises(ValueError, match="at least one layer"):
        selected_heatmap([])
    with pytest.raises(ValueError, match="for 9 maps"):
        selected_heatmap([(maps, indices + 9)])
