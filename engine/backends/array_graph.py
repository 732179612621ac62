"""A network run on arrays, one operator after the other: convolutions by who is given them, the rest by NumPy or CuPy.

Between the operators the images of a batch lie with their channels last, as matrix units want them: a tensor that ONNX
writes as (N, C, H, W) is a view of an array (N, H, W, C). Three things are done otherwise than the graph says, with the
same products and sums: a ReLU or ReLU6 goes with the convolution or matrix product before it, a matrix product is a
convolution of a single cell, and the first convolution reads its pixels as `pc_engine.kernels.pixel_columns` gathers
them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pc_engine import graph_shapes
from pc_engine.errors import BackendError
from pc_engine.graph import IMAGE
from pc_engine.graph_names import reads
from pc_engine.kernels import max_pool, pixel_columns, to_planes
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.pixel_columns import PIXEL

_CHANNELS_FIRST, _CHANNELS_LAST = (0, 3, 1, 2), (0, 2, 3, 1)
# Channels that the first convolution's pixels are filled up to a multiple of.
_ALIGNED = 8


@dataclass(frozen=True)
class Convolution:
    """A convolution of a batch, with what follows it.

    Attributes
    ----------
    images
        (N, height, width, channels) of what it reads.
    filters
        Number of them.
    window, stride, dilation
        Rows and columns.
    pads
        Zeros above, left, below, right.
    groups
        Groups of channels and filters that are convolved by themselves.
    relu
        Whether negative sums become 0.
    ceiling
        What greater sums become: 6 of a ReLU6.
    """

    images: tuple[int, int, int, int]
    filters: int
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    relu: bool = False
    ceiling: float = math.inf

    @property
    def weights(self) -> tuple[int, int, int, int]:
        """(filters, rows, columns, channels of a group): the shape of its weights."""
        return (self.filters, *self.window, self.images[3] // self.groups)

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel has one filter of its own, as `pc_engine.kernels.depthwise_convolution` applies it."""
        return self.images[3] == self.filters == self.groups > 1 and self.dilation == (1, 1)

    @property
    def result(self) -> tuple[int, int, int, int]:
        """(N, height, width, filters) of what it gives."""
        (n, height, width, _), (top, left, bottom, right) = self.images, self.pads
        rows, columns = (
            (size - step * (extent - 1) - 1) // stride + 1
            for size, extent, stride, step in zip(
                (height + top + bottom, width + left + right), self.window, self.stride, self.dilation, strict=True
            )
        )
        return n, rows, columns, self.filters


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution with its weights, of the shape that it says, and its bias (filters,)."""

    convolution: Convolution
    weights: np.ndarray
    bias: np.ndarray


#: Runs the layer of a name on an array (N, H, W, C) and returns one of the same type.
Convolve = Callable[[str, Array], Array]

_Step = Callable[[dict[str, Array], Convolve], Array]


class ArrayGraph:
    """A prepared graph (see `pc_engine.graph.prepare_graph`) as steps on arrays.

    Parameters
    ----------
    model
        The graph; its convolutions and matrix products have weights that are constants.
    batch_size
        Images in a batch.
    place
        Puts constants where the graph is to run.

    Attributes
    ----------
    layers
        Its convolutions by name.

    Raises
    ------
    BackendError
        If it has an operator, or a form of one, that is not known here.
    """

    def __init__(
        self, model: onnx.ModelProto, batch_size: int, place: Callable[[np.ndarray], Array] = lambda array: array
    ) -> None:
        parsed = _Parser(model, batch_size, place)
        self.layers = parsed.layers
        self._steps = parsed.steps
        self._outputs = tuple(value.name for value in model.graph.output)
        self._last_use: dict[str, int] = {}
        for number, step in enumerate(self._steps):
            self._last_use |= dict.fromkeys(step.reads, number)

    def run(self, images: Array, convolve: Convolve) -> dict[str, Array]:
        """Return the outputs for uint8 images (batch size, H, W, 3), contiguous."""
        tensors = {IMAGE: images}
        for number, step in enumerate(self._steps):
            tensors[step.name] = step.work(tensors, convolve)
            for name in step.reads:
                if self._last_use[name] == number and name not in self._outputs:
                    tensors.pop(name, None)
        xp = get_array_module(images)
        return {name: xp.ascontiguousarray(tensors[name]) for name in self._outputs}


@dataclass(frozen=True, eq=False)
class _Named:
    name: str
    reads: tuple[str, ...]
    work: _Step


class _Parser:
    """Makes steps and layers of a graph's nodes, once."""

    def __init__(self, model: onnx.ModelProto, batch_size: int, place: Callable[[np.ndarray], Array]) -> None:
        graph = model.graph
        self._batch, self._place = batch_size, place
        self._stored: dict[str, onnx.TensorProto | np.ndarray] = {tensor.name: tensor for tensor in graph.initializer}
        self._shapes = {name: value.shape for name, value in graph_shapes.infer(model).items()}
        outputs = [value.name for value in graph.output]
        self._uses = Counter([*(name for node in graph.node for name in reads(node)), *outputs])
        self._producers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._placed: dict[str, Array] = {}
        # Outputs of Flatten nodes that keep the channels last, with the (C, H, W) that they flatten.
        self._flat: dict[str, tuple[int, int, int]] = {}
        self.layers: dict[str, Layer] = {}
        self.steps: list[_Named] = []
        done: set[str] = set()
        for node in graph.node:
            if node.output[0] not in done:
                done |= self._add(node)
        self._keep_what_is_read(outputs)

    def _add(self, node: onnx.NodeProto) -> set[str]:
        """Add the step of a node; return the tensors that it makes."""
        if node.op_type == "Constant":
            self._stored[node.output[0]] = _constant(node)
            return {node.output[0]}
        if node.op_type == "Cast" and node.input[0] in self._stored:
            self._stored[node.output[0]] = self.constant(node, 0).astype(_cast_type(node))
            return {node.output[0]}
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            return self._add_layer(node)
        make = _OPERATORS.get(node.op_type)
        if make is None or len([name for name in node.output if name]) != 1:
            raise _unknown(node, "is not one that it runs")
        self._step(node.output[0], node, make(self, node))
        return {node.output[0]}

    def _step(self, name: str, node: onnx.NodeProto, work: _Step) -> None:
        needed = tuple(dict.fromkeys(other for other in node.input if other and other not in self._stored))
        self.steps.append(_Named(name, needed, work))

    def _add_layer(self, node: onnx.NodeProto) -> set[str]:
        source, made = node.input[0], {node.output[0]}
        layer = self._convolution(node) if node.op_type == "Conv" else self._product(node)
        name = node.output[0]
        followers = self._readers.get(name, [])
        ceiling = self._ceiling(followers[0]) if self._uses[name] == 1 and followers else None
        if ceiling is not None:
            name = followers[0].output[0]
            made.add(name)
            layer = replace(layer, convolution=replace(layer.convolution, relu=True, ceiling=ceiling))
        pixels = self._pixels(node, layer) if node.op_type == "Conv" else None
        flat = node.op_type != "Conv"
        if pixels is not None:
            layer, gather = pixels
            self.steps.append(_Named(name, (IMAGE,), lambda t, convolve: _first(convolve(name, gather(t[IMAGE])))))
        else:
            self.steps.append(
                _Named(name, (source,), lambda t, convolve: _through(t[source], lambda x: convolve(name, x), flat=flat))
            )
        self.layers[name] = layer
        return made

    def _ceiling(self, node: onnx.NodeProto) -> float | None:
        """Return what a node that makes negative values 0 makes greater ones; None if it does anything else."""
        if node.op_type == "Relu":
            return math.inf
        bounds = [name if name in self._stored else "" for name in node.input[1:]]
        if node.op_type != "Clip" or len(bounds) != 2 or "" in bounds or self.constant(node, 1).item() != 0:
            return None
        return float(self.constant(node, 2).item())

    def _convolution(self, node: onnx.NodeProto) -> Layer:
        settings = _attributes(node)
        if settings.get("auto_pad", b"NOTSET") != b"NOTSET":
            raise _unknown(node, "pads by a rule")
        weights = self.constant(node, 1)  # (filters, channels of a group, rows, columns)
        if weights.ndim != 4:
            raise _unknown(node, "is not of two dimensions")
        channels, height, width = self._sizes(node, node.input[0], 3)
        top, left, bottom, right = settings.get("pads", (0, 0, 0, 0))
        convolution = Convolution(
            images=(self._batch, height, width, channels),
            filters=len(weights),
            window=weights.shape[2:],
            stride=tuple(settings.get("strides", (1, 1))),
            dilation=tuple(settings.get("dilations", (1, 1))),
            pads=(top, left, bottom, right),
            groups=int(settings.get("group", 1)),
        )
        return Layer(convolution, np.ascontiguousarray(weights.transpose(_CHANNELS_LAST)), self._bias(node, weights))

    def _product(self, node: onnx.NodeProto) -> Layer:
        settings = _attributes(node)
        plain = settings.get("alpha", 1) == 1 and settings.get("beta", 1) == 1 and not settings.get("transA", 0)
        weights = self.constant(node, 1)
        if not plain or weights.ndim != 2:
            raise _unknown(node, "is not a plain product with a matrix of weights")
        if not settings.get("transB", 0):
            weights = weights.T  # (results, values)
        (values,) = self._sizes(node, node.input[0], 1)
        if node.input[0] in self._flat:
            channels, height, width = self._flat[node.input[0]]
            by_cell = weights.reshape(-1, channels, height, width).transpose(_CHANNELS_LAST)
            weights = by_cell.reshape(len(weights), values)
        convolution = Convolution(images=(self._batch, 1, 1, values), filters=len(weights))
        weights = np.ascontiguousarray(weights).reshape(convolution.weights)
        return Layer(convolution, weights, self._bias(node, weights))

    def _bias(self, node: onnx.NodeProto, weights: np.ndarray) -> np.ndarray:
        if len(node.input) < 3 or not node.input[2]:
            return np.zeros(len(weights), weights.dtype)
        return np.ascontiguousarray(np.broadcast_to(self.constant(node, 2).ravel(), len(weights)))

    def _pixels(self, node: onnx.NodeProto, layer: Layer) -> tuple[Layer, Callable[[Array], Array]] | None:
        """Return the first convolution as one of gathered pixels, and what gathers them; None for another convolution.

        It is one if nothing but Cast, Transpose and a channel of one value lies between the pixels and it.
        """
        convolution, constant, name = layer.convolution, 0.0, node.input[0]
        extra = False
        while name != IMAGE:
            before = self._producers.get(name)
            if before is None:
                return None
            if before.op_type == "Pad" and not extra:
                extra, constant = True, self._added_channel(before)
                if not math.isfinite(constant):
                    return None
            elif before.op_type != "Cast" and not _puts_channels_first(before):
                return None
            name = before.input[0]
        channels, columns = layer.weights.shape[3], convolution.window[1]
        half = layer.weights.dtype == np.float16
        if channels != 3 + extra or convolution.groups != 1 or convolution.dilation != (1, 1) or not half:
            return None
        top, left, bottom, right = convolution.pads
        room = -(-PIXEL * columns // _ALIGNED) * _ALIGNED
        weights = np.zeros((convolution.filters, convolution.window[0], 1, room), np.float16)
        for column in range(columns):
            weights[:, :, 0, PIXEL * column : PIXEL * column + channels] = layer.weights[:, :, column]
        count, height, _, _ = convolution.images
        gathered = replace(
            convolution,
            images=(count, height, convolution.result[2], room),
            window=(convolution.window[0], 1),
            stride=(convolution.stride[0], 1),
            pads=(top, 0, bottom, 0),
        )

        def gather(images: Array) -> Array:
            return pixel_columns(
                images, constant, window=columns, stride=convolution.stride[1], pads=(left, right), channels=room
            )

        return replace(layer, convolution=gathered, weights=weights), gather

    def _added_channel(self, node: onnx.NodeProto) -> float:
        """Return the value of the one channel that a Pad adds behind the others, NaN if it does anything else."""
        pads = self.constant(node, 1).tolist() if len(node.input) > 1 else []
        mode = _attributes(node).get("mode", b"constant")
        if pads != [0, 0, 0, 0, 0, 1, 0, 0] or mode != b"constant" or len(node.input) > 3:
            return math.nan
        return float(self.constant(node, 2).item()) if len(node.input) > 2 and node.input[2] else 0.0

    def _keep_what_is_read(self, outputs: Sequence[str]) -> None:
        """Leave out steps that nothing reads: those that the first convolution does itself."""
        needed, kept = set(outputs), []
        for step in reversed(self.steps):
            if step.name in needed:
                needed |= set(step.reads)
                kept.append(step)
        self.steps = kept[::-1]

    # What operators ask for

    def operand(self, node: onnx.NodeProto, k: int) -> Callable[[Mapping[str, Array]], Array]:
        """Return what gives input ``k`` of a node."""
        name = node.input[k]
        if name not in self._stored:
            return lambda tensors: tensors[name]
        if name not in self._placed:
            self._placed[name] = self._place(self.constant(node, k))
        value = self._placed[name]
        return lambda _: value

    def flatten_channels_last(self, node: onnx.NodeProto) -> bool:
        """Whether the maps that a node flattens may keep their channels last: if only matrix products read them."""
        name, readers = node.output[0], self._readers.get(node.output[0], [])
        shape = self._shapes.get(node.input[0]) or ()
        products = [reader for reader in readers if reader.op_type in ("Gemm", "MatMul") and reader.input[0] == name]
        if len(shape) != 4 or len(products) != self._uses[name]:
            return False
        channels, height, width = self._sizes(node, node.input[0], 3)
        self._flat[name] = channels, height, width
        return True

    def constant(self, node: onnx.NodeProto, k: int) -> np.ndarray:
        """Return input ``k`` of a node, which has to be stored in the graph."""
        if k >= len(node.input) or node.input[k] not in self._stored:
            raise _unknown(node, f"computes its input {k}")
        value = self._stored[node.input[k]]
        return value if isinstance(value, np.ndarray) else numpy_helper.to_array(value)

    def _sizes(self, node: onnx.NodeProto, name: str, count: int) -> tuple[int, ...]:
        """Return the sizes of a tensor but for its first, which counts images."""
        sizes = (self._shapes.get(name) or ())[1:]
        if len(sizes) != count or not all(isinstance(size, int) for size in sizes):
            raise _unknown(node, "reads a tensor of unknown shape")
        return tuple(int(size) for size in sizes if size is not None)


def _through(x: Array, run: Callable[[Array], Array], *, flat: bool) -> Array:
    """Return what ``run`` makes of ``x`` with its channels last; ``flat`` for matrices, whose values are channels."""
    if flat:
        return run(get_array_module(x).ascontiguousarray(x)[:, None, None, :])[:, 0, 0, :]
    return _first(run(_last(x)))


def _last(x: Array) -> Array:
    return get_array_module(x).ascontiguousarray(x.transpose(_CHANNELS_LAST))


def _first(x: Array) -> Array:
    return x.transpose(_CHANNELS_FIRST)


def _constant(node: onnx.NodeProto) -> onnx.TensorProto:
    value = next((item for item in node.attribute if item.name == "value"), None)
    if value is None:
        raise _unknown(node, "is written in a form that is not known here")
    tensor: onnx.TensorProto = value.t
    return tensor


def _puts_channels_first(node: onnx.NodeProto) -> bool:
    return node.op_type == "Transpose" and tuple(_attributes(node).get("perm", ())) == _CHANNELS_FIRST


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _cast_type(node: onnx.NodeProto) -> np.dtype[Any]:
    return helper.tensor_dtype_to_np_dtype(_attributes(node)["to"])


def _unknown(node: onnx.NodeProto, why: str) -> BackendError:
    return BackendError(
        f"cuDNN cannot run this network (the operator {node.op_type} '{node.output[0]}' {why}): use another backend."
    )


_Make = Callable[[_Parser, onnx.NodeProto], _Step]


def _unary(compute: Callable[[ModuleType, Array], Array]) -> _Make:
    def make(parser: _Parser, node: onnx.NodeProto) -> _Step:
        x = parser.operand(node, 0)
        return lambda t, _: compute(get_array_module(x(t)), x(t))

    return make


def _binary(compute: Callable[[ModuleType, Array, Array], Array]) -> _Make:
    def make(parser: _Parser, node: onnx.NodeProto) -> _Step:
        a, b = parser.operand(node, 0), parser.operand(node, 1)
        return lambda t, _: compute(get_array_module(a(t), b(t)), a(t), b(t))

    return make


def _cast(parser: _Parser, node: onnx.NodeProto) -> _Step:
    x, dtype = parser.operand(node, 0), _cast_type(node)

    def run(t: dict[str, Array], _: Convolve) -> Array:
        value = x(t)
        if value.ndim == 4 and value.dtype == np.float16 and dtype == np.float32:
            return to_planes(_last(value))
        return value.astype(dtype)

    return run


def _transpose(parser: _Parser, node: onnx.NodeProto) -> _Step:
    x, axes = parser.operand(node, 0), _attributes(node).get("perm")
    return lambda t, _: x(t).transpose(axes)


def _pad(parser: _Parser, node: onnx.NodeProto) -> _Step:
    x, pads = parser.operand(node, 0), parser.constant(node, 1).tolist()
    if _attributes(node).get("mode", b"constant") != b"constant" or min(pads) < 0 or len(node.input) > 3:
        raise _unknown(node, "does more than add constants")
    value = parser.constant(node, 2).item() if len(node.input) > 2 and node.input[2] else 0
    sides = list(zip(pads[: len(pads) // 2], pads[len(pads) // 2 :], strict=True))
    return lambda t, _: get_array_module(x(t)).pad(x(t), sides, constant_values=value)


def _clip(parser: _Parser, node: onnx.NodeProto) -> _Step:
    x = parser.operand(node, 0)
    low, high = (parser.constant(node, k) if len(node.input) > k and node.input[k] else None for k in (1, 2))

    def run(t: dict[str, Array], _: Convolve) -> Array:
        value = x(t)
        xp = get_array_module(value)
        if low is not None:
            value = xp.maximum(value, value.dtype.type(low.item()))
        return value if high is None else xp.minimum(value, value.dtype.type(high.item()))

    return run


def _windows(node: onnx.NodeProto) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int]]:
    """Return window, stride and pads of a pooling."""
    settings = _attributes(node)
    window = tuple(settings["kernel_shape"])
    plain = settings.get("auto_pad", b"NOTSET") == b"NOTSET" and not settings.get("ceil_mode", 0)
    if not plain or len(window) != 2 or set(settings.get("dilations", (1,))) != {1}:
        raise _unknown(node, "pools in a way that is not known here")
    top, left, bottom, right = settings.get("pads", (0, 0, 0, 0))
    rows, columns = settings.get("strides", (1, 1))
    return window, (rows, columns), (top, left, bottom, right)


def _max_pool(parser: _Parser, node: onnx.NodeProto) -> _Step:
    x, (window, stride, pads) = parser.operand(node, 0), _windows(node)
    return lambda t, _: _first(max_pool(_last(x(t)), window, stride, pads))


def _average_pool(parser: _Parser, node: onnx.NodeProto) -> _Step:
    x, (window, stride, pads) = parser.operand(node, 0), _windows(node)
    if window != stride or any(pads):
        raise _unknown(node, "averages windows that overlap or reach outside")
    rows, columns = window

    def run(t: dict[str, Array], _: Convolve) -> Array:
        maps = x(t)
        n, channels, height, width = maps.shape
        whole = maps[:, :, : height // rows * rows, : width // columns * columns]
        cells = whole.reshape(n, channels, height // rows, rows, width // columns, columns)
        return cells.mean(axis=(3, 5), dtype=np.float32).astype(maps.dtype)

    return run


def _flatten(parser: _Parser, node: onnx.NodeProto) -> _Step:
    x, axis = parser.operand(node, 0), _attributes(node).get("axis", 1)
    if axis != 1:
        raise _unknown(node, "does not keep the images apart")
    if parser.flatten_channels_last(node):
        return lambda t, _: _last(x(t)).reshape(len(x(t)), -1)
    return lambda t, _: x(t).reshape(len(x(t)), -1)


def _reshape(parser: _Parser, node: onnx.NodeProto) -> _Step:
    x, target = parser.operand(node, 0), parser.constant(node, 1).tolist()
    if _attributes(node).get("allowzero", 0):
        raise _unknown(node, "asks for empty tensors")
    return lambda t, _: x(t).reshape([x(t).shape[k] if size == 0 else size for k, size in enumerate(target)])


def _mean_of_maps(xp: ModuleType, x: Array) -> Array:
    return x.mean(axis=(2, 3), keepdims=True, dtype=xp.float32).astype(x.dtype)


def _arg_max(parser: _Parser, node: onnx.NodeProto) -> _Step:
    x, settings = parser.operand(node, 0), _attributes(node)
    if settings.get("select_last_index", 0):
        raise _unknown(node, "takes the last of equals")
    axis, keep = settings.get("axis", 0), bool(settings.get("keepdims", 1))
    return lambda t, _: get_array_module(x(t)).argmax(x(t), axis=axis, keepdims=keep)


def _gather(parser: _Parser, node: onnx.NodeProto) -> _Step:
    x, places, axis = parser.operand(node, 0), parser.operand(node, 1), _attributes(node).get("axis", 0)
    return lambda t, _: get_array_module(x(t)).take(x(t), places(t), axis=axis)


_OPERATORS: Mapping[str, _Make] = {
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
    "MaxPool": _max_pool,
    "Mul": _binary(lambda xp, a, b: xp.multiply(a, b)),
    "Pad": _pad,
    "Relu": _unary(lambda xp, x: xp.maximum(x, x.dtype.type(0))),
    "Reshape": _reshape,
    "Sign": _unary(lambda xp, x: xp.sign(x)),
    "Sub": _binary(lambda xp, a, b: xp.subtract(a, b)),
    "Transpose": _transpose,
}
