"""The graph on NumPy arrays, with convolutions written out, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper

from pc_engine.backends.array_graph import ArrayGraph
from pc_engine.backends.array_layers import Convolution, Layer
from pc_engine.backends.onnxruntime import OnnxRuntimeBackend
from pc_engine.catalogue import EMBEDDED_DIRECTORY
from pc_engine.errors import BackendError
from pc_engine.export import Cooccurrence, VggSpec, build_vgg, random_weights
from pc_engine.export.cooccurrence import append_cooccurrence
from pc_engine.graph.half import cast_to_half
from pc_engine.graph.prepare import open_graph
from pc_engine.model import load_model
from pc_engine.networks import network_request
from pc_engine.selection.candidates import probe_images, tap_difference


def convolved(layer: Layer, x: np.ndarray) -> np.ndarray:
    """A layer in float32, from its definition."""
    made = layer.convolution
    if layer.constant is not None:  # it reads the images
        assert x.dtype == np.uint8
        x = np.pad(x.astype(np.float16), [(0, 0)] * 3 + [(0, 1)], constant_values=layer.constant)
    assert x.shape == made.images
    assert x.flags.c_contiguous
    assert layer.weights.shape == made.weights
    assert layer.bias.shape == (made.filters,)
    top, left, bottom, right = made.pads
    padded = np.pad(x.astype(np.float32), ((0, 0), (top, bottom), (left, right), (0, 0)))
    reach = tuple(step * (extent - 1) + 1 for extent, step in zip(made.window, made.dilation, strict=True))
    windows = sliding_window_view(padded, reach, axis=(1, 2))  # (N, rows, columns, C, window)
    windows = windows[:, :: made.stride[0], :: made.stride[1], :, :: made.dilation[0], :: made.dilation[1]]
    groups = np.split(windows, made.groups, axis=3)
    filters = np.split(layer.weights.astype(np.float32), made.groups)
    sums = [np.einsum("nyxcrs,frsc->nyxf", a, b, optimize=True) for a, b in zip(groups, filters, strict=True)]
    found = np.concatenate(sums, axis=3) + layer.bias.astype(np.float32)
    assert found.shape == made.result
    return (np.clip(found, 0, made.ceiling) if made.relu else found).astype(x.dtype)


def run(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    graph = ArrayGraph(model, len(images), "NumPy")
    return graph.run(images, lambda name, x: convolved(graph.layers[name], x))


@pytest.fixture(params=["fp32", "fp16"])
def precision(request):
    return request.param


def typed(request, precision):
    model = open_graph(request.network, request.manifest, request.taps)
    if precision == "fp16":
        cast_to_half(model)
    return model


TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3}


def test_the_embedded_model_gives_the_references_taps(precision):
    model = load_model(EMBEDDED_DIRECTORY)
    request = network_request(model, tuple(model.manifest.taps), batch_size=4)
    images = probe_images(128, 128, 4)
    found = run(typed(request, precision), images)
    assert tap_difference(found, OnnxRuntimeBackend().compile(request).infer(images)) < TOLERANCE[precision]
    assert all(tap.dtype == np.float32 and tap.flags.c_contiguous for tap in found.values())


def test_a_network_that_scales_its_pixels_itself_gives_the_references_taps(precision, tiny_directory):
    model = load_model(tiny_directory)
    request = network_request(model, tuple(model.manifest.taps), batch_size=3)
    images = probe_images(64, 64, 3)
    found = run(typed(request, precision), images)
    assert tap_difference(found, OnnxRuntimeBackend().compile(request).infer(images)) < TOLERANCE[precision]


@pytest.mark.parametrize("scale", [(1, 1), (2, 2), (1, 3)])
def test_vgg_gives_the_references_taps_with_evidence_and_cooccurrence(precision, scale):
    blocks = ((8,), (16,), (16, 24), (24, 24), (24, 24))
    spec = VggSpec("small", blocks, fc_width=40, trained_size=64, scale=scale)
    model = build_vgg(spec, random_weights(spec, seed=0, n_classes=10))
    for distance in (0, 1):
        append_cooccurrence(model, Cooccurrence("conv_last", distance))
    images = probe_images(*spec.size, 3)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in model.graph.output]
    expected = dict(zip(names, session.run(names, {"image": images}), strict=True))
    if precision == "fp16":
        cast_to_half(model)
    found = run(model, images)
    same = expected["logits"].argmax(axis=1) == found["logits"].argmax(axis=1)
    assert same.any()
    evidence = ({"evidence": taps.pop("evidence")[same]} for taps in (found, expected))
    assert tap_difference(found, expected) < TOLERANCE[precision]
    assert tap_difference(*evidence) < 20 * TOLERANCE[precision]


def test_layers_take_their_relu_and_the_first_its_pixels_along():
    spec = VggSpec("small", ((8,), (16,), (16,), (24, 24)), fc_width=40, trained_size=32)
    model = build_vgg(spec, random_weights(spec, seed=0, n_classes=10))
    cast_to_half(model)
    layers = ArrayGraph(model, 2, "NumPy").layers
    assert [layer.constant is None for layer in layers.values()] == [False, *[True] * (len(layers) - 1)]
    assert [name for name, layer in layers.items() if not layer.convolution.relu] == [
        "logits/half",
        *(name for name in layers if name.startswith("evidence")),
    ]
    first = next(iter(layers.values())).convolution
    assert first == Convolution((2, 32, 32, 4), 8, window=(3, 3), pads=(1, 1, 1, 1), relu=True)


def graph_of(*nodes, out=None, weights=None, opset=17):
    """A graph from float maps of the image's size; ``nodes`` go from x to y."""
    stored = {name: np.asarray(array) for name, array in (weights or {}).items()}
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 8, 3])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, out)
    cast = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["x"], perm=[0, 3, 1, 2]),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph([*cast, *nodes], "test", [image], [result], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(kind, *inputs, out="y", **attributes):
    return helper.make_node(kind, ["x", *inputs], [out], **attributes)


RNG = np.random.default_rng(0)
FILTERS = RNG.standard_normal((6, 3, 3, 2)).astype(np.float32)
GROUPED = RNG.standard_normal((6, 1, 3, 3)).astype(np.float32)
BIAS = RNG.standard_normal(6).astype(np.float32)
MATRIX = RNG.standard_normal((192, 5)).astype(np.float32)
FLAT = helper.make_node("Flatten", ["x"], ["flat"])


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([node("Conv", "w", "b", strides=[2, 1], pads=[1, 0, 2, 1])], {"w": FILTERS, "b": BIAS}),
        ([node("Conv", "w", dilations=[2, 3])], {"w": FILTERS}),
        ([node("Conv", "w", group=3, pads=[1, 1, 1, 1])], {"w": GROUPED}),
        (
            [node("Conv", "w", out="c"), helper.make_node("Clip", ["c", "low", "high"], ["y"])],
            {"w": FILTERS, "low": np.float32(0), "high": np.float32(6)},
        ),
        ([FLAT, helper.make_node("Gemm", ["flat", "w"], ["y"])], {"w": MATRIX}),
        ([FLAT, helper.make_node("MatMul", ["flat", "w"], ["y"])], {"w": MATRIX}),
        ([FLAT, helper.make_node("Relu", ["flat"], ["y"])], {}),
        ([node("MaxPool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 1])], {}),
        ([node("Clip", "low", "high")], {"low": np.float32(9), "high": np.float32(100)}),
        ([node("Pad", "pads", "value")], {"pads": np.array([0, 0, 1, 0, 0, 2, 0, 3]), "value": np.float32(7)}),
        ([node("Identity")], {}),
        ([node("Reshape", "shape")], {"shape": np.array([0, 4, -1])}),
        ([node("Add", "v"), helper.make_node("Sub", ["y", "v"], ["z"])][:1], {"v": np.float32(3)}),
    ],
    ids=lambda value: value[-1].op_type if isinstance(value, list) else "",
)
def test_each_operator_gives_the_references_numbers(nodes, weights):
    model = graph_of(*nodes, weights=weights)
    images = RNG.integers(0, 256, (2, 8, 8, 3), np.uint8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"image": images})
    np.testing.assert_allclose(run(model, images)["y"], expected, rtol=1e-5, atol=1e-3)


def test_a_clip_of_old_networks_has_its_bounds_as_attributes():
    model = graph_of(node("Clip", min=9.0, max=100.0), weights={}, opset=9)
    images = RNG.integers(0, 256, (2, 8, 8, 3), np.uint8)
    found = run(model, images)["y"]
    assert (found.min(), found.max()) == (9, 100)


def test_a_relu_whose_input_is_read_elsewhere_stays_by_itself():
    relu = helper.make_node("Relu", ["c"], ["r"])
    model = graph_of(
        node("Conv", "w", out="c"), relu, helper.make_node("Add", ["c", "r"], ["y"]), weights={"w": FILTERS}
    )
    images = RNG.integers(0, 256, (2, 8, 8, 3), np.uint8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(run(model, images)["y"], session.run(None, {"image": images})[0], rtol=1e-4, atol=1e-2)
    assert not ArrayGraph(model, 2, "NumPy").layers["c"].convolution.relu


@pytest.mark.parametrize(
    ("nodes", "weights", "reason"),
    [
        ([node("Erf")], {}, "the operator Erf 'y' is not one that it runs"),
        ([node("Conv", "w", auto_pad="SAME_UPPER")], {"w": FILTERS}, "pads by a rule"),
        ([node("Conv", "x")], {}, "computes its input 1"),
        ([FLAT, helper.make_node("Gemm", ["flat", "w"], ["y"], alpha=2.0)], {"w": MATRIX}, "not a plain product"),
        ([node("Flatten", axis=2)], {}, "does not keep the images apart"),
        ([node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], {}, "in a way that is not known"),
        ([node("AveragePool", kernel_shape=[3, 3])], {}, "averages windows that overlap"),
        ([node("Pad", "pads", mode="reflect")], {"pads": np.array([0, 0, 1, 0] * 2)}, "more than add constants"),
        ([node("ArgMax", axis=1, select_last_index=1)], {}, "takes the last of equals"),
    ],
    ids=lambda value: value[-1].op_type if isinstance(value, list) else "",
)
def test_what_is_not_known_is_named(nodes, weights, reason):
    with pytest.raises(BackendError, match=rf"^NumPy cannot run this network .*{reason}"):
        ArrayGraph(graph_of(*nodes, weights=weights), 2, "NumPy")
