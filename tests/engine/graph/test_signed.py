from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from pc_engine.catalogue import EMBEDDED_DIRECTORY
from pc_engine.errors import BackendError
from pc_engine.export.quantise import quantise_network
from pc_engine.graph.prepare import open_graph
from pc_engine.graph.signed import make_signed
from pc_engine.manifest_file import read_manifest
from pc_engine.selection.candidates import probe_images, tap_difference


def signed(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    make_signed(copy)
    return copy


def make(nodes, stored, taps=("tap",), size=256, opset=17):
    """A prepared graph over ``image`` [N, size, 1, 3], which a 1 x 1 convolution to ``sum`` [N, 1, size, 1] begins."""
    begin = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel", "bias"], ["sum"]),
    ]
    graph = helper.make_graph(
        [*begin, *nodes],
        "made",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", size, 1, 3])],
        [helper.make_tensor_value_info(tap, TensorProto.FLOAT, ["N", None, None, None]) for tap in taps],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def pair(source, result, scale="s", zero="z"):
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero], [f"{result}_q"]),
        helper.make_node("DequantizeLinear", [f"{result}_q", scale, zero], [result]),
    ]


# The sum of the red pixel, less 128: every whole number from -128 to 127.
RAMP = {"kernel": np.array([[[[1]], [[0]], [[0]]]], np.float32), "bias": np.array([-128], np.float32)}
PIXELS = np.arange(256, dtype=np.uint8).reshape(1, 256, 1, 1).repeat(3, axis=3)
VALUES = np.arange(-128, 128)


def by_hand(values, scale, zero):
    """What an unsigned pair allows through, rounded to 127 levels on either side of 0."""
    low, high = -zero * scale, (255 - zero) * scale
    step = np.float32(max(zero, 255 - zero) * scale / 127)
    return np.clip(np.rint(np.clip(values, low, high).astype(np.float32) / step), -128, 127) * step


@settings(max_examples=40)
@given(scale=st.floats(0.05, 2), zero=st.integers(0, 255))
def test_a_pair_rounds_to_127_levels_over_the_same_range(scale, zero, run_graph):
    scale = float(np.float32(scale))
    model = make(pair("sum", "tap"), {**RAMP, "s": np.float32(scale), "z": np.uint8(zero)})
    original, found = run_graph(model, PIXELS)["tap"].ravel(), run_graph(signed(model), PIXELS)["tap"].ravel()
    np.testing.assert_allclose(found, by_hand(VALUES, scale, zero), rtol=1e-5, atol=1e-5)
    # Nothing moves by more than half a step of either.
    step = max(zero, 255 - zero) * scale / 127
    assert np.abs(found - original).max() <= (step + scale) / 2 * 1.001
    # The larger end of the range is a level of both.
    end = (255 - zero) * scale if 255 - zero >= zero else -zero * scale
    if VALUES[0] <= end <= VALUES[-1]:
        extreme = found.max() if end > 0 else found.min()
        assert extreme == pytest.approx(end, rel=1e-5)


def test_a_relu_that_the_levels_stood_for_is_put_back(run_graph):
    model = make(pair("sum", "tap"), {**RAMP, "s": np.float32(0.5), "z": np.uint8(0)})
    changed = signed(model)
    assert [node.op_type for node in changed.graph.node][3:] == ["Relu", "QuantizeLinear", "DequantizeLinear"]
    found = run_graph(changed, PIXELS)["tap"].ravel()
    assert (found[VALUES <= 0] == 0).all()
    assert found[-1] == pytest.approx(127, rel=1e-2)


@pytest.mark.parametrize("operator", ["Relu", "Sigmoid", "Clip"])
def test_no_second_relu_where_nothing_is_negative(operator):
    bounds = ["low", "high"] if operator == "Clip" else []
    nodes = [
        helper.make_node(operator, ["sum", *bounds], ["activated"]),
        helper.make_node("MaxPool", ["activated"], ["pooled"], kernel_shape=[1, 1]),
        *pair("pooled", "rounded"),
        helper.make_node("MaxPool", ["rounded"], ["again"], kernel_shape=[1, 1]),
        *pair("again", "tap"),
    ]
    stored = {**RAMP, "s": np.float32(0.5), "z": np.uint8(0), "low": np.float32(0), "high": np.float32(6)}
    changed = signed(make(nodes, stored))
    assert [node.op_type for node in changed.graph.node].count("Relu") == (operator == "Relu")
    assert [node.op_type for node in changed.graph.node].count("QuantizeLinear") == 2


@pytest.mark.parametrize("bounds", [["", "high"], ["low", "high"]])
def test_a_relu_where_a_bound_lets_negative_values_through(bounds, run_graph):
    nodes = [helper.make_node("Clip", ["sum", *bounds], ["activated"]), *pair("activated", "tap")]
    stored = {**RAMP, "s": np.float32(0.5), "z": np.uint8(0), "low": np.float32(-6), "high": np.float32(6)}
    assert run_graph(signed(make(nodes, stored)), PIXELS)["tap"].min() == 0


def test_pixels_are_not_rounded_to_127_levels(run_graph):
    begin = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        *pair("planes", "rounded"),
        helper.make_node("Conv", ["rounded", "kernel", "bias"], ["tap"]),
    ]
    model = make([], {**RAMP, "s": np.float32(1), "z": np.uint8(0)})
    del model.graph.node[:]
    model.graph.node.extend(begin)
    changed = signed(model)
    assert not any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in changed.graph.node)
    np.testing.assert_array_equal(run_graph(changed, PIXELS)["tap"].ravel(), VALUES)


def test_what_is_signed_and_symmetric_stays_bit_for_bit():
    nodes = [
        *pair("sum", "rounded"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["weights"], axis=0),
        helper.make_node("Conv", ["rounded", "weights"], ["tap"]),
    ]
    stored = {
        **RAMP,
        "s": np.float32(0.7),
        "z": np.int8(0),
        "w": np.array([[[[3]]], [[[-127]]]], np.int8),
        "ws": np.array([0.1, 0.2], np.float32),
        "wz": np.zeros(2, np.int8),
    }
    model = make(nodes, stored)
    assert signed(model).SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("stored", "nodes", "message"),
    [
        (
            {"w": np.array([[[[3]]]], np.uint8), "ws": np.array([0.1], np.float32), "wz": np.array([3], np.uint8)},
            [
                helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["weights"], axis=0),
                helper.make_node("Conv", ["sum", "weights"], ["tap"]),
            ],
            "signed weights around 0, and 'w' has others|zero points by channel",
        ),
        (
            {"s": np.array([1], np.float32), "z": np.array([3], np.uint8), "s2": np.float32(1)},
            [helper.make_node("Identity", ["s2"], ["computed"]), *pair("sum", "tap", "computed")],
            "computed rather than stored",
        ),
    ],
    ids=["weights", "computed"],
)
def test_levels_that_tensorrt_cannot_have_are_refused(stored, nodes, message):
    with pytest.raises(BackendError, match=message):
        make_signed(make(nodes, {**RAMP, **stored}))


@pytest.mark.parametrize("output_type", [None, TensorProto.UINT8])
def test_levels_without_a_zero_point_are_unsigned(output_type, run_graph):
    attributes = {} if output_type is None else {"output_dtype": output_type}
    nodes = [
        helper.make_node("QuantizeLinear", ["sum", "s"], ["q"], **attributes),
        helper.make_node("DequantizeLinear", ["q", "s"], ["tap"]),
    ]
    model = make(nodes, {**RAMP, "s": np.float32(0.5)}, opset=21)
    found = run_graph(signed(model), PIXELS)["tap"].ravel()
    np.testing.assert_allclose(found, by_hand(VALUES, 0.5, 0), rtol=1e-5)


def test_levels_in_fp8_stay_bit_for_bit():
    nodes = [
        helper.make_node("QuantizeLinear", ["sum", "s"], ["q"], output_dtype=TensorProto.FLOAT8E4M3FN),
        helper.make_node("DequantizeLinear", ["q", "s"], ["tap"]),
    ]
    model = make(nodes, {**RAMP, "s": np.float32(0.5)}, opset=21)
    assert signed(model).SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


@pytest.fixture(scope="module")
def quantised_lego(tmp_path_factory):
    manifest = read_manifest(EMBEDDED_DIRECTORY)
    path = tmp_path_factory.mktemp("lego") / "model.int8.onnx"
    network = quantise_network(EMBEDDED_DIRECTORY / "model.onnx", manifest, probe_images(128, 128, 16), path, threads=1)
    return path, replace(manifest, input=network.input, taps=network.taps)


def test_the_quantised_lego_keeps_its_numbers(quantised_lego, run_graph):
    path, manifest = quantised_lego
    model = open_graph(path, manifest, tuple(manifest.taps))
    images = probe_images(128, 128, 4, seed=3)
    changed = signed(model)
    expected, found = run_graph(model, images), run_graph(changed, images)
    for name in manifest.taps:
        assert found[name].dtype == np.float32
        # As far as the unsigned network is from float32: twice the step, and the pixels exact.
        assert tap_difference({name: found[name]}, {name: expected[name]}) < 0.05, name
    zeros = {t.name: t.data_type for t in changed.graph.initializer}
    rounding = [n for n in changed.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert rounding
    assert all(zeros[node.input[2]] == TensorProto.INT8 for node in rounding)


def test_layers_read_what_they_read_before_but_for_the_first(quantised_lego):
    path, manifest = quantised_lego
    model = open_graph(path, manifest, tuple(manifest.taps))
    changed = signed(model)

    def integer_layers(graph):
        producers = {name: node.op_type for node in graph.node for name in node.output}
        layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
        return [producers.get(node.input[0]) == "DequantizeLinear" for node in layers]

    assert all(integer_layers(model.graph))
    assert integer_layers(changed.graph) == [False] + [True] * (len(integer_layers(model.graph)) - 1)
