from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.catalogue import EMBEDDED_DIRECTORY
from pc_engine.errors import BackendError
from pc_engine.graph.half import cast_to_half
from pc_engine.graph.half_rounding import round_like_half
from pc_engine.graph.prepare import open_graph
from pc_engine.manifest_file import read_manifest
from pc_engine.selection.candidates import TOLERANCE, probe_images, tap_difference

RNG = np.random.default_rng(7)
WEIGHTS = {
    "first": RNG.normal(0, 0.2, (16, 3, 1, 1)).astype(np.float32),
    "second": RNG.normal(0, 0.2, (8, 16, 1, 1)).astype(np.float32),
    "shift": np.float32(0.3),
}
NODES = [
    helper.make_node("Conv", ["x", "first"], ["a"]),
    helper.make_node("Relu", ["a"], ["b"]),
    helper.make_node("Add", ["b", "shift"], ["c"]),
    helper.make_node("Conv", ["c", "second"], ["maps"]),
    helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
]


TAPS = ("maps", "pooled")


def half(values):
    return values.astype(np.float16).astype(np.float64)


def by_hand(images):
    """The maps of `network`, rounded where a GPU rounds and summed in full."""
    first, second = (half(WEIGHTS[name][:, :, 0, 0]) for name in ("first", "second"))
    x = half(images.transpose(0, 3, 1, 2).astype(np.float64))
    a = half(np.einsum("oc,nchw->nohw", first, x))
    c = half(np.maximum(a, 0) + half(WEIGHTS["shift"]))
    return half(np.einsum("oc,nchw->nohw", second, c))


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_what_a_runtime_gives_is_rounded_after_each_operation(prepared_network, level):
    model = prepared_network(NODES, WEIGHTS, TAPS)
    round_like_half(model)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    images = RNG.integers(0, 256, (5, 4, 4, 3), np.uint8)
    maps, pooled = session.run(["maps", "pooled"], {session.get_inputs()[0].name: images})
    expected = by_hand(images)
    # Sums of 32 bits may round to the neighbour: a value in a thousand, by a part in a thousand.
    assert (maps != expected.astype(np.float32)).mean() < 0.01
    np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(maps, half(maps))
    # Sums over a map stay in float32.
    np.testing.assert_allclose(pooled, maps.mean(axis=(2, 3), keepdims=True), rtol=1e-5)
    assert (pooled != half(pooled)).any()


def test_it_is_as_far_from_fp32_as_half_precision_itself(run_graph):
    manifest = read_manifest(EMBEDDED_DIRECTORY)
    images = probe_images(128, 128, 4, seed=3)
    models = [open_graph(EMBEDDED_DIRECTORY / "model.onnx", manifest, tuple(manifest.taps)) for _ in range(3)]
    cast_to_half(models[1])
    round_like_half(models[2])
    exact, cast, rounded = (run_graph(model, images) for model in models)
    for name in manifest.taps:
        assert rounded[name].dtype == np.float32
        far = tap_difference({name: rounded[name]}, {name: exact[name]})
        assert 0 < far < TOLERANCE["fp16"] / 5
        assert tap_difference({name: rounded[name]}, {name: cast[name]}) < 2 * far


def test_casts_to_other_types_stay(prepared_network, run_graph):
    """As in a network that was stored in float16 and masks by a comparison of its own."""
    nodes = [
        helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["x16", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Cast", ["b"], ["mask"], to=TensorProto.BOOL),
        helper.make_node("Cast", ["b"], ["whole"], to=TensorProto.INT32),
        helper.make_node("Cast", ["whole"], ["whole16"], to=TensorProto.FLOAT16),
        helper.make_node("Where", ["mask", "whole16", "b"], ["c"]),
        helper.make_node("Cast", ["c"], ["maps"], to=TensorProto.FLOAT),
    ]
    model = prepared_network(nodes, {"w": np.float16(WEIGHTS["first"] / 8)}, ("maps",))
    round_like_half(model)
    maps = run_graph(model, RNG.integers(0, 256, (2, 4, 4, 3), np.uint8))["maps"]
    assert maps.any()
    np.testing.assert_array_equal(maps, np.trunc(maps))


def test_nothing_is_stored_or_computed_in_float16(prepared_network):
    model = prepared_network(NODES, WEIGHTS, TAPS)
    round_like_half(model)
    assert all(tensor.data_type != TensorProto.FLOAT16 for tensor in model.graph.initializer)
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    halves = {value.name for value in inferred if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    assert halves
    for node in model.graph.node:
        assert node.op_type == "Cast" or halves.isdisjoint((*node.input, *node.output))


def test_a_constant_of_a_network_that_was_stored_in_float16_is_widened(prepared_network, run_graph):
    nodes = [
        helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
        helper.make_node("Constant", [], ["tenth"], value=numpy_helper.from_array(np.float16([0.1]))),
        helper.make_node("Mul", ["x16", "tenth"], ["a"]),
        helper.make_node("Cast", ["a"], ["maps"], to=TensorProto.FLOAT),
    ]
    model = prepared_network(nodes, {}, ("maps",))
    round_like_half(model)
    tensors = [item.t for node in model.graph.node for item in node.attribute if item.HasField("t")]
    assert tensors
    assert all(tensor.data_type == TensorProto.FLOAT for tensor in tensors)
    images = RNG.integers(0, 256, (2, 4, 4, 3), np.uint8)
    expected = half(half(images.transpose(0, 3, 1, 2).astype(np.float64)) * half(np.array(0.1)))
    np.testing.assert_array_equal(run_graph(model, images)["maps"], expected)


def test_a_weight_that_is_too_large_for_half_precision_is_refused(prepared_network):
    with pytest.raises(BackendError):
        round_like_half(prepared_network(NODES, {**WEIGHTS, "second": WEIGHTS["second"] * np.float32(1e6)}, TAPS))
