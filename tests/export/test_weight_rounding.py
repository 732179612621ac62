import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pc_engine.export.activations import Activation
from pc_engine.export.int8 import INT8
from pc_engine.export.weight_rounding import InputCovariances, _ConvolutionInputs, round_weights

SIDE = 9
GRID = INT8.grid


def _model(weights, **attributes):
    """A network of one convolution, its maps the tensor ``maps``."""
    channels = weights.shape[1] * attributes.get("group", 1)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["maps", "weights"], ["sums"], name="layer", **attributes)],
        "one",
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["N", channels, SIDE, SIDE])],
        [helper.make_tensor_value_info("sums", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _smooth_maps(rng, n, channels):
    """Maps whose neighbouring values are alike, as those of photos are, and whose channels are."""
    maps = rng.standard_normal((n, channels + 2, SIDE + 4, SIDE + 4)).astype(np.float32)
    for axis, taps in ((1, 3), (2, 5), (3, 5)):
        size = maps.shape[axis] - taps + 1
        maps = sum(np.take(maps, range(k, k + size), axis) for k in range(taps))
    return maps


def _run(model, maps):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"maps": maps})[0]


def _rounded(model):
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "weights"))


LAYERS = {
    "plain": ((4, 3, 3, 3), {"pads": [1, 1, 1, 1]}),
    "strided": ((4, 3, 3, 2), {"strides": [2, 1], "pads": [0, 1, 2, 0]}),
    "dilated": ((4, 3, 2, 3), {"dilations": [3, 2]}),
    "pointwise": ((5, 40, 1, 1), {}),
    "depthwise": ((6, 1, 3, 3), {"group": 6, "pads": [1, 1, 1, 1]}),
    "grouped": ((6, 4, 3, 3), {"group": 2}),
    "in several blocks": ((4, 130, 3, 3), {"pads": [1, 1, 1, 1]}),
    "grouped, in several blocks": ((4, 130, 3, 3), {"group": 2}),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_samples_times_weights_are_the_sums_of_the_convolution(layer):
    shape, attributes = LAYERS[layer]
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(shape).astype(np.float32)
    model = _model(weights, **attributes)
    inputs = _ConvolutionInputs.of(model.graph.node[0], model.graph.initializer[0])
    maps = rng.standard_normal((1, shape[1] * attributes.get("group", 1), SIDE, SIDE)).astype(np.float32)
    samples = inputs.sample(maps[0], rng)
    parts = np.einsum("bpn,bno->bpo", samples, inputs.split(weights))
    sums = parts.reshape(inputs.groups, -1, *parts.shape[1:]).sum(axis=1)  # (groups, positions, outputs of a group)
    found = sums.transpose(0, 2, 1).reshape(shape[0], -1)
    expected = _run(model, maps)[0].reshape(shape[0], -1)
    assert found.shape == expected.shape
    order = [np.argsort(values[0]) for values in (found, expected)]  # positions are drawn
    np.testing.assert_allclose(found[:, order[0]], expected[:, order[1]], rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(inputs.join(inputs.split(weights), weights.shape), weights)
    np.testing.assert_array_equal(inputs.split_outputs(np.arange(shape[0])), inputs.split(np.indices(shape)[0])[:, :1])


@pytest.mark.parametrize("layer", LAYERS)
def test_sums_of_inputs_that_are_alike_change_less_than_by_the_nearest_weights(layer):
    shape, attributes = LAYERS[layer]
    rng = np.random.default_rng(1)
    weights = rng.standard_normal(shape).astype(np.float32)
    weights[1] *= 0.01  # each output has its own steps
    model = _model(weights, **attributes)
    channels = shape[1] * attributes.get("group", 1)
    known, held_out = (_smooth_maps(rng, n, channels) for n in (24, 8))
    covariances = InputCovariances(model, model.graph.node)
    for maps in known:
        covariances.add({"maps": maps[None]})
    expected = _run(model, held_out)
    step = np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / 127
    nearest = np.rint(weights / step) * step
    worse = _run(_model(nearest.astype(np.float32), **attributes), held_out) - expected
    round_weights(model, model.graph.node, GRID, {"maps": Activation(-9, 9, known.mean(axis=(0, 2, 3)))}, covariances)
    better = _run(model, held_out) - expected
    for errors in (worse, better):
        errors -= errors.mean(axis=(0, 2, 3), keepdims=True)  # the bias takes care of that
    ratio = np.square(better).mean(axis=(0, 2, 3)) / np.square(worse).mean(axis=(0, 2, 3))
    assert np.median(ratio) < 0.6
    levels = _rounded(model) / step
    np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
    np.testing.assert_allclose(np.abs(levels).max(axis=(1, 2, 3)), 127, atol=1e-3)
    assert np.abs(levels - weights / step).max() > 0.5 + 1e-3  # not the nearest


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_whatever_the_inputs_weights_are_127_steps_at_most_and_the_largest_stay(seed, outputs, channels, silent):
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((outputs, channels, 2, 2)).astype(np.float32)
    weights[0] = 0
    maps = rng.standard_normal((1, channels, SIDE, SIDE)).astype(np.float32) * np.float32(not silent)
    maps[:, 0] = 3  # a channel that never varies
    model = _model(weights)
    covariances = InputCovariances(model, model.graph.node)
    covariances.add({"maps": maps})
    round_weights(model, model.graph.node, GRID, {"maps": Activation(-9, 9, maps.mean(axis=(0, 2, 3)))}, covariances)
    rounded = _rounded(model)
    assert not rounded[0].any()
    largest = np.abs(weights).max(axis=(1, 2, 3))
    np.testing.assert_array_equal(np.abs(rounded).max(axis=(1, 2, 3)), largest)
    place = np.abs(weights).reshape(outputs, -1).argmax(axis=1)
    each = np.arange(outputs)
    np.testing.assert_array_equal(rounded.reshape(outputs, -1)[each, place], weights.reshape(outputs, -1)[each, place])


def test_inputs_that_do_not_vary_together_leave_the_nearest_weights():
    """With no covariance between inputs, no other weight can make good for an error."""
    rng = np.random.default_rng(2)
    weights = rng.standard_normal((3, 2, 1, 1)).astype(np.float32)
    model = _model(weights)
    covariances = InputCovariances(model, model.graph.node)
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], np.float32)
    for pair in signs:
        covariances.add({"maps": np.broadcast_to(pair[None, :, None, None], (1, 2, SIDE, SIDE)).copy()})
    round_weights(model, model.graph.node, GRID, {"maps": Activation(-1, 1, np.zeros(2))}, covariances)
    step = np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / 127
    np.testing.assert_allclose(_rounded(model), np.rint(weights / step) * step, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_of_a_linear_layer_are_rounded_to_127_steps_on_either_side(axis):
    weights = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    weights[2] = weights[:, 2] = 0
    node = helper.make_node("Gemm", ["values", "weights"], ["sums"], transB=1 - axis)
    graph = helper.make_graph([node], "one", [], [], [numpy_helper.from_array(weights, "weights")])
    model = helper.make_model(graph)
    step = np.abs(weights).max(axis=1 - axis, keepdims=True) / 127
    for _ in range(2):  # what is rounded stays
        round_weights(
            model,
            model.graph.node,
            GRID,
            {"values": Activation(0, 1, np.zeros(weights.shape[1 - axis]))},
            InputCovariances(model, model.graph.node),
        )
        rounded = _rounded(model)
        assert (np.abs(rounded - weights) <= step / 2 * (1 + 1e-5)).all()
        levels = rounded / np.where(step > 0, step, 1)
        np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)


def test_inputs_that_hardly_vary_leave_the_nearest_weights():
    """As of pictures that are all alike: what is left of their products by rounding is no covariance."""
    weights = np.random.default_rng(3).standard_normal((4, 3, 2, 2)).astype(np.float32)
    model = _model(weights)
    covariances = InputCovariances(model, model.graph.node)
    rng = np.random.default_rng(0)
    for _ in range(40):
        noise = rng.standard_normal((1, 3, SIDE, SIDE)) * 1e-4
        covariances.add({"maps": (1000 + noise).astype(np.float32)})
    round_weights(model, model.graph.node, GRID, {"maps": Activation(0, 1000, np.full(3, 1000.0))}, covariances)
    step = np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / 127
    np.testing.assert_allclose(np.abs(_rounded(model) - weights).max(), 0, atol=1.01 * float(step.max()))


@pytest.mark.parametrize("elsewhere", ["node", "branch"])
def test_weights_that_another_node_reads_as_well_stay_as_they_are_for_it(elsewhere):
    weights = np.random.default_rng(4).standard_normal((3, 3, 2, 2)).astype(np.float32)
    model = _model(weights)
    [layer] = model.graph.node
    name = layer.input[1]
    other = helper.make_node("Conv", ["maps", name], ["exact"], name="other")
    if elsewhere == "branch":
        given = [helper.make_tensor_value_info("exact", TensorProto.FLOAT, None)]
        branches = {f"{side}_branch": helper.make_graph([other], side, [], given) for side in ("then", "else")}
        other = helper.make_node("If", ["always"], ["exact_too"], **branches)
    model.graph.node.append(other)
    round_weights(model, [layer], GRID, {"maps": Activation(-1, 1, np.zeros(3))}, InputCovariances(model, [layer]))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.testing.assert_array_equal(stored[name], weights)
    step = np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / 127
    np.testing.assert_allclose(stored[layer.input[1]], np.rint(weights / step) * step, rtol=1e-5)
