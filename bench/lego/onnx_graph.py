"""The MNIST-LEGO network as an ONNX graph that takes uint8 pixels and gives every tap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pc_engine.bench.lego.network import PIXEL_MEAN, PIXEL_STD, FoldedNetwork
from pc_engine.manifest import Tap

#: Name of the input tensor.
INPUT = "image"
OPSET = 17
IR_VERSION = 8
#: Value of the constant fourth input channel, which carries the mean that is folded into the first convolution.
_CONSTANT = 255.0


def write_network(network: FoldedNetwork, path: Path) -> dict[str, Tap]:
    """Write the graph to ``path`` and return its taps.

    The input ``image`` is uint8 (N, size, size, 3), RGB. Normalisation is folded into the first convolution: a fourth
    channel of 255 meets weights that subtract the mean, so that zero padding still means a pixel of mean colour, as
    in training. Weights are stored as float16 and cast when the graph is loaded.
    """
    settings = network.settings
    graph = _Graph()
    graph.node("Cast", [INPUT], "pixels", to=TensorProto.FLOAT)
    graph.node("Transpose", ["pixels"], "planes", perm=[0, 3, 1, 2])
    graph.constant("channel_pads", np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64))
    graph.constant("constant_channel", np.array(_CONSTANT, np.float32))
    graph.node("Pad", ["planes", "channel_pads", "constant_channel"], "padded", mode="constant")

    weights = (_fold_normalisation(network.weights[0]), *network.weights[1:])
    names = ("conv1", "conv2", "conv3", "conv_prev", "conv_last")
    tensor = "padded"
    for place, (name, weight, bias) in enumerate(zip(names, weights, network.biases, strict=True), start=1):
        tensor = graph.convolution(name, tensor, weight, bias, stride=2 if place == 1 else 1)
        if place in settings.pooled_after:
            graph.node("MaxPool", [tensor], f"pool{place}", kernel_shape=[2, 2], strides=[2, 2])
            tensor = f"pool{place}"
    gap = graph.global_average("gap", "conv_last")
    graph.dense("logits", gap, network.logits)
    counted = graph.convolution("count_conv", "conv_last", *network.count_conv)
    for name, layer in (("fc6", network.fc6), ("fc7", network.fc7)):
        source = "fc6" if name == "fc7" else graph.global_average("count_gap", counted)
        graph.dense(f"{name}_sum", source, layer)
        graph.node("Relu", [f"{name}_sum"], name)

    grid = (settings.grid, settings.grid)
    taps = {
        "conv_prev": Tap("conv_prev", (settings.kernels[3], *grid)),
        "conv_last": Tap("conv_last", (settings.nin, *grid)),
        "gap": Tap("gap", (settings.nin,)),
        "fc6": Tap("fc6", (settings.fc6,)),
        "fc7": Tap("fc7", (settings.fc7,)),
        "logits": Tap("logits", (len(network.logits[1]),)),
    }
    onnx.save(graph.model(settings.size, taps), path)
    return taps


def _fold_normalisation(weight: np.ndarray) -> np.ndarray:
    """Turn conv1's weights on normalised RGB into weights on 0..255 RGB and the constant channel."""
    on_pixels = weight / PIXEL_STD
    on_constant = -on_pixels.sum(axis=1, keepdims=True) * (PIXEL_MEAN / _CONSTANT)
    return np.concatenate([on_pixels, on_constant], axis=1)


class _Graph:
    """Collects nodes and initialisers."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._initialisers: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))

    def constant(self, name: str, values: np.ndarray) -> None:
        self._initialisers.append(numpy_helper.from_array(values, name))

    def weight(self, name: str, values: np.ndarray) -> None:
        self.constant(f"{name}_half", values.astype(np.float16))
        self.node("Cast", [f"{name}_half"], name, to=TensorProto.FLOAT)

    def convolution(self, name: str, source: str, weight: np.ndarray, bias: np.ndarray, stride: int = 1) -> str:
        """Add a convolution of the same size over ``stride`` and its ReLU, whose output is ``name``."""
        self.weight(f"{name}_weight", weight)
        self.constant(f"{name}_bias", bias)
        kernel = weight.shape[-1]
        inputs = [source, f"{name}_weight", f"{name}_bias"]
        shape: dict[str, Any] = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "strides": [stride] * 2}
        self.node("Conv", inputs, f"{name}_sum", **shape)
        self.node("Relu", [f"{name}_sum"], name)
        return name

    def global_average(self, name: str, source: str) -> str:
        self.node("GlobalAveragePool", [source], f"{name}_map")
        self.node("Flatten", [f"{name}_map"], name, axis=1)
        return name

    def dense(self, name: str, source: str, layer: tuple[np.ndarray, np.ndarray]) -> None:
        self.weight(f"{name}_weight", layer[0])
        self.constant(f"{name}_bias", layer[1])
        self.node("Gemm", [source, f"{name}_weight", f"{name}_bias"], name, transB=1)

    def model(self, size: int, taps: dict[str, Tap]) -> onnx.ModelProto:
        image = helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", size, size, 3])
        outputs = [
            helper.make_tensor_value_info(tap.tensor, TensorProto.FLOAT, ["N", *tap.shape]) for tap in taps.values()
        ]
        graph = helper.make_graph(self._nodes, "lego", [image], outputs, self._initialisers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="pc-engine")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model
