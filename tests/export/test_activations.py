import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pc_engine.export.activations import Activation, choose_ranges, measure_activations
from pc_engine.export.int8 import render

MIDDLE = 100.37  # no pixel's value, so that rounding always costs something


@pytest.fixture(scope="module")
def network():
    """A network whose activations are the pixels, scaled and shifted: maps, and values by a linear layer."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["maps"], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["maps", "middle"], ["centred"]),
        helper.make_node("GlobalMaxPool", ["centred"], ["peaks"]),
        helper.make_node("Flatten", ["peaks"], ["values"]),
    ]
    graph = helper.make_graph(
        nodes,
        "scaled",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 6, 3])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.float32(MIDDLE), "middle")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("n", [1, 4, 7])
def test_ranges_and_means_are_those_of_all_images_whatever_the_batches(network, n):
    images = np.random.default_rng(n).integers(0, 256, (n, 8, 6, 3)).astype(np.uint8)
    before = network.SerializeToString(deterministic=True)
    done = []
    found = measure_activations(network, ["centred", "values"], images, 1, done.append)
    maps = images.astype(np.float64).transpose(0, 3, 1, 2) - np.float32(MIDDLE)
    peaks = maps.max(axis=(2, 3))
    assert (found["centred"].low, found["centred"].high) == pytest.approx((maps.min(), maps.max()))
    assert (found["values"].low, found["values"].high) == pytest.approx((peaks.min(), peaks.max()))
    np.testing.assert_allclose(found["centred"].mean, maps.mean(axis=(0, 2, 3)), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found["values"].mean, peaks.mean(axis=0), rtol=1e-6)
    assert sum(done) == n
    assert network.SerializeToString(deterministic=True) == before


def test_a_rare_extreme_is_cut_off_and_an_even_spread_is_not(network):
    rng = np.random.default_rng(0)
    spread = rng.integers(0, 256, (8, 8, 6, 3)).astype(np.uint8)
    even = measure_activations(network, ["centred"], spread, 1, lambda _: None)
    assert choose_ranges(network, even, render, spread, 1, lambda _: None)["centred"] == (
        even["centred"].low,
        even["centred"].high,
    )
    images = rng.integers(90, 111, (8, 8, 6, 3)).astype(np.uint8)
    rare = {"centred": Activation(-100.0, 155.0, np.zeros(3))}  # as if one image of many had held black and white
    low, high = choose_ranges(network, rare, render, images, 1, lambda _: None)["centred"]
    assert (low, high) == (-50.0, 77.5)


def test_the_tensors_of_every_image_looked_at_can_be_observed(network):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 6, 3)).astype(np.uint8)
    measured = measure_activations(network, ["maps", "values"], images, 1, lambda _: None)
    seen = []
    choose_ranges(network, measured, render, images, 1, lambda _: None, lambda found: seen.append(dict(found)))
    assert [list(found) for found in seen] == [["maps", "values"]] * 3
    np.testing.assert_array_equal(np.concatenate([found["maps"] for found in seen]), images.transpose(0, 3, 1, 2))


@settings(max_examples=15)
@given(st.floats(-1e3, 0), st.floats(0.125, 1e3), st.integers(0, 10_000))
def test_a_range_holds_zero_and_rounds_no_worse_than_the_full_one(network, round_by_onnx, low, high, seed):
    images = np.random.default_rng(seed).integers(0, 256, (2, 8, 6, 3)).astype(np.uint8)
    chosen = choose_ranges(network, {"centred": Activation(low, high, np.zeros(3))}, render, images, 1, lambda _: None)
    values = images.astype(np.float32).ravel() - np.float32(MIDDLE)
    assert chosen["centred"][0] <= 0 <= chosen["centred"][1]
    assert _error(round_by_onnx, values, *chosen["centred"]) <= _error(round_by_onnx, values, low, high) * (1 + 1e-5)


def _error(round_by_onnx, values, low, high):
    """Squared error of ONNX's own QuantizeLinear and DequantizeLinear with that range."""
    scale = np.float32((high - low) / 255 or 1)
    zero = np.clip(round(-low / float(scale)), 0, 255)
    rounded = round_by_onnx(values, scale, zero)
    return float(((rounded - values).astype(np.float64) ** 2).sum())


@pytest.mark.parametrize("n", [1, 4, 6])
def test_the_means_of_tokens_are_those_of_their_values(network, n):
    """As linear layers read them: images times tokens first; attention may also have the tokens first."""
    extended = type(network)()
    extended.CopyFrom(network)
    extended.graph.initializer.append(numpy_helper.from_array(np.array([-1, 3]), "rows"))
    extended.graph.node.append(helper.make_node("Transpose", ["centred"], ["cells_first"], perm=[2, 3, 0, 1]))
    extended.graph.node.append(helper.make_node("Reshape", ["cells_first", "rows"], ["tokens"]))
    images = np.random.default_rng(n).integers(0, 256, (n, 8, 6, 3)).astype(np.uint8)
    found = measure_activations(extended, ["tokens", "cells_first"], images, 1, lambda _: None)
    expected = images.astype(np.float64).mean(axis=(0, 1, 2)) - np.float32(MIDDLE)
    np.testing.assert_allclose(found["tokens"].mean, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found["cells_first"].mean.mean(), expected.mean(), rtol=1e-4, atol=1e-3)


def test_tensors_of_many_axes_have_ranges_too(network):
    """Such as the windows of a transformer, of which no more than three axes can be pooled."""
    shape = numpy_helper.from_array(np.array([0, 3, 2, 4, 2, 3]), "windows_shape")
    network.graph.initializer.append(shape)
    network.graph.node.append(helper.make_node("Reshape", ["centred", "windows_shape"], ["windows"]))
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3)).astype(np.uint8)
    found = measure_activations(network, ["centred", "windows"], images, 1, lambda _: None)
    assert (found["windows"].low, found["windows"].high) == (found["centred"].low, found["centred"].high)
