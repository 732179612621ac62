"""Derivatives of what stands between the linear layers of a head: activations, normalising, and sums of branches.

Each is written with ONNX's own nodes, as the derivative depends on what the image gave. Maps have been pooled by then,
so that these nodes compute vectors and cost next to nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from pc_engine.export.head_graph import PASSING, RESHAPING, HeadGraph
from pc_engine.export.node_writer import NodeWriter
from pc_engine.graph.attributes import attribute

_MEAN_TAKES_AXES = 18  # the first opset in which ReduceMean's axes are an input
_SMALLEST = 1e-30  # as a length that is divided by
_GELU_CUBE = 0.044715  # of the approximation by tanh (Hendrycks & Gimpel 2016, arXiv:1606.08415)

#: A tensor and the derivative by it.
Branch = tuple[str, str]


class Derivatives:
    """Adds the derivative by what a node reads, given that by what it gives.

    Parameters
    ----------
    head
        The network.
    writer
        Takes the nodes.
    opset
        Of the network.
    """

    def __init__(self, head: HeadGraph, writer: NodeWriter, opset: int) -> None:
        self._head, self._opset = head, opset
        self._add, self._store = writer.add, writer.store
        self._slopes: dict[str, Callable[[onnx.NodeProto, str, str], str]] = {
            "Relu": lambda _node, _x, y: self._add("Sign", [y], "passed"),
            "LeakyRelu": lambda node, x, _y: self._bent(x, attribute(node, "alpha", 0.01)),
            "PRelu": lambda node, x, _y: self._bent(x, node.input[1]),
            "Elu": lambda node, x, y: self._bent(x, self._sum(y, attribute(node, "alpha", 1.0))),
            "Clip": lambda node, x, _y: self._within(node, x),
            "Sigmoid": lambda _node, _x, y: self._times(y, self._minus(1.0, y)),
            "Tanh": lambda _node, _x, y: self._minus(1.0, self._times(y, y)),
            "HardSigmoid": lambda node, _x, y: self._times(self._inside(y), attribute(node, "alpha", 0.2)),
            "HardSwish": lambda _node, x, _y: self._hard_swish(x),
            "Gelu": lambda node, x, _y: self._gelu(x, attribute(node, "approximate", b"none") == b"tanh"),
            "Erf": lambda _node, x, _y: self._times(self._bell(x, 1.0), 2 / math.sqrt(math.pi)),
            "Sqrt": lambda _node, _x, y: self._times(self._over(0.5, self._positive(y)), self._add("Sign", [y], "any")),
            "Pow": lambda node, x, _y: self._power(node, x),
        }

    def by_inputs(self, node: onnx.NodeProto, gradient: str) -> list[Branch]:
        """Return the inputs of ``node`` that depend on the image, each with the derivative by it.

        An input that is read twice is there twice. Raises ModelError where the node is none of those known here.
        """
        data = self._head.data(node)
        if node.op_type in RESHAPING:
            return [(data, self._reshaped(gradient, self._head.shape(data)))]
        if node.op_type == "Cast":
            kind = self._head.type(data)
            return [(data, gradient if kind is None else self._add("Cast", [gradient], "cast", to=kind))]
        if node.op_type in PASSING:
            return [(data, gradient)]
        if node.op_type == "Transpose":
            order = attribute(node, "perm", None)
            if order is None or order[0] != 0:
                raise self._head.cannot(node)
            return [(data, self._add("Transpose", [gradient], "transposed", perm=np.argsort(order).tolist()))]
        if node.op_type in self._slopes:
            if data != node.input[0] or any(not self._head.is_constant(name) for name in node.input[1:]):
                raise self._head.cannot(node)
            return [(data, self._times(gradient, self._slopes[node.op_type](node, data, node.output[0])))]
        if node.op_type in ("Add", "Div", "Mul", "Sub"):
            return self._arithmetic(node, gradient)
        if node.op_type in ("ReduceL2", "ReduceMean", "ReduceSum"):
            return [(data, self._reduced(node, gradient))]
        if node.op_type == "Expand":
            return [(data, self._fitted(node, gradient, data))]
        if node.op_type == "Concat":
            return self._parts(node, gradient)
        if node.op_type == "BatchNormalization":
            return [(data, self._times(gradient, self._batch_scale(node)))]
        if node.op_type == "LayerNormalization":
            return [(data, self._layer_norm(node, gradient))]
        raise self._head.cannot(node)

    def total(self, gradients: Sequence[str]) -> str:
        """Add the sum of the derivatives that reach a tensor on several ways."""
        return functools.reduce(self._sum, gradients)

    def _arithmetic(self, node: onnx.NodeProto, gradient: str) -> list[Branch]:
        """Return the branches of a sum, a difference, a product or a quotient."""
        first, second = node.input
        found = []
        if not self._head.is_constant(first):
            by_first = {"Mul": self._times, "Div": self._over}.get(node.op_type)
            found.append((first, gradient if by_first is None else by_first(gradient, second)))
        if not self._head.is_constant(second):
            by_second = gradient
            if node.op_type == "Mul":
                by_second = self._times(gradient, first)
            elif node.op_type == "Div":
                by_second = self._times(gradient, self._over(node.output[0], second))
            if node.op_type in ("Div", "Sub"):
                by_second = self._add("Neg", [by_second], "negative")
            found.append((second, by_second))
        return [(tensor, self._fitted(node, part, tensor)) for tensor, part in found]

    def _fitted(self, node: onnx.NodeProto, gradient: str, tensor: str) -> str:
        """Sum a derivative by what ``node`` gives over the axes that it repeated ``tensor`` along."""
        wide, narrow = self._head.shape(node.output[0]), self._head.shape(tensor)
        if len(wide) != len(narrow):
            raise self._head.cannot(node)
        repeated = [k + 1 for k, size in enumerate(narrow) if size < wide[k]]
        if not repeated:
            return gradient
        return self._times(self._mean(gradient, repeated), float(math.prod(wide[k - 1] for k in repeated)))

    def _reduced(self, node: onnx.NodeProto, gradient: str) -> str:
        """Return the derivative by what is summed, averaged, or taken the length of."""
        data, axes = node.input[0], self._head.axes(node)
        shape = self._head.shape(data)
        if not axes or 0 in axes:
            raise self._head.cannot(node)
        kept = [1 if k + 1 in axes else size for k, size in enumerate(shape)]
        gradient = self._reshaped(gradient, kept)
        if node.op_type == "ReduceL2":
            length = self._reshaped(node.output[0], kept)
            return self._times(gradient, self._over(data, self._positive(length)))
        if node.op_type == "ReduceMean":
            gradient = self._over(gradient, float(math.prod(shape[k - 1] for k in axes)))
        return self._add("Expand", [gradient, self._store("shape", [1, *shape])], "repeated")

    def _parts(self, node: onnx.NodeProto, gradient: str) -> list[Branch]:
        """Return for each of the tensors that were put one behind the other its part of the derivative."""
        axis = attribute(node, "axis", 1) % (len(self._head.shape(node.output[0])) + 1)
        if axis == 0 or any(self._head.is_constant(tensor) for tensor in node.input):
            raise self._head.cannot(node)
        found, start = [], 0
        for tensor in node.input:
            stop = start + self._head.shape(tensor)[axis - 1]
            part = self._store("places", list(range(start, stop)))
            found.append((tensor, self._add("Gather", [gradient, part], "part", axis=axis)))
            start = stop
        return found

    def _batch_scale(self, node: onnx.NodeProto) -> str:
        """Store what batch normalisation multiplies each channel by."""
        if not all(self._head.is_constant(name) for name in node.input[1:]) or attribute(node, "training_mode", 0):
            raise self._head.cannot(node)
        scale, variance = (self._head.values(node.input[k]).astype(np.float64) for k in (1, 4))
        factors = (scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))).astype(np.float32)
        return self._store("scale", factors.reshape(-1, *[1] * (len(self._head.shape(node.input[0])) - 1)))

    def _layer_norm(self, node: onnx.NodeProto, gradient: str) -> str:
        """Return the derivative by what was normalised along the last axis.

        The mean and the deviation depend on all values, so that what these do to the logit goes off it again.
        """
        data, last = node.input[0], len(self._head.shape(node.input[0]))
        if attribute(node, "axis", -1) not in (-1, last) or not self._head.is_constant(node.input[1]):
            raise self._head.cannot(node)
        centred = self._minus(data, self._mean(data, [last]))
        variance = self._mean(self._times(centred, centred), [last])
        deviation = self._add("Sqrt", [self._sum(variance, attribute(node, "epsilon", 1e-5))], "deviation")
        normal = self._over(centred, deviation)
        scaled = self._times(gradient, node.input[1])
        along = self._times(normal, self._mean(self._times(scaled, normal), [last]))
        return self._over(self._minus(self._minus(scaled, self._mean(scaled, [last])), along), deviation)

    def _bent(self, data: str, slope: str | float) -> str:
        """Return 1 where the data are above 0, else ``slope``."""
        above = self._above(data, 0.0)
        return self._sum(above, self._times(self._minus(1.0, above), slope))

    def _within(self, node: onnx.NodeProto, data: str) -> str:
        """Return 1 where the data lie between the bounds of a Clip, inputs or attributes, else 0."""
        given = [*node.input[1:], "", ""][:2]
        low: str | float = given[0] or attribute(node, "min", -math.inf)
        high: str | float = given[1] or attribute(node, "max", math.inf)
        return self._times(self._above(data, low), self._above(high, data))

    def _inside(self, data: str) -> str:
        """Return 1 where the data lie between 0 and 1, else 0."""
        return self._times(self._above(data, 0.0), self._above(1.0, data))

    def _hard_swish(self, data: str) -> str:
        gate = self._add("HardSigmoid", [data], "gate", alpha=1 / 6, beta=0.5)
        return self._sum(gate, self._times(data, self._times(self._inside(gate), 1 / 6)))

    def _gelu(self, data: str, by_tanh: bool) -> str:
        """Return the derivative of data times the share of a normal distribution that lies below them."""
        if by_tanh:
            factor = math.sqrt(2 / math.pi)
            square = self._times(data, data)
            bound = self._times(self._times(data, factor), self._sum(1.0, self._times(square, _GELU_CUBE)))
            shared = self._add("Tanh", [bound], "tanh")
            steep = self._times(self._sum(1.0, self._times(square, 3 * _GELU_CUBE)), factor / 2)
            density = self._times(self._minus(1.0, self._times(shared, shared)), steep)
        else:
            shared = self._add("Erf", [self._times(data, math.sqrt(0.5))], "erf")
            density = self._times(self._bell(data, 0.5), 1 / math.sqrt(2 * math.pi))
        return self._sum(self._times(self._sum(shared, 1.0), 0.5), self._times(data, density))

    def _bell(self, data: str, factor: float) -> str:
        """Return exp(-factor data^2)."""
        return self._add("Exp", [self._times(self._times(data, data), -factor)], "bell")

    def _power(self, node: onnx.NodeProto, data: str) -> str:
        """Return the derivative of a power. That of a root is taken for 0 at 0, as of a map that shows nothing."""
        exponent = self._head.values(node.input[1]).astype(np.float32)
        is_root = bool((exponent < 1).any())
        base = self._positive(data) if is_root else data
        lower = self._add("Pow", [base, self._store("exponent", np.asarray(exponent - 1))], "power")
        slope = self._times(lower, self._store("factor", exponent))
        return self._times(slope, self._add("Sign", [data], "any")) if is_root else slope

    def _positive(self, tensor: str) -> str:
        """Return a tensor of no negative values with something that can be divided by in the place of 0."""
        return self._add("Max", [tensor, self._operand(_SMALLEST)], "positive")

    def _mean(self, tensor: str, axes: Sequence[int]) -> str:
        if self._opset >= _MEAN_TAKES_AXES:
            return self._add("ReduceMean", [tensor, self._store("axes", list(axes))], "mean")
        return self._add("ReduceMean", [tensor], "mean", axes=list(axes))

    def _reshaped(self, tensor: str, shape: Sequence[int]) -> str:
        return self._add("Reshape", [tensor, self._store("shape", [0, *shape])], "reshaped")

    def _above(self, first: str | float, second: str | float) -> str:
        """Return 1 where the first is larger, else 0."""
        above = self._add("Greater", [self._operand(first), self._operand(second)], "is_above")
        return self._add("Cast", [above], "above", to=TensorProto.FLOAT)

    def _sum(self, first: str | float, second: str | float) -> str:
        return self._add("Add", [self._operand(first), self._operand(second)], "sum")

    def _minus(self, first: str | float, second: str | float) -> str:
        return self._add("Sub", [self._operand(first), self._operand(second)], "difference")

    def _times(self, first: str | float, second: str | float) -> str:
        return self._add("Mul", [self._operand(first), self._operand(second)], "product")

    def _over(self, first: str | float, second: str | float) -> str:
        return self._add("Div", [self._operand(first), self._operand(second)], "quotient")

    def _operand(self, value: str | float) -> str:
        return value if isinstance(value, str) else self._store("number", np.array(value, np.float32))
