"""Heads with activations, normalising and several poolings, as PyTorch's autograd derives them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pc_engine.errors import ModelError
from pc_engine.export.evidence import append_evidence

torch = pytest.importorskip("torch")
functional = torch.nn.functional

CHANNELS, HIDDEN, CLASSES, GRID = 5, 7, 4, 3
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((6, 3, GRID, GRID)).astype(np.float32)
MIXED = RNG.standard_normal((CHANNELS, 3, 1, 1)).astype(np.float32)
FIRST = RNG.standard_normal((HIDDEN, CHANNELS)).astype(np.float32)
LAST = RNG.standard_normal((CLASSES, HIDDEN)).astype(np.float32)
DIRECT = RNG.standard_normal((CLASSES, CHANNELS)).astype(np.float32)
BOTH = RNG.standard_normal((CLASSES, 2 * CHANNELS)).astype(np.float32)
SCALE, BIAS, MEAN = RNG.standard_normal((3, HIDDEN)).astype(np.float32)
VARIANCE = RNG.uniform(0.5, 2, HIDDEN).astype(np.float32)
SMALL = (RNG.standard_normal((CHANNELS * GRID**2) ** 2) / 10).astype(np.float32)


@dataclass
class Net:
    """A convolution that gives ``maps`` [N, 5, 3, 3], their average ``row`` [N, 5], and the head that is added."""

    opset: int = 17
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    stored: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stored["mixed"] = MIXED
        self("Conv", ["image", "mixed"], "maps")
        self("GlobalAveragePool", ["maps"], "pooled")
        self("Flatten", ["pooled"], "row")

    def __call__(self, operator: str, inputs: Sequence[Any], output: str, **attributes: Any) -> str:
        names = []
        for k, value in enumerate(inputs):
            names.append(value if isinstance(value, str) else f"{output}/{k}")
            if not isinstance(value, str):
                self.stored[names[-1]] = value
        self.nodes.append(helper.make_node(operator, names, [output], **attributes))
        return output

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, GRID, GRID])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in self.stored.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=7)


def number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def check(net: Net, head: Callable[[Any], Any], *, of_cells: bool = False) -> None:
    """Hold the logits and the evidence against what ``head`` of the maps and its derivative are in PyTorch.

    Where the derivative is ``of_cells``, and not of their average, the evidence is its mean.
    """
    model = net.model()
    found = append_evidence(model)
    assert found.maps == "maps"
    onnx.checker.check_model(model, full_check=True)
    names = ["maps", "logits", found.tensor]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values, logits, evidence = session.run(names, {"image": IMAGES})
    maps = torch.from_numpy(values).requires_grad_()
    expected = head(maps)
    np.testing.assert_allclose(logits, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    (by_maps,) = torch.autograd.grad(expected.max(dim=1).values.sum(), maps)
    wanted = (by_maps.mean(dim=(2, 3)) if of_cells else by_maps.sum(dim=(2, 3))).numpy()
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(evidence, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())


def between_layers(net: Net, add: Callable[[Net], None], activation: Callable[[Any], Any]) -> None:
    """``add`` makes ``hidden`` from ``sums``, which lie between two layers."""
    net("MatMul", ["row", FIRST.T.copy()], "sums")
    add(net)
    net("MatMul", ["hidden", LAST.T.copy()], "logits")
    first, last = torch.from_numpy(FIRST), torch.from_numpy(LAST)
    check(net, lambda maps: activation(maps.mean(dim=(2, 3)) @ first.T) @ last.T)


def silu(net: Net) -> None:
    net("Sigmoid", ["sums"], "share")
    net("Mul", ["sums", "share"], "hidden")


def hard_swish_written_out(net: Net) -> None:
    """As older exporters have it."""
    net("HardSigmoid", ["sums"], "gate", alpha=1 / 6, beta=0.5)
    net("Mul", ["gate", "sums"], "hidden")


def gelu_written_out(net: Net) -> None:
    net("Div", ["sums", number(math.sqrt(2))], "scaled")
    net("Erf", ["scaled"], "erf")
    net("Add", ["erf", number(1)], "lifted")
    net("Mul", ["sums", "lifted"], "twice")
    net("Mul", ["twice", number(0.5)], "hidden")


def batch_norm(net: Net) -> None:
    net("BatchNormalization", ["sums", SCALE, BIAS, MEAN, VARIANCE], "normal", epsilon=1e-3)
    net("Relu", ["normal"], "hidden")


def torch_batch_norm(sums: Any) -> Any:
    mean, variance, scale, bias = (torch.from_numpy(values) for values in (MEAN, VARIANCE, SCALE, BIAS))
    return functional.relu(functional.batch_norm(sums, mean, variance, scale, bias, eps=1e-3))


@pytest.mark.parametrize(
    ("opset", "add", "activation"),
    [
        (9, lambda net: net("LeakyRelu", ["sums"], "hidden", alpha=0.2), lambda x: functional.leaky_relu(x, 0.2)),
        (
            9,
            lambda net: net("PRelu", ["sums", SCALE], "hidden"),
            lambda x: functional.prelu(x, torch.from_numpy(SCALE)),
        ),
        (9, lambda net: net("Elu", ["sums"], "hidden", alpha=0.7), lambda x: functional.elu(x, 0.7)),
        (9, lambda net: net("Clip", ["sums"], "hidden", min=0.0, max=0.6), lambda x: x.clamp(0, 0.6)),
        (17, lambda net: net("Clip", ["sums", number(0), number(0.6)], "hidden"), lambda x: x.clamp(0, 0.6)),
        (17, lambda net: net("Clip", ["sums", "", number(0.6)], "hidden"), lambda x: x.clamp(max=0.6)),
        (9, lambda net: net("Sigmoid", ["sums"], "hidden"), torch.sigmoid),
        (9, lambda net: net("Tanh", ["sums"], "hidden"), torch.tanh),
        (9, silu, functional.silu),
        (9, hard_swish_written_out, functional.hardswish),
        (17, lambda net: net("HardSwish", ["sums"], "hidden"), functional.hardswish),
        (9, gelu_written_out, functional.gelu),
        (20, lambda net: net("Gelu", ["sums"], "hidden"), functional.gelu),
        (
            20,
            lambda net: net("Gelu", ["sums"], "hidden", approximate="tanh"),
            lambda x: functional.gelu(x, approximate="tanh"),
        ),
        (9, batch_norm, torch_batch_norm),
    ],
)
def test_activations_between_layers(opset: int, add: Any, activation: Any) -> None:
    between_layers(Net(opset=opset), add, activation)


def reduce(net: Net, operator: str, data: str, output: str, axes: list[int], keepdims: int = 1) -> None:
    """Add a reduction, whose axes are an input in later opsets."""
    if net.opset < (13 if operator == "ReduceSum" else 18):
        net(operator, [data], output, axes=axes, keepdims=keepdims)
    else:
        net(operator, [data, np.array(axes)], output, keepdims=keepdims)


def torch_layer_norm(maps: Any) -> Any:
    scale = torch.from_numpy(SCALE[:CHANNELS])
    normal = functional.layer_norm(maps.mean(dim=(2, 3)), (CHANNELS,), scale, torch.from_numpy(BIAS[:CHANNELS]))
    return normal @ torch.from_numpy(DIRECT).T


@pytest.mark.parametrize("opset", [17, 18])
def test_layer_normalisation(opset: int) -> None:
    net = Net(opset=opset)
    net("LayerNormalization", ["row", SCALE[:CHANNELS], BIAS[:CHANNELS]], "normal")
    net("Gemm", ["normal", DIRECT], "logits", transB=1)
    check(net, torch_layer_norm)


def test_layer_normalisation_with_channels_last() -> None:
    """As torchvision's ConvNeXt: what it normalises looks like maps of one row by its shape."""
    net = Net()
    net("Transpose", ["pooled"], "last", perm=[0, 2, 3, 1])
    net("LayerNormalization", ["last", SCALE[:CHANNELS], BIAS[:CHANNELS]], "normal_last")
    net("Transpose", ["normal_last"], "normal", perm=[0, 3, 1, 2])
    net("Flatten", ["normal"], "normal_row")
    net("MatMul", ["normal_row", DIRECT.T.copy()], "logits")
    check(net, torch_layer_norm)


@pytest.mark.parametrize("opset", [9, 13, 18])
def test_layer_normalisation_written_out(opset: int) -> None:
    net = Net(opset=opset)
    reduce(net, "ReduceMean", "pooled", "mean", [1])
    net("Sub", ["pooled", "mean"], "centred")
    net("Pow", ["centred", number(2)], "squares")
    reduce(net, "ReduceMean", "squares", "variance", [1])
    net("Add", ["variance", number(1e-5)], "lifted")
    net("Sqrt", ["lifted"], "deviation")
    net("Div", ["centred", "deviation"], "normal")
    net("Mul", [SCALE[:CHANNELS, None, None], "normal"], "scaled")
    net("Add", ["scaled", BIAS[:CHANNELS, None, None]], "moved")
    net("Flatten", ["moved"], "normal_row")
    net("MatMul", ["normal_row", DIRECT.T.copy()], "logits")
    check(net, torch_layer_norm)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [13, 18])
def test_logits_that_are_cosines(opset: int, keepdims: int) -> None:
    net = Net(opset=opset)
    reduce(net, "ReduceL2", "row", "length", [1], keepdims)
    if not keepdims:
        net("Reshape", ["length", np.array([-1, 1])], "length_kept")
    net("Clip", ["length" if keepdims else "length_kept", number(1e-12)], "clipped")
    net("Shape", ["row"], "shape")
    net("Expand", ["clipped", "shape"], "repeated")
    net("Div", ["row", "repeated"], "normal")
    net("Gemm", ["normal", DIRECT, np.zeros(CLASSES, np.float32)], "cosines", transB=1)
    net("Mul", [number(16), "cosines"], "logits")
    check(net, lambda maps: 16 * functional.normalize(maps.mean(dim=(2, 3))) @ torch.from_numpy(DIRECT).T)


def test_a_sum_of_squares_under_a_root() -> None:
    net = Net(opset=13)
    net("Mul", ["row", "row"], "squares")
    reduce(net, "ReduceSum", "squares", "total", [1])
    net("Sqrt", ["total"], "length")
    net("Div", ["row", "length"], "normal")
    net("MatMul", ["normal", DIRECT.T.copy()], "cosines")
    net("Div", ["cosines", number(0.1)], "logits")
    check(net, lambda maps: functional.normalize(maps.mean(dim=(2, 3))) @ torch.from_numpy(DIRECT).T / 0.1)


@pytest.mark.parametrize("most", ["GlobalMaxPool", "ReduceMax"])
def test_the_mean_and_the_largest_side_by_side(most: str) -> None:
    """The one is a vector from the start, the other has an axis for rows and columns yet."""
    net = Net()
    net(most, ["maps"], "largest", **({"axes": [2, 3], "keepdims": 0} if most == "ReduceMax" else {}))
    net("Flatten", ["largest"], "largest_row")
    net("Concat", ["row", "largest_row"], "both", axis=1)
    net("Gemm", ["both", BOTH], "logits", transB=1)
    pooled = lambda maps: torch.cat([maps.mean(dim=(2, 3)), maps.amax(dim=(2, 3))], dim=1)  # noqa: E731
    check(net, lambda maps: pooled(maps) @ torch.from_numpy(BOTH).T)


def test_a_difference_of_the_mean_and_the_largest() -> None:
    net = Net()
    net("GlobalMaxPool", ["maps"], "largest")
    net("Add", ["pooled", "pooled"], "twice")
    net("Sub", ["twice", "largest"], "difference")
    net("Mul", ["difference", number(0.5)], "half")
    net("Flatten", ["half"], "half_row")
    net("Gemm", ["half_row", DIRECT], "logits", transB=1)
    check(net, lambda maps: (2 * maps.mean(dim=(2, 3)) - maps.amax(dim=(2, 3))) / 2 @ torch.from_numpy(DIRECT).T)


def test_generalised_mean() -> None:
    """The evidence is for the maps that are averaged: the powers."""
    net = Net()
    net.nodes[1].input[0] = "powers"
    net.nodes.insert(1, helper.make_node("Exp", ["maps"], ["positive"]))
    net.nodes.insert(2, helper.make_node("Pow", ["positive", "p"], ["powers"]))
    net.stored["p"] = number(3)
    net("Pow", ["row", number(1 / 3)], "root")
    net("Gemm", ["root", DIRECT], "logits", transB=1)
    for node in net.nodes:  # so that the maps in question are called as elsewhere
        for names in (node.input, node.output):
            names[:] = [{"maps": "sums", "powers": "maps"}.get(name, name) for name in names]
    check(net, lambda powers: powers.mean(dim=(2, 3)) ** (1 / 3) @ torch.from_numpy(DIRECT).T)


def test_maps_without_a_trace_of_anything_have_no_evidence() -> None:
    """As in an 8-bit network, whose smallest values are 0; the derivative of a root is infinite there."""
    net = Net()
    net.nodes[1].input[0] = "nothing"
    net.nodes.insert(1, helper.make_node("Mul", ["maps", "zero"], ["nothing"]))
    net.stored["zero"] = number(0)
    net("Pow", ["row", number(1 / 3)], "third")
    net("Sqrt", ["third"], "root")
    reduce(net, "ReduceL2", "root", "length", [1])
    net("Clip", ["length", number(1e-12)], "clipped")
    net("Div", ["root", "clipped"], "normal")
    net("Gemm", ["normal", DIRECT], "logits", transB=1)
    model = net.model()
    model.graph.output.add(name=append_evidence(model).tensor)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert not session.run(None, {"image": IMAGES})[1].any()


@pytest.mark.parametrize("read", ["row", "cells"])
def test_a_vector_that_is_weighed_by_a_layer_of_its_own(read: str) -> None:
    """Two ways lead to what was pooled, or to the maps: through the layer, and beside it."""
    net = Net()
    net("Flatten", ["maps"], "cells")
    size = CHANNELS * (GRID**2 if read == "cells" else 1)
    square, last = (SMALL[: size * width].reshape(width, size) for width in (size, CLASSES))
    net("Gemm", [read, square], "scores", transB=1)
    net("Sigmoid", ["scores"], "gate")
    net("Mul", [read, "gate"], "weighed")
    net("Gemm", ["weighed", last], "logits", transB=1)

    def head(maps: Any) -> Any:
        read_of = maps.flatten(1) if read == "cells" else maps.mean(dim=(2, 3))
        return read_of * torch.sigmoid(read_of @ torch.from_numpy(square).T) @ torch.from_numpy(last).T

    check(net, head, of_cells=read == "cells")


def test_layers_behind_an_average_with_channels_last() -> None:
    """As TensorFlow's: the average keeps its axes, and the channels are the last of them."""
    net = Net()
    net("Transpose", ["maps"], "maps_last", perm=[0, 2, 3, 1])
    reduce(net, "ReduceMean", "maps_last", "mean_last", [1, 2])
    net("Flatten", ["mean_last"], "mean_row")
    net("Gemm", ["mean_row", FIRST], "sums", transB=1)
    net("Relu", ["sums"], "hidden")
    net("Gemm", ["hidden", LAST], "logits", transB=1)
    first, last = torch.from_numpy(FIRST), torch.from_numpy(LAST)
    check(net, lambda maps: functional.relu(maps.mean(dim=(2, 3)) @ first.T) @ last.T)


@pytest.mark.parametrize("relu", [False, True])
def test_averaged_logits_of_maps_that_were_put_in_another_order(relu: bool) -> None:
    """As a shuffle of channels, or tokens that become maps again: the layer reads cells, whatever gave them."""
    net = Net()
    net("Reshape", ["maps", np.array([0, 1, CHANNELS, GRID**2])], "cells")
    net("Transpose", ["cells"], "turned", perm=[0, 2, 1, 3])
    net("Reshape", ["turned", np.array([0, CHANNELS, GRID, GRID])], "shuffled")
    net("Dropout", ["shuffled"], "read")
    net("Conv", ["read", DIRECT[:, :, None, None]], "scores" if relu else "by_cell")
    if relu:
        net("Relu", ["scores"], "by_cell")
    net("GlobalAveragePool", ["by_cell"], "mean")
    net("Flatten", ["mean"], "logits")
    for node in net.nodes:  # so that the maps in question are called as elsewhere
        for names in (node.input, node.output):
            names[:] = [{"maps": "sums", "shuffled": "maps"}.get(name, name) for name in names]
    model = net.model()
    found = append_evidence(model)
    assert (found.maps, found.is_linear) == ("maps", True)
    onnx.checker.check_model(model, full_check=True)
    model.graph.output.add(name=found.tensor)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits, evidence = session.run(None, {"image": IMAGES})
    np.testing.assert_array_equal(evidence, DIRECT[logits.argmax(axis=1)])


def several_maps(net: Net) -> None:
    net("Abs", ["maps"], "others")
    net("GlobalMaxPool", ["others"], "largest")
    net("Concat", ["pooled", "largest"], "both", axis=1)
    net("Flatten", ["both"], "both_row")
    net("Gemm", ["both_row", BOTH], "logits", transB=1)


def maps_beside_their_mean(net: Net) -> None:
    net("Flatten", ["maps"], "cells")
    net("Concat", ["cells", "row"], "both", axis=1)
    net.stored["wide"] = np.ones((CHANNELS * (GRID**2 + 1), CLASSES), np.float32)
    net("MatMul", ["both", "wide"], "logits")


def normalised_along_the_batch(net: Net) -> None:
    net("LayerNormalization", ["row", np.ones((2, CHANNELS), np.float32)], "normal", axis=0)
    net("Gemm", ["normal", DIRECT], "logits", transB=1)


def beside_a_constant(net: Net) -> None:
    net("Concat", ["row", np.ones((1, CHANNELS), np.float32)], "both", axis=1)
    net("Gemm", ["both", BOTH], "logits", transB=1)


def a_power_of_two(net: Net) -> None:
    net("Pow", [number(2), "row"], "power")
    net("Gemm", ["power", DIRECT], "logits", transB=1)


def a_factor_for_each_class(net: Net) -> None:
    net("Gemm", ["row", DIRECT], "scores", transB=1)
    net("Mul", ["scores", np.ones(CLASSES, np.float32)], "logits")


@pytest.mark.parametrize(
    ("add", "reason"),
    [
        (several_maps, r"the logits are made from several feature maps \(largest, pooled\)"),
        (maps_beside_their_mean, r"the logits are made from several feature maps \(maps, pooled\)"),
        (normalised_along_the_batch, r"leads through 'normal' \(LayerNormalization\)"),
        (beside_a_constant, r"leads through 'both' \(Concat\)"),
        (a_power_of_two, r"leads through 'power' \(Pow\)"),
        (a_factor_for_each_class, r"leads through 'logits' \(Mul\)"),
    ],
)
def test_others_are_named(add: Callable[[Net], None], reason: str) -> None:
    net = Net()
    add(net)
    with pytest.raises(ModelError, match=reason):
        append_evidence(net.model())
