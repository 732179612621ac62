"""A network in half precision: weights and graph cast to float16, for runtimes that take the types as they stand.

TensorRT 11 has no precision flags: what a tensor's type is in the graph is what is computed. What stays float32, and
why:

* everything before the first layer with weights, so that pixels are normalised exactly. They reach that layer as they
  are where its weights hold the normalisation (0 to 255 are exact in float16), and rounded once where they do not;
* sums over a whole map (global pooling, ReduceMean, Softmax), where float16 would lose the small terms;
* layers that read 8-bit levels, and with them the levels of a quantised network: they are computed in 8 bits. With
  ``around_levels`` what they give is float16, too, and so are the scales of what they read: TensorRT's products of fp8
  give float16;
* the taps. What reads them was written for float32, half of it (the counter, the clustering) sums thousands of values,
  and the bytes are few: 0.9 MB an image of VGG16, under 1 % of an H200's memory traffic at the rate of its network.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pc_engine.errors import BackendError
from pc_engine.graph import shapes as graph_shapes
from pc_engine.graph.attributes import attribute, constant_tensor
from pc_engine.graph.names import fresh_name, names_of, reads
from pc_engine.graph.operators import WEIGHTED, WINDOW_POOLING
from pc_engine.graph.prepare import opset_of
from pc_engine.graph.pruning import prune

#: Operators whose results are values that they read, in other places.
MOVING = (
    *("Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice"),
    *("SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
)

# Operators that go on in half precision where what they read came from one of the above.
_ARITHMETIC = ("Abs", "Add", "BatchNormalization", "Clip", "Div", "Max", "Min", "Mul", "Neg", "Sub", "Where")
_ACTIVATIONS = ("Elu", "HardSigmoid", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Selu", "Sigmoid", "Tanh")
_FOLLOWING = frozenset((*_ARITHMETIC, *_ACTIVATIONS, *WINDOW_POOLING, *MOVING))
# The first opset in which scales, and what they are multiplied with, may be float16.
_OPSET_OF_HALF_SCALES = 19
# Scales are rounded by a part in 2,048 where float16 has its full mantissa; those below 6e-5 by more.
_SCALE_ROUNDING = 1 / 512
# Operators that look at a tensor's shape only, so that its type does not matter to them.
_SHAPE_ONLY = ("Shape", "Size")
# Operators whose constants are bounds: one that float16 cannot reach bounds nothing.
_BOUNDING = ("Clip", "Max", "Min")


def cast_to_half(model: onnx.ModelProto, *, around_levels: bool = False) -> None:
    """Cast a prepared graph (see `pc_engine.graph.prepare.open_graph`) to float16, in place; the taps stay float32.

    Parameters
    ----------
    model
        The graph.
    around_levels
        Whether layers that read 8-bit levels are cast as well, where the graph's opset has scales in float16 and these
        hold the layer's.

    Raises
    ------
    BackendError
        If a weight is too large for float16.
    """
    _Cast(model, around_levels and opset_of(model) >= _OPSET_OF_HALF_SCALES).run()


@dataclass
class _Cast:
    """One walk through a graph.

    Every float32 tensor keeps its name for its float32 form; ``halves`` has the name of its float16 form, for those
    that have one. ``pending`` holds those of which only the float16 form exists so far; ``levels`` has the 8-bit levels
    of such.
    """

    model: onnx.ModelProto
    around_levels: bool
    halves: dict[str, str] = field(default_factory=dict)
    pending: set[str] = field(default_factory=set)
    levels: set[str] = field(default_factory=set)
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self._taken = set(names_of(graph))
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._types = {name: value.type for name, value in graph_shapes.infer(self.model).items()}
        self._types |= {name: tensor.data_type for name, tensor in self._stored.items()}
        self._producers = {name: node for node in graph.node for name in node.output}
        # Tensors that are stored as levels.
        self._weights = {
            node.output[0]
            for node in graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in self._stored
        }

    def run(self) -> None:
        graph = self.model.graph
        for node in graph.node:
            if self._runs_in_half(node):
                self._halve(node)
            else:
                self._keep(node)
        for value in graph.output:
            self._restore(value.name)
        del graph.node[:]
        graph.node.extend(self.nodes)
        prune(graph)

    def _runs_in_half(self, node: onnx.NodeProto) -> bool:
        if node.domain not in ("", "ai.onnx"):
            return False
        if node.op_type in WEIGHTED:
            if self._dequantises(node.input[0]) and not all(map(self._has_half_scale, node.input[:2])):
                return False
            return all(self._types.get(name) == TensorProto.FLOAT for name in node.input if name)
        if node.op_type == "QuantizeLinear":
            name = node.input[0]
            return (name in self.pending or self._follows(name)) and self._fits(node.input[1])
        return node.op_type in _FOLLOWING and any(
            name in self.pending or self._follows(name) or self._was_rounded_in_half(name) for name in node.input
        )

    def _follows(self, name: str) -> bool:
        """Whether the tensor was computed in half precision, and restored since for another reader."""
        return name in self.halves and name in self._producers and name not in self._stored

    def _dequantises(self, name: str) -> bool:
        producer = self._producers.get(name)
        return producer is not None and producer.op_type == "DequantizeLinear"

    def _has_half_scale(self, name: str) -> bool:
        """Whether a tensor is levels times a scale, and may be levels times that scale in float16."""
        return self._dequantises(name) and self._fits(self._producers[name].input[1])

    def _was_rounded_in_half(self, name: str) -> bool:
        """Whether a tensor is the levels of one in half precision, and may go on so."""
        return self._has_half_scale(name) and self._producers[name].input[0] in self.levels

    def _fits(self, scale: str) -> bool:
        """Whether float16 holds a scale: nearly as well as its larger numbers, where it is among the smallest."""
        if not self.around_levels or scale not in self._stored:
            return False
        exact = numpy_helper.to_array(self._stored[scale]).astype(np.float64)
        with np.errstate(over="ignore"):
            return bool((np.abs(exact.astype(np.float16) - exact) <= _SCALE_ROUNDING * np.abs(exact)).all())

    def _halve(self, node: onnx.NodeProto) -> None:
        # Weights in levels are multiplied as such where what they multiply is, too; else they are constants.
        by_levels = node.op_type in WEIGHTED and self._has_half_scale(node.input[0])
        for k, name in enumerate(node.input):
            if name and self._types.get(name) == TensorProto.FLOAT:
                levels = self._has_half_scale(name) and (by_levels or name not in self._weights)
                node.input[k] = self._half_levels(name, node) if levels else self._half(name, node)
        if node.op_type == "QuantizeLinear":
            self.levels.add(node.output[0])
            self.nodes.append(node)
            return
        for k, name in enumerate(node.output):
            if name and self._types.get(name, TensorProto.FLOAT) == TensorProto.FLOAT:
                self.halves[name] = node.output[k] = fresh_name(f"{name}/half", self._taken)
                self.pending.add(name)
        self.nodes.append(node)

    def _keep(self, node: onnx.NodeProto) -> None:
        if node.op_type in _SHAPE_ONLY:
            node.input[0] = self.halves.get(node.input[0], node.input[0])
        for name in list(reads(node)):
            self._restore(name)
        self.nodes.append(node)

    def _restore(self, name: str) -> None:
        """Give a tensor that exists in half precision only its float32 form."""
        if name in self.pending:
            self.pending.remove(name)
            self.nodes.append(helper.make_node("Cast", [self.halves[name]], [name], to=TensorProto.FLOAT))

    def _half(self, name: str, reader: onnx.NodeProto) -> str:
        """Return the name of a tensor's float16 form, made if there is none."""
        if name in self.halves:
            return self.halves[name]
        producer = self._producers.get(name)
        if producer is not None and producer.op_type == "Cast":
            source = str(producer.input[0])
            # Weights that the file stores in float16 are used as they are.
            if self._types.get(source) == TensorProto.FLOAT16:
                self.halves[name] = source
                return source
        constant = self._constant(name)
        half = fresh_name(f"{name}/half", self._taken)
        if constant is None:
            self.nodes.append(helper.make_node("Cast", [name], [half], to=TensorProto.FLOAT16))
        else:
            self.model.graph.initializer.append(numpy_helper.from_array(_rounded(constant, name, reader), half))
        self.halves[name] = half
        return half

    def _half_levels(self, name: str, reader: onnx.NodeProto) -> str:
        """Return the name of levels times their scale in float16: beside the float32 form, which others may read."""
        if name in self.halves:
            return self.halves[name]
        node = onnx.NodeProto()
        node.CopyFrom(self._producers[name])
        node.input[1] = self._half(node.input[1], reader)
        half = fresh_name(f"{name}/half", self._taken)
        self.halves[name] = node.name = node.output[0] = half
        self.nodes.append(node)
        return half

    def _constant(self, name: str) -> np.ndarray | None:
        """Return the values of a tensor that the network holds: stored, in a Constant node, or as 8-bit levels."""
        node = self._producers.get(name)
        if node is None:
            return numpy_helper.to_array(self._stored[name]) if name in self._stored else None
        if node.op_type == "Constant":
            tensor = constant_tensor(node)
            return None if tensor is None else numpy_helper.to_array(tensor)
        if node.op_type != "DequantizeLinear" or not set(node.input) <= self._stored.keys():
            return None
        levels, scale, *zero = (numpy_helper.to_array(self._stored[key]) for key in node.input)
        if scale.size > 1:  # one for each index of an axis
            axis = attribute(node, "axis", 1)
            shape = [-1 if k == axis % levels.ndim else 1 for k in range(levels.ndim)]
            scale, zero = scale.reshape(shape), [each.reshape(shape) for each in zero]
        values = levels.astype(np.float32)
        for each in zero:
            values -= each
        return np.asarray(values * scale)


def _rounded(values: np.ndarray, name: str, reader: onnx.NodeProto) -> np.ndarray:
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float16)
    if reader.op_type not in _BOUNDING and not np.isfinite(rounded).all() and np.isfinite(values).all():
        largest = float(np.abs(values).max())
        raise BackendError(
            f"The network cannot be computed in float16: '{name}' holds {largest:.3g}, and float16 ends at 65504; run "
            f"it at fp32."
        )
    return rounded
