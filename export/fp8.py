"""A network in 8-bit floating point (E4M3: 4 bits of exponent, 3 of mantissa), which GPUs since Ada multiply.

Weights have one scale per output channel, activations one per tensor, and both reach to 448, the largest number of the
type (Micikevicius et al. 2022, arXiv:2209.05433). Only what layers multiply is rounded: sums, activation functions and
taps are not. A layer that reads pixels stays as it is, as whole numbers to 255 take 8 bits of mantissa; so does a
grouped convolution, which waits for memory and has few terms in a sum to make up for the rounding: without it the taps
of an EfficientNet are half as far from fp32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pc_engine.export.rounding_scheme import RoundingScheme
from pc_engine.export.weight_rounding import SMALLEST_STEP, WeightGrid, output_axis
from pc_engine.graph import shapes as graph_shapes
from pc_engine.graph.attributes import attribute
from pc_engine.graph.names import fresh_name, names_of
from pc_engine.graph.operators import LINEAR
from pc_engine.graph.pruning import prune
from pc_engine.graph.signed import before_weights

_HIGHEST = 448
_MATRIX_RANK = 2
_TYPE = ml_dtypes.float8_e4m3fn


def render(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return ``values`` rounded to the numbers of the type, scaled to reach the larger side of the range."""
    scale = _scale(low, high)
    return np.asarray(_nearest(np.clip(values / scale, -_HIGHEST, _HIGHEST)) * scale)


def _nearest(values: np.ndarray) -> np.ndarray:
    return values.astype(_TYPE).astype(np.float32)


def _scale(low: float, high: float) -> np.float32:
    scale = np.float32(max(-low, high)) / np.float32(_HIGHEST)
    return scale if scale > SMALLEST_STEP else np.float32(1)  # a tensor that is always 0, or as good as that


def _layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    pixels = before_weights(model.graph)
    known = graph_shapes.infer(model)

    def is_rounded(node: onnx.NodeProto) -> bool:
        weights = stored.get(node.input[1]) if node.op_type in LINEAR else None
        if weights is None or node.input[0] in stored or node.input[0] in pixels:
            return False
        value = known.get(node.input[0])
        return (
            weights.data_type == TensorProto.FLOAT
            and (node.op_type == "Conv" or len(weights.dims) == _MATRIX_RANK)
            and attribute(node, "group", 1) == 1
            and value is not None
            and value.type == TensorProto.FLOAT
            and len(value.shape or ()) > 1
        )

    return [node for node in model.graph.node if is_rounded(node)]


def _inputs(_: onnx.ModelProto, layers: Sequence[onnx.NodeProto]) -> list[str]:
    return list(dict.fromkeys(node.input[0] for node in layers))


def _insert_nodes(
    model: onnx.ModelProto, layers: Sequence[onnx.NodeProto], ranges: Mapping[str, tuple[float, float]]
) -> onnx.ModelProto:
    """Return the network, changed in place, with what its layers multiply stored or rounded in 8 bits."""
    rounding = _Rounding(model.graph)
    names = {node.name for node in layers}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.name in names:
            for k, added in enumerate((rounding.activation(node, ranges), rounding.weights(node))):
                nodes += added
                node.input[k] = rounding.rounded[node.input[k]]
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    prune(model.graph)
    return model


class _Rounding:
    """What has been rounded of a graph: the name of a tensor to that of its rounded form."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.rounded: dict[str, str] = {}
        self._graph = graph
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        # Nodes are called like the tensors that they give, and no two of a graph may be called the same.
        self._taken = {*names_of(graph), *(node.name for node in graph.node)}

    def activation(self, node: onnx.NodeProto, ranges: Mapping[str, tuple[float, float]]) -> list[onnx.NodeProto]:
        """Return the nodes that round what a layer reads, none where another layer had it rounded."""
        name = node.input[0]
        if name in self.rounded:
            return []
        scale = self._store(f"{name}/scale", np.asarray(_scale(*ranges[name])))
        zero = self._store(f"{name}/zero", np.zeros((), _TYPE))
        levels = fresh_name(f"{name}/levels", self._taken)
        self.rounded[name] = fresh_name(f"{name}/rounded", self._taken)
        return [
            helper.make_node("QuantizeLinear", [name, scale, zero], [levels], name=levels),
            helper.make_node("DequantizeLinear", [levels, scale], [self.rounded[name]], name=self.rounded[name]),
        ]

    def weights(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the node that gives a layer's weights, none where another layer has the same."""
        name = node.input[1]
        if name in self.rounded:
            return []
        values, axis = numpy_helper.to_array(self._stored[name]), output_axis(node)
        steps = FP8.grid.steps(values, axis)
        levels = self._store(f"{name}/levels", (values / steps).astype(_TYPE))
        scales = self._store(f"{name}/scales", steps.ravel())
        self.rounded[name] = fresh_name(f"{name}/rounded", self._taken)
        return [
            helper.make_node(
                "DequantizeLinear", [levels, scales], [self.rounded[name]], name=self.rounded[name], axis=axis
            )
        ]

    def _store(self, name: str, values: np.ndarray) -> str:
        name = fresh_name(name, self._taken)
        self._graph.initializer.append(numpy_helper.from_array(values, name))
        return name


#: See the top of this module. QuantizeLinear knows the type since opset 19.
FP8 = RoundingScheme(
    opset=19,
    target_opset=19,
    grid=WeightGrid(highest=_HIGHEST, round=_nearest),
    render=render,
    layers=_layers,
    tensors=_inputs,
    insert=_insert_nodes,
)
