"""The MNIST-LEGO network as an ONNX graph that takes uint8 pixels and gives every tap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from pc_engine.backbone import IMAGE
from pc_engine.bench.lego.network import PIXEL_MEAN, PIXEL_STD, FoldedNetwork
from pc_engine.export.graph_writer import GraphWriter, empty_model
from pc_engine.graph.operators import CHANNELS_FIRST
from pc_engine.graph.prepare import BATCH
from pc_engine.manifest import Tap

#: Value of the constant fourth input channel, which carries the mean that is folded into the first convolution.
_CONSTANT = 255.0


def write_network(network: FoldedNetwork, path: Path) -> dict[str, Tap]:
    """Write the graph to ``path`` and return its taps.

    The input ``image`` is uint8 (N, size, size, 3), RGB. Normalisation is folded into the first convolution: a fourth
    channel of 255 meets weights that subtract the mean, so that zero padding still means a pixel of mean colour, as
    in training. Weights are stored as float16 and cast when the graph is loaded.
    """
    settings = network.settings
    model = empty_model("lego")
    graph = _HalfGraph(model.graph)
    tensor = graph.node("Cast", [IMAGE], "pixels", to=TensorProto.FLOAT)
    tensor = graph.node("Transpose", [tensor], "planes", perm=CHANNELS_FIRST)
    pads = graph.constant("channel_pads", np.array([0, 0, 0, 0, 0, 1, 0, 0], np.int64))
    constant = graph.constant("constant_channel", np.array(_CONSTANT, np.float32))
    tensor = graph.node("Pad", [tensor, pads, constant], "padded", mode="constant")

    weights = (_fold_normalisation(network.weights[0]), *network.weights[1:])
    names = ("conv1", "conv2", "conv3", "conv_prev", "conv_last")
    for place, (name, weight, bias) in enumerate(zip(names, weights, network.biases, strict=True), start=1):
        tensor = graph.convolution(name, tensor, weight, bias, stride=2 if place == 1 else 1)
        if place in settings.pooled_after:
            tensor = graph.node("MaxPool", [tensor], f"pool{place}", kernel_shape=[2, 2], strides=[2, 2])
    graph.dense("logits", graph.global_average("gap", "conv_last"), network.logits)
    tensor = graph.global_average("count_gap", graph.convolution("count_conv", "conv_last", *network.count_conv))
    for name, layer in (("fc6", network.fc6), ("fc7", network.fc7)):
        tensor = graph.node("Relu", [graph.dense(f"{name}_sum", tensor, layer)], name)

    grid = (settings.grid, settings.grid)
    taps = {
        "conv_prev": Tap("conv_prev", (settings.kernels[3], *grid)),
        "conv_last": Tap("conv_last", (settings.nin, *grid)),
        "gap": Tap("gap", (settings.nin,)),
        "fc6": Tap("fc6", (settings.fc6,)),
        "fc7": Tap("fc7", (settings.fc7,)),
        "logits": Tap("logits", (len(network.logits[1]),)),
    }
    declare = helper.make_tensor_value_info
    model.graph.input.append(declare(IMAGE, TensorProto.UINT8, [BATCH, settings.size, settings.size, 3]))
    model.graph.output.extend(declare(tap.tensor, TensorProto.FLOAT, [BATCH, *tap.shape]) for tap in taps.values())
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return taps


def _fold_normalisation(weight: np.ndarray) -> np.ndarray:
    """Turn conv1's weights on normalised RGB into weights on 0..255 RGB and the constant channel."""
    on_pixels = weight / PIXEL_STD
    on_constant = -on_pixels.sum(axis=1, keepdims=True) * (PIXEL_MEAN / _CONSTANT)
    return np.concatenate([on_pixels, on_constant], axis=1)


class _HalfGraph(GraphWriter):
    """Adds layers whose weights are stored as float16."""

    def weight(self, name: str, values: np.ndarray) -> str:
        half = self.constant(f"{name}_half", values.astype(np.float16))
        return self.node("Cast", [half], name, to=TensorProto.FLOAT)

    def convolution(self, name: str, source: str, weight: np.ndarray, bias: np.ndarray, stride: int = 1) -> str:
        """Add a convolution of the same size over ``stride`` and its ReLU, whose output is ``name``."""
        operands = [self.weight(f"{name}_weight", weight), self.constant(f"{name}_bias", bias)]
        kernel = weight.shape[-1]
        shape: dict[str, Any] = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "strides": [stride] * 2}
        return self.node("Relu", [self.node("Conv", [source, *operands], f"{name}_sum", **shape)], name)

    def global_average(self, name: str, source: str) -> str:
        return self.node("Flatten", [self.node("GlobalAveragePool", [source], f"{name}_map")], name, axis=1)

    def dense(self, name: str, source: str, layer: tuple[np.ndarray, np.ndarray]) -> str:
        operands = [self.weight(f"{name}_weight", layer[0]), self.constant(f"{name}_bias", layer[1])]
        return self.node("Gemm", [source, *operands], name, transB=1)
