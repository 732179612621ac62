"""A quantised network as TensorRT takes it: signed activations around 0, from the unsigned ones that processors like.

The files that `pc_engine.export.quantise` writes round activations to 256 unsigned levels with a zero point. TensorRT
takes 8 bits as signed and symmetric only. Of a pair with scale s and zero point z over the levels a to b, the signed
scale is max(z - a, b - z) s / 127: the larger side of the range ends in a level again. Three things go with that:

* An unsigned pair with z = 0 cuts off what is negative, so the quantiser leaves out the ReLU before it. Signed levels
  do not, and the ReLU is put back; likewise the bound on the shorter side of a range with another zero point.
* Pixels are whole numbers from 0 to 255, which 127 signed levels would halve. Rounding ahead of the first layer with
  weights is left out, and that layer, 0.6 % of VGG16's work, reads them exactly, in float16 (see `cast_to_half`).
* What is signed and symmetric already, such as weights and levels in fp8, stays bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pc_engine.backbone import IMAGE
from pc_engine.errors import BackendError
from pc_engine.graph.attributes import attribute, constant_tensor, remove_attribute
from pc_engine.graph.names import fresh_name, names_of
from pc_engine.graph.operators import POOLING, WEIGHTED
from pc_engine.graph.pruning import prune

# Operators that give no negative value where they read none; Relu and Sigmoid give none in any case.
_KEEPING_SIGN = (*POOLING, "Concat", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax")
_ENDS = {"int8": (-128, 127), "uint8": (0, 255)}
_ZERO = 2  # the position of the zero point among a node's inputs
_LEVELS = 127  # on either side of 0; TensorRT's weights leave -128 out, and so do the scales


def make_signed(model: onnx.ModelProto) -> None:
    """Give the QuantizeLinear and DequantizeLinear nodes of a prepared graph signed symmetric levels, in place.

    Raises
    ------
    BackendError
        If its weights are not signed and symmetric, or its levels are computed rather than stored.
    """
    graph = model.graph
    rounding = _Rounding(graph)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            nodes.extend(rounding.quantise(node))
        elif node.op_type == "DequantizeLinear":
            nodes.append(rounding.dequantise(node))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    prune(graph)


@dataclass(frozen=True)
class _Levels:
    """The 8-bit levels of a tensor: ``scale`` and ``zero`` as stored, and the ends of their type."""

    scale: np.ndarray
    zero: np.ndarray
    lowest: int
    highest: int

    @property
    def symmetric(self) -> bool:
        return self.lowest < 0 and not self.zero.any()

    def range(self) -> tuple[float, float]:
        scale, zero = float(self.scale), int(self.zero)
        return (self.lowest - zero) * scale, (self.highest - zero) * scale

    def signed_scale(self) -> np.ndarray:
        zero = int(self.zero)
        steps = max(zero - self.lowest, self.highest - zero)
        return np.array(steps * float(self.scale) / _LEVELS, np.float32)


class _Rounding:
    """What is known of a graph while its pairs are replaced, in the order of its nodes."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output}
        self._taken = set(names_of(graph))
        self._pixels = before_weights(graph)
        self._signs: dict[str, bool] = {}
        # The levels as they were: a DequantizeLinear is asked about its own after its pair was changed.
        self._levels = {
            node.output[0]: self._read_levels(node)
            for node in graph.node
            if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        }

    def quantise(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes that stand for a QuantizeLinear."""
        levels = self._levels[node.output[0]]
        source = node.input[0]
        if source in self._pixels or levels.symmetric:
            return [node]
        bound = self._bound(source, levels)
        if bound is not None:
            node.input[0] = bound.output[0]
        node.input[1:] = self._store_signed(node.output[0], levels)
        remove_attribute(node, "output_dtype")  # the zero point tells it
        return [node] if bound is None else [bound, node]

    def dequantise(self, node: onnx.NodeProto) -> onnx.NodeProto:
        """Return the node that stands for a DequantizeLinear."""
        levels = self._levels[node.output[0]]
        pair = self._producers.get(node.input[0])
        if pair is None or pair.op_type != "QuantizeLinear":
            if not levels.symmetric:
                raise BackendError(
                    f"TensorRT takes signed weights around 0, and '{node.input[0]}' has others: quantise the model "
                    f"again with 'pc-engine build MODEL --precision int8 --calibrate PHOTOS'."
                )
            return node
        if pair.input[0] in self._pixels and not levels.symmetric:
            return helper.make_node("Identity", [pair.input[0]], [node.output[0]])
        if not levels.symmetric:
            node.input[1:] = self._store_signed(node.output[0], levels)
        return node

    def _bound(self, source: str, levels: _Levels) -> onnx.NodeProto | None:
        """Return the node that cuts a tensor off where its levels did and the signed ones do not."""
        if int(levels.zero) == levels.lowest:
            if self._never_negative(source):
                return None
            return helper.make_node("Relu", [source], [fresh_name(f"{source}/not_negative", self._taken)])
        bounds = [
            self._store(f"{source}/{end}", value) for end, value in zip(("low", "high"), levels.range(), strict=True)
        ]
        return helper.make_node("Clip", [source, *bounds], [fresh_name(f"{source}/bounded", self._taken)])

    def _never_negative(self, name: str) -> bool:
        node = self._producers.get(name)
        if node is None:
            return False
        if node.op_type == "DequantizeLinear":
            levels = self._levels[node.output[0]]
            return levels.zero.ndim == 0 and int(levels.zero) == levels.lowest
        if name not in self._signs:
            self._signs[name] = (
                node.op_type in _NEVER_NEGATIVE
                or (node.op_type in _KEEPING_SIGN and all(map(self._never_negative, self._data(node))))
                or (node.op_type == "Clip" and self._lower_bound(node) >= 0)
            )
        return self._signs[name]

    def _lower_bound(self, clip: onnx.NodeProto) -> float:
        name = clip.input[1] if len(clip.input) > 1 else ""
        producer = self._producers.get(name)
        if name in self._stored:
            return float(numpy_helper.to_array(self._stored[name]).item())
        if producer is not None and producer.op_type == "Constant":
            bound = constant_tensor(producer)
            return -math.inf if bound is None else float(numpy_helper.to_array(bound).item())
        return -math.inf

    def _data(self, node: onnx.NodeProto) -> list[str]:
        return list(node.input) if node.op_type == "Concat" else list(node.input[:1])

    def _read_levels(self, node: onnx.NodeProto) -> _Levels:
        zero = self._zero(node)
        if zero.dtype not in (np.uint8, np.int8):
            # Levels of floating point, such as fp8, are symmetric by nature.
            return _Levels(np.ones((), np.float32), np.zeros((), np.int8), *_ENDS["int8"])
        levels = _Levels(np.ones((), np.float32), zero, *_ENDS[zero.dtype.name])
        if levels.symmetric:
            return levels
        if node.input[1] not in self._stored:
            raise self._unreadable(node, "computed rather than stored")
        scale = numpy_helper.to_array(self._stored[node.input[1]])
        if scale.size != 1 or zero.size != 1:
            raise self._unreadable(node, "with zero points by channel")
        return replace(levels, scale=scale.reshape(()), zero=zero.reshape(()))

    def _zero(self, node: onnx.NodeProto) -> np.ndarray:
        """Return the zero point of a node, 0 of the type of its levels where it names none."""
        if len(node.input) > _ZERO and node.input[_ZERO]:
            if node.input[_ZERO] not in self._stored:
                raise self._unreadable(node, "computed rather than stored")
            return numpy_helper.to_array(self._stored[node.input[_ZERO]])
        kind = attribute(node, "output_dtype", 0) or TensorProto.UINT8
        if node.op_type == "DequantizeLinear":
            pair = self._producers.get(node.input[0])
            if pair is not None and pair.op_type == "QuantizeLinear":
                return self._zero(pair)
            if node.input[0] in self._stored:
                kind = self._stored[node.input[0]].data_type
        return np.zeros((), helper.tensor_dtype_to_np_dtype(kind))

    @staticmethod
    def _unreadable(node: onnx.NodeProto, how: str) -> BackendError:
        return BackendError(
            f"The levels of '{node.input[0]}' are {how}, which TensorRT does not take; quantise the model with "
            f"'pc-engine build MODEL --precision int8 --calibrate PHOTOS'."
        )

    def _store_signed(self, name: str, levels: _Levels) -> list[str]:
        return [
            self._store(f"{name}/scale", levels.signed_scale()),
            self._store(f"{name}/zero", np.array(0, np.int8)),
        ]

    def _store(self, name: str, value: np.ndarray | float) -> str:
        name = fresh_name(name, self._taken)
        array = value if isinstance(value, np.ndarray) else np.array(value, np.float32)
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name


def before_weights(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors that hold pixels which no layer with weights has read yet."""
    pixels = {IMAGE}
    for node in graph.node:
        if node.op_type not in WEIGHTED and pixels.intersection(node.input):
            pixels.update(node.output)
    return pixels
