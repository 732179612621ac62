from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.catalogue import EMBEDDED_DIRECTORY
from pc_engine.errors import BackendError
from pc_engine.export.quantise import quantise_network
from pc_engine.graph.half import cast_to_half
from pc_engine.graph.prepare import open_graph
from pc_engine.manifest import Tap
from pc_engine.manifest_file import read_manifest
from pc_engine.selection.candidates import TOLERANCE, probe_images, tap_difference


def halved(model, **options):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    cast_to_half(copy, **options)
    return copy


def types(model):
    inferred = onnx.shape_inference.infer_shapes(model)
    return {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info} | {
        tensor.name: tensor.data_type for tensor in model.graph.initializer
    }


def test_lego_in_half_precision_gives_nearly_the_same_taps(run_graph):
    manifest = read_manifest(EMBEDDED_DIRECTORY)
    model = open_graph(EMBEDDED_DIRECTORY / "model.onnx", manifest, tuple(manifest.taps))
    images = probe_images(128, 128, 4, seed=3)
    half = halved(model)
    expected, found = run_graph(model, images), run_graph(half, images)
    for name in manifest.taps:
        assert found[name].dtype == np.float32
        assert 0 < tap_difference({name: found[name]}, {name: expected[name]}) < TOLERANCE["fp16"] / 5, name


def test_every_layer_with_weights_computes_in_half_precision():
    manifest = read_manifest(EMBEDDED_DIRECTORY)
    half = halved(open_graph(EMBEDDED_DIRECTORY / "model.onnx", manifest, tuple(manifest.taps)))
    kinds = types(half)
    layers = [node for node in half.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 9
    assert all(kinds[name] == TensorProto.FLOAT16 for node in layers for name in (*node.input, *node.output))
    # The file stores these weights in float16: they are used as they are, without a copy.
    assert not any(tensor.name.endswith("weight/half") for tensor in half.graph.initializer)
    assert not any(node.op_type == "Cast" and "weight" in node.input[0] for node in half.graph.node)


def test_weights_are_rounded_to_the_nearest_and_stored_once(prepared_network):
    weights = np.random.default_rng(0).normal(size=(5, 3, 1, 1)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Conv", ["x", "w"], ["b"]),
    ]
    half = halved(prepared_network(nodes, {"w": weights}, {"a": (5, 4, 4), "b": (5, 4, 4)}))
    (stored,) = half.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(stored), weights.astype(np.float16))


def test_pixels_are_normalised_before_anything_is_rounded(prepared_network, run_graph):
    """A mean that float16 cannot hold, and pixels whose difference from it float16 would lose."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"])]
    weights = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    model = prepared_network(nodes, {"w": weights}, {"a": (3, 4, 4)}, mean=(100.01, 100.02, 100.03))
    images = np.full((1, 4, 4, 3), 100, np.uint8)
    expected = -np.array([0.01, 0.02, 0.03])
    found = run_graph(halved(model), images)["a"][0, :, 0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-3)  # in float16 100.01 - 100 is 0


def test_whole_pixels_reach_weights_that_hold_the_normalisation_unchanged(prepared_network, run_graph):
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w"], ["a"]),
    ]
    weights = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    model = prepared_network(nodes, {"w": weights}, {"a": (3, 16, 16)}, shape=(16, 16), dtype="uint8")
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    np.testing.assert_array_equal(run_graph(halved(model), images)["a"], images.transpose(0, 3, 1, 2))


def test_sums_over_a_map_and_softmax_stay_in_float32(prepared_network, run_graph):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("GlobalAveragePool", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Softmax", ["c"], ["d"]),
    ]
    weights = np.full((2, 3, 1, 1), 1000, np.float32)
    model = prepared_network(nodes, {"w": weights}, {"d": (2,), "c": (2,)}, shape=(64, 64))
    half = halved(model)
    kinds = types(half)
    assert kinds["b"] == TensorProto.FLOAT
    # 64 x 64 values of 20,000 are a sum of 8e7, beyond float16.
    images = np.full((1, 64, 64, 3), 7, np.uint8)
    assert run_graph(half, images)["c"][0, 0] == 21000


def test_a_tensor_read_in_both_precisions_is_cast_once_each_way(prepared_network, run_graph):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Conv", ["b", "v"], ["d"]),
        helper.make_node("ReduceMean", ["b"], ["e"], axes=[2, 3]),
        helper.make_node("Add", ["d", "b"], ["f"]),
    ]
    weights = {"w": np.ones((3, 3, 1, 1), np.float32), "v": np.ones((3, 3, 1, 1), np.float32)}
    model = prepared_network(nodes, weights, {"b": (3, 4, 4), "c": (3, 1, 1), "e": (3, 1, 1), "f": (3, 4, 4)})
    half = halved(model)
    casts = [tuple(node.output) for node in half.graph.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts)) == 4  # pixels to float, to half; b and f back
    images = probe_images(4, 4, 2)
    assert tap_difference(run_graph(half, images), run_graph(model, images)) < 2e-3


def test_shapes_are_read_off_the_half_precision_tensor(prepared_network):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Shape", ["a"], ["s"]),
        helper.make_node("Reshape", ["a", "s"], ["b"]),
    ]
    half = halved(prepared_network(nodes, {"w": np.ones((3, 3, 1, 1), np.float32)}, {"b": (3, 4, 4)}))
    assert [node.op_type for node in half.graph.node].count("Cast") == 3


def test_bounds_beyond_float16_bound_nothing_and_weights_beyond_it_are_refused(prepared_network, run_graph):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Clip", ["a", "low", "high"], ["b"]),
    ]
    weights = {"w": np.ones((3, 3, 1, 1), np.float32), "low": np.float32(0), "high": np.float32(3e38)}
    taps = {"b": (3, 4, 4)}
    images = probe_images(4, 4, 2)
    model = prepared_network(nodes, weights, taps)
    assert tap_difference(run_graph(halved(model), images), run_graph(model, images)) < 2e-3
    weights["w"] = weights["w"] * 1e5
    with pytest.raises(BackendError, match=r"computed in float16: 'w' holds 1e\+05, and float16 ends at 65504; run it"):
        cast_to_half(prepared_network(nodes, weights, taps))


def test_operators_it_does_not_know_stay_as_they_were(prepared_network, run_graph):
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Resize", ["a", "", "scales"], ["b"], mode="nearest"),
        helper.make_node("LRN", ["b"], ["c"], size=3),
    ]
    weights = {"w": np.ones((3, 3, 1, 1), np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}
    model = prepared_network(nodes, weights, {"c": (3, 8, 8)})
    half = halved(model)
    assert {tensor.name: tensor.data_type for tensor in half.graph.initializer}["scales"] == TensorProto.FLOAT
    images = probe_images(4, 4, 2)
    assert tap_difference(run_graph(half, images), run_graph(model, images)) < 2e-3


def test_bodies_of_conditions_read_float32(prepared_network, run_graph):
    inner = helper.make_graph(
        [helper.make_node("Mul", ["a", "a"], ["inner"])],
        "body",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("If", ["yes"], ["b"], then_branch=inner, else_branch=inner),
    ]
    weights = {"w": np.ones((3, 3, 1, 1), np.float32), "yes": np.array(True)}
    model = prepared_network(nodes, weights, {"b": (3, 4, 4)})
    images = probe_images(4, 4, 2)
    assert tap_difference(run_graph(halved(model), images), run_graph(model, images)) < 2e-3


def test_taps_that_nothing_was_computed_for_in_half_are_exact(run_graph):
    manifest = read_manifest(EMBEDDED_DIRECTORY)
    renamed = replace(manifest, taps={**manifest.taps, "pixels": Tap("pixels", (128, 128, 3))})
    half = halved(open_graph(EMBEDDED_DIRECTORY / "model.onnx", renamed, ("pixels", "logits")))
    images = probe_images(128, 128, 2)
    np.testing.assert_array_equal(run_graph(half, images)["pixels"], images)


@pytest.fixture(scope="module")
def lego_fp8(tmp_path_factory):
    """The embedded network in fp8, prepared."""
    path, manifest = tmp_path_factory.mktemp("fp8") / "model.fp8.onnx", read_manifest(EMBEDDED_DIRECTORY)
    pictures = probe_images(128, 128, 4)
    network = quantise_network(EMBEDDED_DIRECTORY / "model.onnx", manifest, pictures, path, precision="fp8", threads=1)
    taps = tuple(manifest.taps)
    return open_graph(path, replace(manifest, input=network.input, taps=network.taps), taps)


def test_around_levels_all_is_in_half_precision_and_levels_stay(lego_fp8, run_graph):
    """TensorRT's products of fp8 give float16: in float32 there is none, or a slow one."""
    half = onnx.ModelProto()
    half.CopyFrom(lego_fp8)
    cast_to_half(half, around_levels=True)
    onnx.checker.check_model(half, full_check=True)
    kinds = types(half)
    producers = {name: node for node in half.graph.node for name in node.output}
    layers = [node for node in half.graph.node if node.op_type in ("Conv", "Gemm")]
    assert {kinds[name] for node in layers for name in (*node.input, *node.output)} == {TensorProto.FLOAT16}
    for node in layers[1:]:
        values, weights = (producers[name] for name in node.input[:2])
        assert values.op_type == weights.op_type == "DequantizeLinear"
        assert kinds[values.input[0]] == kinds[weights.input[0]] == TensorProto.FLOAT8E4M3FN
        rounding = producers[values.input[0]]
        # What is summed over a map is rounded from float32.
        exact = kinds.get(rounding.input[0], TensorProto.FLOAT)
        assert exact == kinds[rounding.input[1]]
        assert exact == TensorProto.FLOAT16 or rounding.input[0] in {"gap", "count_gap"}, rounding.input[0]
    images = probe_images(128, 128, 4, seed=3)
    expected, found = run_graph(lego_fp8, images), run_graph(half, images)
    for name, tap in found.items():
        assert tap.dtype == np.float32
        assert 0 < tap_difference({name: tap}, {name: expected[name]}) < TOLERANCE["fp8"] / 5, name


def behind_levels(prepared_network, scale, opset=21, *, computed=False):
    nodes = [
        *([helper.make_node("Identity", ["stored"], ["t"])] if computed else []),
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("QuantizeLinear", ["a", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["v", "t", "z"], ["second"]),
        helper.make_node("Conv", ["d", "second"], ["e"]),
        helper.make_node("Relu", ["d"], ["r"]),
    ]
    stored = {
        "w": np.ones((2, 3, 1, 1), np.float32),
        "v": np.ones((2, 2, 1, 1), np.int8),
        "s": np.float32(4),
        "stored" if computed else "t": np.float32(scale),
        "z": np.int8(0),
    }
    model = prepared_network(nodes, stored, {"e": (2, 4, 4), "r": (2, 4, 4)})
    model.opset_import[0].version = opset
    cast_to_half(model, around_levels=True)
    kinds = types(model)
    outputs = {value.name for value in model.graph.output}  # which are float32
    return {
        node.op_type: TensorProto.FLOAT if node.output[0] in outputs else kinds[node.output[0]]
        for node in model.graph.node
        if node.op_type in ("Conv", "Relu")
    }


def test_scales_that_float16_does_not_hold_keep_their_layer_in_float32(prepared_network):
    assert behind_levels(prepared_network, 1e-4) == {"Conv": TensorProto.FLOAT16, "Relu": TensorProto.FLOAT16}
    for scale in (1e-7, 1e6):  # rounded by a quarter, and infinite
        assert behind_levels(prepared_network, scale) == {"Conv": TensorProto.FLOAT, "Relu": TensorProto.FLOAT16}


def test_a_scale_that_the_network_computes_keeps_its_layer_in_float32(prepared_network):
    found = behind_levels(prepared_network, 1e-4, computed=True)
    assert found == {"Conv": TensorProto.FLOAT, "Relu": TensorProto.FLOAT16}


def test_levels_of_what_is_not_in_half_precision_are_made_of_all_its_bits(prepared_network):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Conv", ["d", "w"], ["maps"]),
    ]
    stored = {"w": np.ones((2, 3, 1, 1), np.float32), "s": np.float32(4), "z": np.int8(0)}
    model = prepared_network(nodes, stored, {"maps": (2, 4, 4)})
    model.opset_import[0].version = 21
    half = halved(model, around_levels=True)
    kinds = types(half)
    [quantise] = (node for node in half.graph.node if node.op_type == "QuantizeLinear")
    assert [kinds[name] for name in quantise.input[:2]] == [TensorProto.FLOAT, TensorProto.FLOAT]


def test_graphs_older_than_scales_in_float16_have_none(prepared_network):
    assert behind_levels(prepared_network, 1e-4, opset=17)["Conv"] == TensorProto.FLOAT


@pytest.mark.parametrize("around_levels", [False, True])
def test_weights_in_levels_are_constants_of_a_layer_that_reads_none(prepared_network, run_graph, around_levels):
    """The first layer reads pixels, with weights in 8 bits; the second reads levels, and stays in integers."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["first"], axis=0),
        helper.make_node("DequantizeLinear", ["v", "vs", "wz"], ["second"], axis=0),
        helper.make_node("Conv", ["x", "first", "bias"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("QuantizeLinear", ["b", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Conv", ["d", "second"], ["e"]),
        helper.make_node("Relu", ["e"], ["f"]),
    ]
    weights = {
        "w": rng.integers(-127, 128, (2, 3, 1, 1)).astype(np.int8),
        "ws": np.array([0.01, 0.003], np.float32),
        "v": rng.integers(-127, 128, (2, 2, 1, 1)).astype(np.int8),
        "vs": np.array([0.1, 0.2], np.float32),
        "wz": np.zeros(2, np.int8),
        "bias": np.array([1, 2], np.float32),
        "s": np.float32(1.5),
        "z": np.int8(0),
    }
    model = prepared_network(nodes, weights, {"b": (2, 4, 4), "f": (2, 4, 4)})
    model.opset_import[0].version = 21  # scales may be float16
    half = halved(model, around_levels=around_levels)
    kinds = types(half)
    first, second = (node for node in half.graph.node if node.op_type == "Conv")
    assert {kinds[name] for name in first.input} == {TensorProto.FLOAT16}
    assert {kinds[name] for name in second.input} == {TensorProto.FLOAT16 if around_levels else TensorProto.FLOAT}
    assert second.input[1] in {node.output[0] for node in half.graph.node if node.op_type == "DequantizeLinear"}
    np.testing.assert_array_equal(
        numpy_helper.to_array(next(t for t in half.graph.initializer if t.name == first.input[1])),
        (weights["w"] * weights["ws"].reshape(2, 1, 1, 1)).astype(np.float16),
    )
    images = probe_images(4, 4, 4)
    expected, found = run_graph(model, images), run_graph(half, images)
    assert tap_difference({"b": found["b"]}, {"b": expected["b"]}) < 1e-3
    assert tap_difference({"f": found["f"]}, {"f": expected["f"]}) < 0.02  # a level more or less here and there
