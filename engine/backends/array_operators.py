"""ONNX operators on NumPy or CuPy arrays, all but convolutions and products with weights; and the order of channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import helper

from pc_engine.backends.array_layers import Convolve
from pc_engine.errors import BackendError
from pc_engine.graph.attributes import attribute, attributes
from pc_engine.graph.operators import CHANNELS_FIRST, CHANNELS_LAST
from pc_engine.kernels import matrix_products, max_pool, to_planes
from pc_engine.kernels.array_module import Array, get_array_module

#: From the tensors so far, by name, to the one that a node makes.
Step = Callable[[dict[str, Array], Convolve], Array]


def channels_last(x: Array) -> Array:
    """Return maps (N, C, H, W) as a contiguous array (N, H, W, C)."""
    return get_array_module(x).ascontiguousarray(x.transpose(CHANNELS_LAST))


def channels_first(x: Array) -> Array:
    """Return an array (N, H, W, C) as maps (N, C, H, W), a view."""
    return x.transpose(CHANNELS_FIRST)


def cast_type(node: onnx.NodeProto) -> np.dtype[Any]:
    """Return what a Cast casts to."""
    return helper.tensor_dtype_to_np_dtype(attributes(node)["to"])


class Graph(Protocol):
    """What an operator asks of the graph that it is in."""

    def operand(self, node: onnx.NodeProto, k: int) -> Callable[[Mapping[str, Array]], Array]:
        """Return what gives input ``k`` of a node."""

    def constant(self, node: onnx.NodeProto, k: int) -> np.ndarray:
        """Return input ``k`` of a node, which has to be stored in the graph."""

    def flatten_channels_last(self, node: onnx.NodeProto) -> bool:
        """Whether the maps that a node flattens may keep their channels last."""

    def unknown(self, node: onnx.NodeProto, why: str) -> BackendError:
        """Return the error for a node that cannot be run, as it ``why``."""


Make = Callable[[Graph, onnx.NodeProto], Step]


def _unary(compute: Callable[[ModuleType, Array], Array]) -> Make:
    def make(graph: Graph, node: onnx.NodeProto) -> Step:
        x = graph.operand(node, 0)
        return lambda t, _: compute(get_array_module(x(t)), x(t))

    return make


def _binary(compute: Callable[[ModuleType, Array, Array], Array]) -> Make:
    def make(graph: Graph, node: onnx.NodeProto) -> Step:
        a, b = graph.operand(node, 0), graph.operand(node, 1)
        return lambda t, _: compute(get_array_module(a(t), b(t)), a(t), b(t))

    return make


def _cast(graph: Graph, node: onnx.NodeProto) -> Step:
    x, dtype = graph.operand(node, 0), cast_type(node)

    def run(t: dict[str, Array], _: Convolve) -> Array:
        value = x(t)
        if value.ndim == 4 and value.dtype == np.float16 and dtype == np.float32:
            return to_planes(channels_last(value))
        return value.astype(dtype)

    return run


def _transpose(graph: Graph, node: onnx.NodeProto) -> Step:
    x, axes = graph.operand(node, 0), attribute(node, "perm", None)
    return lambda t, _: x(t).transpose(axes)


def _pad(graph: Graph, node: onnx.NodeProto) -> Step:
    x, pads = graph.operand(node, 0), graph.constant(node, 1).tolist()
    if attribute(node, "mode", b"constant") != b"constant" or min(pads) < 0 or len(node.input) > 3:
        raise graph.unknown(node, "does more than add constants")
    value = graph.constant(node, 2).item() if len(node.input) > 2 and node.input[2] else 0
    sides = list(zip(pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True))
    return lambda t, _: get_array_module(x(t)).pad(x(t), sides, constant_values=value)


def _clip(graph: Graph, node: onnx.NodeProto) -> Step:
    x, before_opset_11 = graph.operand(node, 0), attributes(node)
    low, high = (
        graph.constant(node, k).item() if len(node.input) > k and node.input[k] else before_opset_11.get(name)
        for k, name in ((1, "min"), (2, "max"))
    )

    def run(t: dict[str, Array], _: Convolve) -> Array:
        value = x(t)
        xp = get_array_module(value)
        if low is not None:
            value = xp.maximum(value, value.dtype.type(low))
        return value if high is None else xp.minimum(value, value.dtype.type(high))

    return run


def _windows(graph: Graph, node: onnx.NodeProto) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    """Return window, stride and pads of a pooling."""
    settings = attributes(node)
    window = tuple(settings["kernel_shape"])
    plain = settings.get("auto_pad", b"NOTSET") == b"NOTSET" and not settings.get("ceil_mode", 0)
    if not plain or len(window) != 2 or set(settings.get("dilations", (1,))) != {1}:
        raise graph.unknown(node, "pools in a way that is not known here")
    top, left, bottom, right = settings.get("pads", (0, 0, 0, 0))
    rows, columns = settings.get("strides", (1, 1))
    return window, (rows, columns), (top, left, bottom, right)


def _max_pool(graph: Graph, node: onnx.NodeProto) -> Step:
    x, (window, stride, pads) = graph.operand(node, 0), _windows(graph, node)
    return lambda t, _: channels_first(max_pool(channels_last(x(t)), window, stride, pads))


def _average_pool(graph: Graph, node: onnx.NodeProto) -> Step:
    x, (window, stride, pads) = graph.operand(node, 0), _windows(graph, node)
    if window != stride or any(pads):
        raise graph.unknown(node, "averages windows that overlap or reach outside")
    rows, columns = window

    def run(t: dict[str, Array], _: Convolve) -> Array:
        maps = x(t)
        n, channels, height, width = maps.shape
        whole = maps[:, :, : height // rows * rows, : width // columns * columns]
        cells = whole.reshape(n, channels, height // rows, rows, width // columns, columns)
        return cells.mean(axis=(3, 5), dtype=np.float32).astype(maps.dtype)

    return run


def _flatten(graph: Graph, node: onnx.NodeProto) -> Step:
    x, axis = graph.operand(node, 0), attribute(node, "axis", 1)
    if axis != 1:
        raise graph.unknown(node, "does not keep the images apart")
    if graph.flatten_channels_last(node):
        return lambda t, _: channels_last(x(t)).reshape(len(x(t)), -1)
    return lambda t, _: x(t).reshape(len(x(t)), -1)


def _reshape(graph: Graph, node: onnx.NodeProto) -> Step:
    x, target = graph.operand(node, 0), graph.constant(node, 1).tolist()
    if attribute(node, "allowzero", 0):
        raise graph.unknown(node, "asks for empty tensors")
    return lambda t, _: x(t).reshape([x(t).shape[k] if size == 0 else size for k, size in enumerate(target)])


def _mean_of_maps(xp: ModuleType, x: Array) -> Array:
    return x.mean(axis=(2, 3), keepdims=True, dtype=xp.float32).astype(x.dtype)


def _arg_max(graph: Graph, node: onnx.NodeProto) -> Step:
    x, settings = graph.operand(node, 0), attributes(node)
    if settings.get("select_last_index", 0):
        raise graph.unknown(node, "takes the last of equals")
    axis, keep = settings.get("axis", 0), bool(settings.get("keepdims", 1))
    return lambda t, _: get_array_module(x(t)).argmax(x(t), axis=axis, keepdims=keep)


def _gather(graph: Graph, node: onnx.NodeProto) -> Step:
    x, places, axis = graph.operand(node, 0), graph.operand(node, 1), attribute(node, "axis", 0)
    return lambda t, _: get_array_module(x(t)).take(x(t), places(t), axis=axis)


def _products(xp: ModuleType, a: Array, b: Array) -> Array:
    if a.ndim == b.ndim == 3 and len(a) == len(b):
        return matrix_products(a, b)
    return xp.matmul(a, b)


#: What makes the step of a node, by its operator.
OPERATORS: Mapping[str, Make] = {
    "Abs": _unary(lambda xp, x: xp.abs(x)),
    "Add": _binary(lambda xp, a, b: xp.add(a, b)),
    "ArgMax": _arg_max,
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Clip": _clip,
    "Div": _binary(lambda xp, a, b: xp.divide(a, b)),
    "Flatten": _flatten,
    "Gather": _gather,
    "GlobalAveragePool": _unary(_mean_of_maps),
    "Identity": _unary(lambda _, x: x),
    "MatMul": _binary(_products),
    "MaxPool": _max_pool,
    "Mul": _binary(lambda xp, a, b: xp.multiply(a, b)),
    "Pad": _pad,
    "Relu": _unary(lambda xp, x: xp.maximum(x, x.dtype.type(0))),
    "Reshape": _reshape,
    "Sign": _unary(lambda xp, x: xp.sign(x)),
    "Sqrt": _unary(lambda xp, x: xp.sqrt(x)),
    "Sub": _binary(lambda xp, a, b: xp.subtract(a, b)),
    "Transpose": _transpose,
}
