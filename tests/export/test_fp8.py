from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from pc_engine.backbone import CompileRequest
from pc_engine.backends import BACKENDS
from pc_engine.export import Cooccurrence, export_vgg
from pc_engine.export.fp8 import FP8, render
from pc_engine.export.quantise import quantise_network
from pc_engine.manifest import QUANTISED_FILES, Manifest, NetworkInput, Tap
from pc_engine.manifest_file import write_manifest
from pc_engine.selection.candidates import probe_images, tap_difference

TAPS = ("conv_prev", "conv_last", "pool5", "fc6", "fc7", "logits")
FILE = QUANTISED_FILES["fp8"]
#: All numbers of the type that are not negative, worked out from its bits: 4 of exponent (bias 7), 3 of mantissa.
NUMBERS = np.array(
    [m * 2.0**-9 for m in range(8)] + [(8 + m) * 2.0 ** (e - 10) for e in range(1, 16) for m in range(8)][:-1]
)


def _nearest(values):
    """The nearest numbers of the type, by comparing with each of them."""
    signed = np.concatenate([-NUMBERS[:0:-1], NUMBERS])
    return signed[np.abs(np.asarray(values)[..., None] - signed).argmin(axis=-1)]


def test_the_largest_number_is_448():
    assert NUMBERS[-1] == 448
    assert len(NUMBERS) == 127


@settings(max_examples=40)
@given(st.floats(-1e4, 0), st.floats(0, 1e4), st.integers(0, 10_000))
def test_values_are_rendered_by_the_nearest_number_over_the_larger_side(low, high, seed):
    values = np.random.default_rng(seed).uniform(1.2 * low - 1e-3, 1.2 * high + 1e-3, 64).astype(np.float32)
    largest = max(-low, high)
    scale = largest / 448 if np.float32(largest) / np.float32(448) > np.finfo(np.float32).tiny else 1.0
    found = render(values, low, high)
    expected = _nearest(np.clip(values / scale, -448, 448)) * scale
    # Half-way between two numbers it may be either.
    misses = np.abs(found - np.float64(values)) - np.abs(expected - np.float64(values))
    assert misses.max() <= 1e-6 * max(largest, scale, np.abs(values).max())
    assert np.abs(found).max() <= 448 * scale * (1 + 1e-6)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(0, 1))
def test_weights_are_rounded_to_the_numbers_of_the_type_in_steps_of_their_output(seed, outputs, axis):
    weights = np.random.default_rng(seed).standard_normal((outputs, 5) if axis == 0 else (5, outputs))
    weights = weights.astype(np.float32)
    steps = FP8.grid.steps(weights, axis)
    found = FP8.grid.nearest(weights, steps) / steps
    distance = np.abs(found - weights / steps)
    np.testing.assert_allclose(distance, np.abs(_nearest(weights / steps) - weights / steps), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.abs(found).max(axis=1 - axis), 448, rtol=1e-6)


@pytest.fixture(scope="module")
def small_vgg(tiny, tiny_weights, tmp_path_factory):
    """A request for VGG16 in small that has a network at fp8, made with twelve pictures."""
    folder = tmp_path_factory.mktemp("vgg")
    save_file(tiny_weights, folder / "weights.safetensors")
    distances = (Cooccurrence("conv_last"), Cooccurrence("conv_last", 1))
    manifest = export_vgg(tiny, folder / "weights.safetensors", folder / "model", cooccurrences=distances)
    directory = folder / "model"
    network = directory / "model.onnx"
    quantised = quantise_network(
        network, manifest, probe_images(64, 64, 12), directory / FILE, precision="fp8", threads=1
    )
    manifest = write_manifest(replace(manifest, quantised={"fp8": quantised}), directory)
    return CompileRequest(network, manifest, TAPS, "fp32", 16, 1)


def _graph(request):
    return onnx.load(request.network.with_name(FILE)).graph


def test_every_layer_but_the_first_reads_what_is_rounded_and_weights_of_8_bits(small_vgg):
    graph = _graph(small_vgg)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm") and "evidence" not in node.name]
    assert [node.op_type for node in layers] == ["Conv"] * 13 + ["Gemm"] * 3
    first, *others = layers
    assert stored[first.input[1]].data_type == TensorProto.FLOAT
    for node in others:
        values, weights = (producers[name] for name in node.input[:2])
        assert (values.op_type, weights.op_type) == ("DequantizeLinear", "DequantizeLinear")
        rounding = producers[values.input[0]]
        assert rounding.op_type == "QuantizeLinear"
        assert stored[rounding.input[2]].data_type == TensorProto.FLOAT8E4M3FN
        assert rounding.input[1] == values.input[1]
        assert stored[weights.input[0]].data_type == TensorProto.FLOAT8E4M3FN
        scales = numpy_helper.to_array(stored[weights.input[1]])
        assert scales.shape == (stored[weights.input[0]].dims[0],)
        levels = numpy_helper.to_array(stored[weights.input[0]]).astype(np.float32)
        assert (np.abs(levels).reshape(len(levels), -1).max(axis=1) == 448).all()
        assert stored[node.input[2]].data_type == TensorProto.FLOAT
    assert _readers_of_rounded(graph) == {"Conv", "Gemm"}


def _readers_of_rounded(graph):
    """What reads tensors that were rounded as the network runs."""
    rounded = {node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    values = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in rounded}
    return {node.op_type for node in graph.node if values & set(node.input)}


def test_taps_are_close_to_those_at_fp32_and_those_of_a_gpu_closer_still(small_vgg):
    images = probe_images(64, 64, 16, seed=9)  # not among those that it was quantised with
    compile_ = BACKENDS["onnxruntime"].compile
    expected = compile_(small_vgg).infer(images)
    at = small_vgg.at("fp8")
    exact = compile_(replace(at, precision="fp32")).infer(images)  # the reference for a GPU
    as_a_gpu = compile_(at).infer(images)
    assert all(tap.dtype == np.float32 for tap in as_a_gpu.values())
    for name in TAPS:
        assert 0.005 < tap_difference({name: exact[name]}, {name: expected[name]}) < 0.15, name
        assert 0 < tap_difference({name: as_a_gpu[name]}, {name: exact[name]}) < 0.1, name


def test_the_evidence_and_cooccurrence_read_the_rounded_network(small_vgg):
    own = replace(small_vgg, taps=tuple(small_vgg.manifest.taps))
    images = probe_images(64, 64, 16, seed=9)
    # Without what float16 adds: products of these random maps are beyond its range.
    exact = replace(own.at("fp8"), precision="fp32")
    expected, found = (BACKENDS["onnxruntime"].compile(request).infer(images) for request in (own, exact))
    same = expected["logits"].argmax(axis=1) == found["logits"].argmax(axis=1)
    assert same.mean() > 0.8
    assert tap_difference({"e": found["evidence"][same]}, {"e": expected["evidence"][same]}) < 0.3
    for name in set(own.taps) - {*TAPS, "evidence"}:
        assert 0 < tap_difference({name: found[name]}, {name: expected[name]}) < 0.2, name


def _network(nodes, weights, shape=(6, 8, 8), opset=17):
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["pixels"], ["maps"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["maps", "first"], ["read"], name="first"),
            *nodes,
            helper.make_node("GlobalAveragePool", ["last"], ["pool"]),
            helper.make_node("Flatten", ["pool"], ["scores"]),
        ],
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 8, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", shape[0]])],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    taps = {"conv_last": Tap("last", shape), "logits": Tap("scores", shape[:1])}
    return model, Manifest("small", NetworkInput("image", 8, 8), taps, ("conv_last",))


def _quantised(folder, model, manifest):
    """The graph at fp8, and by how much its last maps differ on other images."""
    onnx.save(model, folder / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3)).astype(np.uint8)
    network = quantise_network(folder / "model.onnx", manifest, images[:16], folder / FILE, precision="fp8", threads=1)
    manifest = write_manifest(replace(manifest, quantised={"fp8": network}), folder)
    request = CompileRequest(folder / "model.onnx", manifest, ("conv_last",), "fp32", 16, 1)
    found, expected = (BACKENDS["onnxruntime"].compile(r).infer(images[16:]) for r in (request.at("fp8"), request))
    return onnx.load(folder / FILE).graph, tap_difference(found, expected)


def test_what_is_cut_off_before_it_is_rounded_runs_and_is_rounded_once_for_all_its_readers(tmp_path):
    """ONNX Runtime would join a Clip with the rounding after it, and fails where that is no integer."""
    rng = np.random.default_rng(1)
    weights = {"first": rng.standard_normal((6, 3, 1, 1)) / 64, "low": 0, "high": 6}
    weights |= {name: rng.standard_normal((6, 6, 3, 3)) for name in ("one", "other")}
    nodes = [
        helper.make_node("Clip", ["read", "low", "high"], ["cut"]),
        helper.make_node("Conv", ["cut", "one"], ["by_one"], name="one", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["cut", "other"], ["by_other"], name="other", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["by_one", "by_other"], ["sums"]),
        helper.make_node("Relu", ["sums"], ["last"]),
    ]
    graph, difference = _quantised(tmp_path, *_network(nodes, weights))
    assert [node.op_type for node in graph.node].count("QuantizeLinear") == 1
    assert _readers_of_rounded(graph) == {"Conv"}  # the sum, and what is cut off, are not rounded
    assert 0 < difference < 0.05


def test_a_grouped_convolution_and_one_that_reads_pixels_stay_as_they_are(tmp_path):
    rng = np.random.default_rng(2)
    weights = {"first": rng.standard_normal((6, 3, 1, 1)), "each": rng.standard_normal((6, 1, 3, 3))}
    weights |= {"all": rng.standard_normal((6, 6, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["read", "each"], ["by_map"], name="each", group=6, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["by_map", "all"], ["last"], name="all"),
    ]
    graph, difference = _quantised(tmp_path, *_network(nodes, weights))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for name in ("first", "each"):
        np.testing.assert_array_equal(stored[name], np.asarray(weights[name], np.float32))
    assert [values.dtype for values in stored.values() if values.ndim > 1].count(ml_dtypes.float8_e4m3fn) == 1
    assert 0 < difference < 0.05


def test_products_have_a_scale_for_each_output_and_old_opsets_are_converted(tmp_path):
    rng = np.random.default_rng(3)
    weights = {"first": rng.standard_normal((6, 3, 1, 1)), "matrix": rng.standard_normal((64, 5))}
    weights["matrix"][:, 2] *= 100
    model, manifest = _network([helper.make_node("Relu", ["read"], ["last"])], weights, opset=11)
    for name, shape in (("rows", [0, 6, -1]), ("back", [0, -1])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape), name))
    model.graph.node.extend(
        [
            helper.make_node("Reshape", ["last", "rows"], ["cells"]),
            helper.make_node("MatMul", ["cells", "matrix"], ["answers"], name="product"),
            helper.make_node("Reshape", ["answers", "back"], ["line"]),
        ]
    )
    manifest = replace(manifest, taps={**manifest.taps, "line": Tap("line", (30,))}, count_features=("line",))
    graph, _ = _quantised(tmp_path, model, manifest)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    product = next(node for node in graph.node if node.op_type == "MatMul")
    dequantise = producers[product.input[1]]
    assert helper.get_node_attr_value(dequantise, "axis") == 1
    np.testing.assert_allclose(
        numpy_helper.to_array(stored[dequantise.input[1]]), np.abs(weights["matrix"]).max(axis=0) / 448, rtol=1e-6
    )
    assert onnx.load(tmp_path / FILE).opset_import[0].version >= 19


@pytest.mark.parametrize("size", [1e-44, 1e-42, 1e-39, 1e-30])
def test_weights_and_activations_of_next_to_nothing_are_numbers(tmp_path, size):
    """As a network has them whose channels died while it learnt: their scales would be of few digits, or none."""
    rng = np.random.default_rng(4)
    weights = {"first": rng.standard_normal((6, 3, 1, 1)), "one": rng.standard_normal((6, 6, 3, 3))}
    weights |= {"other": rng.standard_normal((6, 6, 3, 3)), "faint": size / 100}
    weights["one"][2] *= size
    nodes = [
        helper.make_node("Conv", ["read", "one"], ["by_one"], name="one", pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["read", "faint"], ["next_to_nothing"]),
        helper.make_node("Conv", ["next_to_nothing", "other"], ["by_other"], name="other", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["by_one", "by_other"], ["last"]),
    ]
    graph, difference = _quantised(tmp_path, *_network(nodes, weights))
    scales = [numpy_helper.to_array(t) for t in graph.initializer if "/scale" in t.name]
    assert len(scales) == 4
    assert all((scale >= np.finfo(np.float32).tiny).all() for scale in scales)
    assert 0 < difference < 0.06


def test_the_range_is_the_one_that_the_numbers_of_the_type_render_best(tmp_path):
    """Of 0.5, 0.6, ... times the largest value, 160: over 0.7 of it, 13 is one of the numbers; integers suit 0.9."""
    weights = {"first": np.ones((6, 3, 1, 1)) / 3, "one": np.random.default_rng(6).standard_normal((6, 6, 1, 1))}
    model, manifest = _network([helper.make_node("Conv", ["read", "one"], ["last"], name="one")], weights)
    onnx.save(model, tmp_path / "model.onnx")
    images = np.full((33, 8, 8, 3), 13, np.uint8)
    images[32] = 160  # after those that the choice is made by
    quantise_network(tmp_path / "model.onnx", manifest, images, tmp_path / FILE, precision="fp8", threads=1)
    graph = onnx.load(tmp_path / FILE).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    [rounding] = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    np.testing.assert_allclose(stored[rounding.input[1]], 0.7 * 160 / 448, rtol=1e-5)


def test_nodes_and_tensors_that_are_called_like_those_inserted(tmp_path):
    rng = np.random.default_rng(5)
    weights = {"first": rng.standard_normal((6, 3, 1, 1))}
    weights |= {name: rng.standard_normal((6, 6, 3, 3)) for name in ("w", "w/scales")}
    nodes = [
        helper.make_node("Conv", ["read", "w"], ["read/rounded"], name="w/rounded", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["read/rounded"], ["w/levels"], name="read/levels"),
        helper.make_node("Conv", ["w/levels", "w/scales"], ["last"], name="w/levels/levels", pads=[1, 1, 1, 1]),
    ]
    graph, difference = _quantised(tmp_path, *_network(nodes, weights))
    names = [node.name for node in graph.node]
    assert len(names) == len(set(names))
    assert 0 < difference < 0.06
