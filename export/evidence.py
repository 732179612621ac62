"""The class's own evidence, as part of the graph: the predicted class taken through the head back to the maps.

How much a feature map speaks for the class is the derivative of the class's logit by that map. Where the head is linear
behind a global average, that is a row of its weights (class activation maps: Zhou et al. 2016, doi
10.1109/CVPR.2016.319). Where fully connected layers come between, it is one backward step through them: for each a
product with its weights, and what a ReLU held at 0 stays 0 (Grad-CAM: Selvaraju et al. 2017, doi
10.1109/ICCV.2017.74). The nodes for that read the weights of the forward layers; none is stored twice.

Classes that the network was made for need no fitted signatures then: `pc_engine.modes.p2c` reads the tap ``evidence``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from pc_engine import graph_shapes
from pc_engine.errors import ModelError
from pc_engine.export.map_layout import TO_FIRST, TO_LAST, has_channels_last
from pc_engine.export.node_writer import NodeWriter
from pc_engine.export.weight_rounding import attribute
from pc_engine.graph import opset_of
from pc_engine.graph_names import reads
from pc_engine.graph_pruning import part_behind
from pc_engine.manifest import EVIDENCE

#: Settings that suit evidence taken back through fully connected layers: how much each map adds then depends on all
#: others, and what speaks against the class is no sign of another object.
BACKWARD_SETTINGS = {"p2c.top_evidence": 20.0}

# Operators that hand values on as they are, in another shape or type.
_RESHAPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_PASSING = ("Cast", "DequantizeLinear", "Dropout", "Identity", "QuantizeLinear")
# Operators that keep the order of the logits: what they normalise are the logits.
_NORMALISING = ("LogSoftmax", "Softmax")
_LINEAR = ("Conv", "Gemm", "MatMul")
_AVERAGING = ("AveragePool", "GlobalAveragePool", "ReduceMean")
_POOLING = ("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMean")
# What makes maps with their channels first, and what puts values elsewhere or mixes them otherwise.
_MAKING_MAPS = (*_POOLING, "Conv", "ConvTranspose", "Concat", "Resize", "Upsample")
_REARRANGING = (*_RESHAPING, "Gemm", "MatMul", "Transpose", "Einsum", "Gather", "GatherND", "If", "Loop", "Scan")
_MAP_RANK = 4  # images, maps, rows, columns
_MATRIX_RANK = 2
_OLDEST_OPSET = 9  # the first with Sign
_BIAS_OPTIONAL = 11  # the first in which Gemm needs no bias


@dataclass(frozen=True)
class Evidence:
    """What was appended.

    Attributes
    ----------
    tensor
        Its name: (N, channels).
    maps
        The feature maps that it speaks of, (N, channels, H, W).
    channels
        Number of maps.
    is_linear
        Whether the head is linear, so that the evidence of a class is the same for every image.
    """

    tensor: str
    maps: str
    channels: int
    is_linear: bool


def append_evidence(model: onnx.ModelProto, logits: str, background_class: int = -1) -> Evidence:
    """Append the nodes that compute the evidence for each image's class, in place; they become no output here.

    Parameters
    ----------
    model
        A classifier. Its last layers, from the logits backwards: linear ones (Gemm, MatMul, 1x1 Conv) with their biases
        and ReLUs between, then a pooling or the maps themselves. Quantised layers are gone through as well.
    logits
        The tensor (N, classes) whose largest value names the class.
    background_class
        A class that no evidence is wanted for, as it means "no object"; the next best takes its place. -1 where the
        network has none.

    Returns
    -------
    Evidence
        The tensor (N, C): for each map the mean over its cells of the derivative of the logit; behind a global average,
        which all cells share alike, the derivative by that average.

    Raises
    ------
    ModelError
        If the head is made of something else; the model is left as it was.
    """
    return _Backward(model, logits).append(background_class)


class _Backward:
    """The way back from the logits: each step turns the derivative by a node's output into that by its input."""

    def __init__(self, model: onnx.ModelProto, logits: str) -> None:
        self._model = model
        self._logits = logits
        self._producers: dict[str, onnx.NodeProto] = {name: node for node in model.graph.node for name in node.output}
        self._constants = _constants(model.graph)
        self._known = graph_shapes.infer(model)
        self._writer = NodeWriter(model, EVIDENCE)
        self._add, self._store = self._writer.add, self._writer.store
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        # Whether the derivative is its mean over each map's cells already.
        self._is_mean = False

    def append(self, background_class: int) -> Evidence:
        """Return the evidence after adding its nodes to the model."""
        opset = opset_of(self._model)
        if opset < _OLDEST_OPSET:
            raise ModelError(f"the network is of ONNX opset {opset}, and at least {_OLDEST_OPSET} is needed")
        layer = self._last_layer()
        gradient, tensor = self._row(layer, self._class_ids(background_class)), layer.input[0]
        is_linear = True
        while not self._is_grid(tensor):
            node = self._producer(tensor)
            is_linear = is_linear and node.op_type not in _LINEAR
            gradient, tensor = self._step(node, gradient)
        grid = tensor
        while self._pools(self._producer(tensor)):
            tensor = self._pooled_maps(self._producer(tensor))
        channels = self._shape(tensor)[0]
        evidence = self._one_per_map(gradient, grid, channels)
        self._writer.append()
        return Evidence(evidence, tensor, channels, is_linear)

    def _last_layer(self) -> onnx.NodeProto:
        """Return the layer that gives the logits, which nothing but biases and normalising may follow.

        It may give a map for each class, too, which are averaged. Its weights are the same for all cells; which of
        them a ReLU between held at 0 is left aside, as that is the same for all maps that it reads.
        """
        tensor = self._logits
        passed: tuple[str, ...] = (*_RESHAPING, *_PASSING, *_NORMALISING)
        while True:
            node = self._producer(tensor)
            if node.op_type in _LINEAR:
                self._check_layer(node)
                return node
            if not self._is_mean and self._averages(node):
                self._is_mean, passed = True, (*_PASSING, "Relu")
            elif node.op_type not in passed and not self._is_bias(node) and not self._turns_vectors(node):
                raise self._cannot(node)
            tensor = self._data(node)

    def _turns_vectors(self, node: onnx.NodeProto) -> bool:
        """Whether a node changes the order of axes of which one at most is longer than 1."""
        return node.op_type == "Transpose" and sum(size > 1 for size in self._shape(node.input[0])) <= 1

    def _averages(self, node: onnx.NodeProto) -> bool:
        """Whether a node gives the mean of each map over all cells."""
        if node.op_type not in _AVERAGING or not self._pools(node):
            return False
        return math.prod(self._shape(node.output[0])) == self._shape(self._pooled_maps(node))[0]

    def _class_ids(self, background_class: int) -> str:
        """Add what decides the class (N,) as the modes do: the largest logit, the first of equal ones."""
        if background_class < 0:
            return self._add("ArgMax", [self._logits], "class", axis=1, keepdims=0)
        n_classes = self._shape(self._logits)[0]
        others = self._store("classes", [k for k in range(n_classes) if k != background_class])
        scores = self._add("Gather", [self._logits, others], "logits", axis=1)
        best = self._add("ArgMax", [scores], "best", axis=1, keepdims=0)
        return self._add("Gather", [others, best], "class", axis=0)

    def _row(self, layer: onnx.NodeProto, class_ids: str) -> str:
        """Add the derivative of the class's logit by what its layer reads: the class's own weights."""
        weights = self._weights(layer)
        if layer.op_type == "Conv" or attribute(layer, "transB", 0):
            return self._add("Gather", [weights, class_ids], "class_weights", axis=0)
        columns = self._add("Gather", [weights, class_ids], "class_columns", axis=1)
        return self._add("Transpose", [columns], "class_weights", perm=[1, 0])

    def _step(self, node: onnx.NodeProto, gradient: str) -> tuple[str, str]:
        """Return the derivative by what ``node`` reads, and the name of that."""
        tensor = self._data(node)
        if node.op_type in _LINEAR:
            self._check_layer(node)
            if node.op_type == "Conv":
                return self._add("ConvTranspose", [gradient, self._weights(node)], "by_input"), tensor
            grid = self._flattened(tensor)
            if grid is not None:
                self._is_mean = True
                return self._product(gradient, self._mean_weights(node, grid), "by_map"), grid
            transposed = 1 - attribute(node, "transB", 0)
            return self._product(gradient, self._weights(node), "by_input", transposed), tensor
        if node.op_type == "Relu":
            passed = self._add("Sign", [node.output[0]], "passed")
            return self._add("Mul", [gradient, passed], "by_sum"), tensor
        if node.op_type in _RESHAPING:
            shape = self._store("shape", [0, *self._shape(tensor)])
            return self._add("Reshape", [gradient, shape], "reshaped"), tensor
        if node.op_type == "Transpose":
            order = attribute(node, "perm", None)
            if order is not None and order[0] == 0:
                return self._add("Transpose", [gradient], "transposed", perm=np.argsort(order).tolist()), tensor
        if node.op_type == "Cast":
            kind = self._known.get(tensor, graph_shapes.UNKNOWN).type
            if kind is not None:
                return self._add("Cast", [gradient], "cast", to=kind), tensor
        if node.op_type in _PASSING or self._is_bias(node):
            return gradient, tensor
        raise self._cannot(node)

    def _product(self, gradient: str, weights: str, output: str, transposed: int = 0) -> str:
        """Add the product with weights, which takes a bias in old opsets."""
        biases = []
        if opset_of(self._model) < _BIAS_OPTIONAL:
            kind = self._known.get(weights, graph_shapes.UNKNOWN).type or TensorProto.FLOAT
            biases.append(self._store("no_bias", np.zeros(1, helper.tensor_dtype_to_np_dtype(kind))))
        return self._add("Gemm", [gradient, weights, *biases], output, transB=transposed)

    def _flattened(self, tensor: str) -> str | None:
        """Return the maps, or what a pooling gave, that ``tensor`` holds as one vector an image; None if it is none."""
        while not self._is_grid(tensor):
            node = self._producer(tensor)
            if node.op_type not in (*_RESHAPING, *_PASSING) or node.op_type == "Cast":
                return None
            tensor = self._data(node)
        return tensor if len(self._shape(tensor)) == _MAP_RANK - 1 else None

    def _weights(self, layer: onnx.NodeProto) -> str:
        """Return a layer's weights. Levels are read anew, lest a backend that fuses the forward ones with it cannot."""
        weights: str = layer.input[1]
        node = self._producers.get(weights)
        if node is None or node.op_type != "DequantizeLinear":
            return weights
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        return self._add("DequantizeLinear", node.input, "weights", **attributes)

    def _mean_weights(self, layer: onnx.NodeProto, grid: str) -> str:
        """Store the layer's weights, averaged over the cells of each map (outputs, C).

        Only the mean of the derivative over the cells is wanted, and that is the derivative times the mean: of VGG's
        largest weights, whose product would cost a hundredth of the network and their memory once more, a 49th.
        """
        weights = self._values(layer.input[1])
        rows = weights if attribute(layer, "transB", 0) else weights.T
        means = rows.reshape(len(rows), self._shape(grid)[0], -1).mean(axis=2, dtype=np.float64)
        return self._store("mean_weights", means.astype(weights.dtype))

    def _values(self, name: str) -> np.ndarray:
        """Return what a tensor that does not depend on the image holds."""
        if name in self._tensors:
            return numpy_helper.to_array(self._tensors[name])
        part = part_behind(self._model.graph, [name])
        known = onnx.ModelProto(ir_version=self._model.ir_version)
        known.opset_import.extend(self._model.opset_import)
        known.graph.name = "constants"
        known.graph.node.extend(node for k, node in enumerate(self._model.graph.node) if k in part.nodes)
        known.graph.initializer.extend(t for t in self._model.graph.initializer if t.name in part.tensors)
        known.graph.output.add(name=name)
        session = onnxruntime.InferenceSession(known.SerializeToString(), providers=["CPUExecutionProvider"])
        values: np.ndarray = session.run([name], {})[0]
        return values

    def _one_per_map(self, gradient: str, grid: str, channels: int) -> str:
        """Add the mean of the derivative over each map's cells (N, C)."""
        if not self._is_mean and math.prod(self._shape(grid)) > channels:
            cells = self._add("Reshape", [gradient, self._store("shape", [0, channels, -1, 1])], "cells")
            gradient = self._add("GlobalAveragePool", [cells], "means")
        return self._add("Reshape", [gradient, self._store("shape", [0, channels])], "")

    def _is_grid(self, tensor: str) -> bool:
        """Whether a tensor holds maps, or is what a pooling of maps gave."""
        return self._is_maps(tensor) or self._pools(self._producer(tensor))

    def _is_maps(self, tensor: str) -> bool:
        """Whether a tensor holds maps (N, C, H, W) of more than one cell, which no pooling gave."""
        shape = self._known.get(tensor, graph_shapes.UNKNOWN).shape or ()
        if len(shape) != _MAP_RANK or shape[2:] == (1, 1):
            return False
        node = self._producer(tensor)
        return node.op_type not in (*_POOLING, *_PASSING, "Transpose") and self._comes_from_maps(tensor)

    def _comes_from_maps(self, tensor: str) -> bool:
        """Whether what a tensor was computed from, cell by cell, are maps by what made them.

        Others may have a shape like theirs, such as vectors that were normalised with their channels last.
        """
        waiting, seen = [tensor], set()
        while waiting:
            name = waiting.pop()
            node = self._producers.get(name)
            if node is None or node.op_type in _REARRANGING:
                return False
            if node.op_type not in _MAKING_MAPS and name not in seen:
                waiting += [each for each in node.input if each not in self._constants]
            seen.add(name)
        return True

    def _pools(self, node: onnx.NodeProto) -> bool:
        """Whether a node pools maps, over all cells or over windows of them."""
        return node.op_type in _POOLING and len(self._shape(node.input[0])) == _MAP_RANK - 1

    def _pooled_maps(self, node: onnx.NodeProto) -> str:
        """Return the maps (N, C, H, W) that a node pools."""
        maps: str = node.input[0]
        if node.op_type != "ReduceMean":
            return maps
        axes = {axis % _MAP_RANK for axis in self._axes(node)}
        if axes == {2, 3}:
            return maps
        turned = self._producer(maps)
        if axes == {1, 2} and turned.op_type == "Transpose" and attribute(turned, "perm", []) == TO_LAST:
            return str(turned.input[0])
        if axes == {1, 2} and has_channels_last(maps, self._producers):
            return self._turned(maps)
        raise self._cannot(node)

    def _turned(self, maps: str) -> str:
        """Return maps with their channels first, given some with theirs last: those of the network if it has them."""
        for name, node in self._producers.items():
            if node.op_type == "Transpose" and node.input[0] == maps and attribute(node, "perm", []) == TO_FIRST:
                return name
        height, width, channels = self._shape(maps)
        name = self._add("Transpose", [maps], "maps", perm=TO_FIRST)
        self._known[name] = graph_shapes.Value(self._known[maps].type, (None, channels, height, width))
        self._producers[name] = helper.make_node("Transpose", [maps], [name], perm=TO_FIRST)
        return name

    def _axes(self, node: onnx.NodeProto) -> list[int]:
        """Return the axes of a ReduceMean, which are an attribute or, from opset 18 on, an input."""
        if len(node.input) > 1 and node.input[1] in self._constants:
            axes: list[int] = self._values(node.input[1]).tolist()
            return axes
        return list(attribute(node, "axes", []))

    def _check_layer(self, node: onnx.NodeProto) -> None:
        """Raise ModelError unless a layer multiplies one vector an image by weights that do not depend on the image."""
        weights_known = node.input[1] in self._constants
        if node.op_type == "Conv":
            # One cell is all of the maps, or each cell is one of those that are averaged.
            whole = (1, 1) if self._is_mean else self._shape(node.input[0])[1:]
            plain = self._kernel(node) == whole and not any(attribute(node, "pads", [0]))
            plain = plain and attribute(node, "group", 1) == 1 and set(attribute(node, "strides", [1])) == {1}
        else:
            plain = len(self._shape(node.input[0])) == _MATRIX_RANK - 1
            plain = plain and attribute(node, "alpha", 1.0) == 1 and not attribute(node, "transA", 0)
        if not (weights_known and plain):
            raise self._cannot(node)

    def _kernel(self, node: onnx.NodeProto) -> tuple[int, ...]:
        """Return rows and columns of a convolution's weights, which it need not tell itself."""
        stored = self._tensors.get(node.input[1])
        weights = stored.dims if stored is not None else self._known.get(node.input[1], graph_shapes.UNKNOWN).shape
        return tuple(attribute(node, "kernel_shape", None) or (weights or ())[2:])

    def _is_bias(self, node: onnx.NodeProto) -> bool:
        """Whether a node adds something to its data that does not depend on the image."""
        if node.op_type == "Sub":
            return node.input[1] in self._constants
        return node.op_type == "Add" and any(name in self._constants for name in node.input)

    def _data(self, node: onnx.NodeProto) -> str:
        """Return the input of a node that depends on the image."""
        data = next((str(name) for name in node.input if name not in self._constants), None)
        if data is None:  # it takes it from outside of a graph of its own
            raise self._cannot(node)
        return data

    def _producer(self, tensor: str) -> onnx.NodeProto:
        if tensor not in self._producers:
            raise ModelError(f"nothing but '{tensor}' leads to the logits")
        return self._producers[tensor]

    def _shape(self, tensor: str) -> tuple[int, ...]:
        """Return a tensor's shape without the batch axis."""
        shape = (self._known.get(tensor, graph_shapes.UNKNOWN).shape or (None, None))[1:]
        sizes = tuple(size for size in shape if isinstance(size, int))
        if len(sizes) < len(shape):
            raise ModelError(f"the shape of '{tensor}' is not known before it is computed")
        return sizes

    def _cannot(self, node: onnx.NodeProto) -> ModelError:
        return ModelError(
            f"the way from the logits back to the feature maps leads through '{node.output[0]}' ({node.op_type})"
        )


def _constants(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the tensors that do not depend on the image: stored ones, and what is computed from these alone."""
    constants = {"", *(tensor.name for tensor in graph.initializer)}
    for node in graph.node:
        if all(name in constants for name in reads(node)):
            constants.update(node.output)
    return frozenset(constants)
