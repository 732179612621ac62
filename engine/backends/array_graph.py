"""A network run on arrays, one operator after the other: convolutions by who is given them, the rest by NumPy or CuPy.

Between the operators the images of a batch lie with their channels last, as matrix units want them: a tensor that ONNX
writes as (N, C, H, W) is a view of an array (N, H, W, C). Three things are done otherwise than the graph says, with the
same products and sums: a ReLU or ReLU6 goes with the convolution or matrix product before it, a matrix product is a
convolution of a single cell, and the first convolution of a network in float16 reads the pixels as they come.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import numpy_helper

from pc_engine.backbone import IMAGE
from pc_engine.backends.array_layers import Convolution, Convolve, Layer
from pc_engine.backends.array_operators import OPERATORS, Step, cast_type, channels_first, channels_last
from pc_engine.errors import BackendError
from pc_engine.graph import shapes as graph_shapes
from pc_engine.graph.attributes import attribute, attributes, constant_tensor
from pc_engine.graph.names import reads
from pc_engine.graph.operators import CHANNELS_FIRST, CHANNELS_LAST, transposes
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.pixel_columns import PIXEL


class ArrayGraph:
    """A prepared graph (see `pc_engine.graph.prepare.open_graph`) as steps on arrays.

    Parameters
    ----------
    model
        The graph; its convolutions and matrix products have weights that are constants.
    batch_size
        Images in a batch.
    library
        What computes its convolutions, for errors.
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
        self,
        model: onnx.ModelProto,
        batch_size: int,
        library: str,
        place: Callable[[np.ndarray], Array] = lambda array: array,
    ) -> None:
        parsed = _Parser(model, batch_size, library, place)
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
    work: Step


class _Parser:
    """Makes steps and layers of a graph's nodes, once."""

    def __init__(
        self, model: onnx.ModelProto, batch_size: int, library: str, place: Callable[[np.ndarray], Array]
    ) -> None:
        graph = model.graph
        self._batch, self._library, self._place = batch_size, library, place
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
            tensor = constant_tensor(node)
            if tensor is None:
                raise self.unknown(node, "is written in a form that is not known here")
            self._stored[node.output[0]] = tensor
            return {node.output[0]}
        if node.op_type == "Cast" and node.input[0] in self._stored:
            self._stored[node.output[0]] = self.constant(node, 0).astype(cast_type(node))
            return {node.output[0]}
        if node.op_type in ("Conv", "Gemm") or (node.op_type == "MatMul" and node.input[1] in self._stored):
            return self._add_layer(node)
        make = OPERATORS.get(node.op_type)
        if make is None or len([name for name in node.output if name]) != 1:
            raise self.unknown(node, "is not one that it runs")
        self._step(node.output[0], node, make(self, node))
        return {node.output[0]}

    def _step(self, name: str, node: onnx.NodeProto, work: Step) -> None:
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
            layer = pixels
            self.steps.append(_Named(name, (IMAGE,), lambda t, convolve: channels_first(convolve(name, t[IMAGE]))))
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
        settings = attributes(node)
        if settings.get("auto_pad", b"NOTSET") != b"NOTSET":
            raise self.unknown(node, "pads by a rule")
        weights = self.constant(node, 1)  # (filters, channels of a group, rows, columns)
        if weights.ndim != 4:
            raise self.unknown(node, "is not of two dimensions")
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
        return Layer(convolution, np.ascontiguousarray(weights.transpose(CHANNELS_LAST)), self._bias(node, weights))

    def _product(self, node: onnx.NodeProto) -> Layer:
        settings = attributes(node)
        plain = settings.get("alpha", 1) == 1 and settings.get("beta", 1) == 1 and not settings.get("transA", 0)
        weights = self.constant(node, 1)
        if not plain or weights.ndim != 2:
            raise self.unknown(node, "is not a plain product with a matrix of weights")
        if not settings.get("transB", 0):
            weights = weights.T  # (results, values)
        (values,) = self._sizes(node, node.input[0], 1)
        if node.input[0] in self._flat:
            channels, height, width = self._flat[node.input[0]]
            by_cell = weights.reshape(-1, channels, height, width).transpose(CHANNELS_LAST)
            weights = by_cell.reshape(len(weights), values)
        convolution = Convolution(images=(self._batch, 1, 1, values), filters=len(weights))
        weights = np.ascontiguousarray(weights).reshape(convolution.weights)
        return Layer(convolution, weights, self._bias(node, weights))

    def _bias(self, node: onnx.NodeProto, weights: np.ndarray) -> np.ndarray:
        if len(node.input) < 3 or not node.input[2]:
            return np.zeros(len(weights), weights.dtype)
        return np.ascontiguousarray(np.broadcast_to(self.constant(node, 2).ravel(), len(weights)))

    def _pixels(self, node: onnx.NodeProto, layer: Layer) -> Layer | None:
        """Return the first convolution as one that reads the images; None for another convolution.

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
            elif before.op_type != "Cast" and not transposes(before, CHANNELS_FIRST):
                return None
            name = before.input[0]
        channels, half = layer.weights.shape[3], layer.weights.dtype == np.float16
        if channels != 3 + extra or convolution.groups != 1 or convolution.dilation != (1, 1) or not half:
            return None
        read = replace(convolution, images=(*convolution.images[:3], PIXEL))
        weights = np.zeros(read.weights, np.float16)
        weights[..., :channels] = layer.weights
        return replace(layer, convolution=read, weights=weights, constant=constant)

    def _added_channel(self, node: onnx.NodeProto) -> float:
        """Return the value of the one channel that a Pad adds behind the others, NaN if it does anything else."""
        pads = self.constant(node, 1).tolist() if len(node.input) > 1 else []
        mode = attribute(node, "mode", b"constant")
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
            raise self.unknown(node, f"computes its input {k}")
        value = self._stored[node.input[k]]
        return value if isinstance(value, np.ndarray) else numpy_helper.to_array(value)

    def unknown(self, node: onnx.NodeProto, why: str) -> BackendError:
        """Return the error for a node that cannot be run, as it ``why``."""
        return BackendError(
            f"{self._library} cannot run this network (the operator {node.op_type} '{node.output[0]}' {why}): use "
            f"another backend."
        )

    def _sizes(self, node: onnx.NodeProto, name: str, count: int) -> tuple[int, ...]:
        """Return the sizes of a tensor but for its first, which counts images."""
        sizes = (self._shapes.get(name) or ())[1:]
        if len(sizes) != count or not all(isinstance(size, int) for size in sizes):
            raise self.unknown(node, "reads a tensor of unknown shape")
        return tuple(int(size) for size in sizes if size is not None)


def _through(x: Array, run: Callable[[Array], Array], *, flat: bool) -> Array:
    """Return what ``run`` makes of ``x`` with its channels last; ``flat`` for matrices, whose values are channels."""
    if flat:
        return run(get_array_module(x).ascontiguousarray(x)[:, None, None, :])[:, 0, 0, :]
    return channels_first(run(channels_last(x)))
