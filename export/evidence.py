"""The class's own evidence, as part of the graph: the predicted class taken through the head back to the maps.

How much a feature map speaks for the class is the derivative of the class's logit by that map. Where the head is linear
behind a global average, that is a row of its weights (class activation maps: Zhou et al. 2016, doi
10.1109/CVPR.2016.319). Where fully connected layers come between, it is one backward step through them: for each a
product with its weights, and what a ReLU held at 0 stays 0 (Grad-CAM: Selvaraju et al. 2017, doi
10.1109/ICCV.2017.74); other activations and normalising are gone back through likewise. The nodes for that read the
weights of the forward layers; none is stored twice.

Classes that the network was made for need no fitted signatures then: `pc_engine.modes.p2c` reads the tap ``evidence``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from pc_engine.errors import ModelError
from pc_engine.export.derivatives import Branch, Derivatives
from pc_engine.export.head_graph import PASSING, RESHAPING, HeadGraph
from pc_engine.export.node_writer import NodeWriter
from pc_engine.graph import shapes as graph_shapes
from pc_engine.graph.attributes import attribute, attributes
from pc_engine.graph.operators import LINEAR
from pc_engine.graph.prepare import opset_of
from pc_engine.manifest import EVIDENCE

#: Settings that suit evidence taken back through fully connected layers: how much each map adds then depends on all
#: others, and what speaks against the class is no sign of another object.
BACKWARD_SETTINGS = {"p2c.top_evidence": 20.0}

_LOGITS = "logits"
# Operators that keep the order of the logits: what they normalise are the logits.
_NORMALISING = ("LogSoftmax", "Softmax")
_VECTOR_RANK = 2  # images, values
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
    is_linear
        Whether the head has one linear layer, so that the evidence of a class is the same for every image, or but for
        what normalises the layer's input.
    """

    tensor: str
    maps: str
    is_linear: bool


def append_evidence(
    model: onnx.ModelProto,
    background_class: int = -1,
    known: Mapping[str, graph_shapes.Value] | None = None,
) -> Evidence:
    """Append the nodes that compute the evidence for each image's class, in place; they become no output here.

    Parameters
    ----------
    model
        A classifier, whose largest value in the tensor ``logits`` (N, classes) names the class. Its last layers, from
        these backwards: linear ones (Gemm, MatMul, 1x1 Conv) with their biases and what `pc_engine.export.derivatives`
        knows between, then poolings or the maps themselves. Quantised layers are gone through as well.
    background_class
        A class that no evidence is wanted for, as it means "no object"; the next best takes its place. -1 where the
        network has none.
    known
        Types and shapes of the network's tensors; None to infer them here.

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
    known = graph_shapes.infer(model) if known is None else known
    return _Backward(model, known).append(background_class)


class _Backward:
    """The way back from the logits: each step turns the derivative by a node's output into those by its inputs."""

    def __init__(self, model: onnx.ModelProto, known: Mapping[str, graph_shapes.Value]) -> None:
        self._opset = opset_of(model)
        self._writer = NodeWriter(model, EVIDENCE)
        self._add, self._store = self._writer.add, self._writer.store
        self._head = HeadGraph(model, self._writer, known)
        self._derivatives = Derivatives(self._head, self._writer, self._opset)
        # Whether the logits are means over maps of them.
        self._is_mean = False
        # Derivatives that are means over each map's cells already.
        self._means = set[str]()

    def append(self, background_class: int) -> Evidence:
        """Return the evidence after adding its nodes to the model."""
        if self._opset < _OLDEST_OPSET:
            raise ModelError(f"the network is of ONNX opset {self._opset}, but at least {_OLDEST_OPSET} is needed")
        layer, factors = self._last_layer()
        gradient = self._row(layer, self._class_ids(background_class))
        for node in factors:
            ((_, gradient),) = self._derivatives.by_inputs(node, gradient)
        grids, is_linear = self._grids(layer.input[0], gradient)
        maps = {self._head.maps_behind(grid) for grid in grids}
        tensor = min(maps)
        channels = self._head.shape(tensor)[0]
        # What was pooled in two ways adds up where all cells of a map share alike in both.
        if len(maps) > 1 or (len(grids) > 1 and any(math.prod(self._head.shape(grid)) > channels for grid in grids)):
            raise ModelError(f"the logits are made from several feature maps ({', '.join(sorted(grids))})")
        parts = [part for parts in grids.values() for part in parts]
        row = self._store("shape", [0, channels])
        if len(parts) > 1:
            parts = [self._add("Reshape", [part, row], "by_map") for part in parts]
        evidence = self._add("Reshape", [self._derivatives.total(parts), row], "")
        self._writer.append()
        return Evidence(evidence, tensor, is_linear)

    def _grids(self, tensor: str, gradient: str) -> tuple[dict[str, list[str]], bool]:
        """Go back from the last layer's input to maps, or what pooled them, each with what adds up to its evidence.

        The second value says whether no other linear layer lies between. The node farthest from the image comes first,
        so that all that reaches a tensor is there when it is its turn.
        """
        branches, is_linear = [(tensor, gradient)], True
        waiting, grids = dict[str, list[str]](), dict[str, list[str]]()
        while True:
            for name, part in branches:
                if self._is_grid(name):
                    grids.setdefault(name, []).append(self._one_per_map(part, name))
                else:
                    waiting.setdefault(name, []).append(part)
            if not waiting:
                return grids, is_linear
            tensor = max(waiting, key=self._head.place)
            gradient = self._derivatives.total(waiting.pop(tensor))
            node = self._head.producer(tensor)
            is_linear = is_linear and node.op_type not in LINEAR
            if node.op_type in LINEAR:
                branches = [self._through_layer(node, gradient)]
            else:
                branches = self._derivatives.by_inputs(node, gradient)

    def _last_layer(self) -> tuple[onnx.NodeProto, list[onnx.NodeProto]]:
        """Return the layer that gives the logits, which biases, normalising and factors may follow, and the factors.

        It may give a map for each class, too, which are averaged. Its weights are the same for all cells; which of
        them a ReLU between held at 0 is left aside, as that is the same for all maps that it reads.
        """
        tensor, factors = _LOGITS, list[onnx.NodeProto]()
        passed: tuple[str, ...] = (*RESHAPING, *PASSING, *_NORMALISING)
        while True:
            node = self._head.producer(tensor)
            if node.op_type in LINEAR:
                self._check_layer(node)
                return node, factors
            if not self._is_mean and self._head.averages(node):
                self._is_mean, passed = True, (*PASSING, "Relu")
            elif self._is_factor(node):
                factors.append(node)
            elif node.op_type not in passed and not self._is_bias(node) and not self._turns_vectors(node):
                raise self._head.cannot(node)
            tensor = self._head.data(node)

    def _is_factor(self, node: onnx.NodeProto) -> bool:
        """Whether a node multiplies all of its data by one number, as the temperature of logits that are cosines."""
        given = [name for name in node.input if self._head.is_constant(name)]
        if len(given) != 1 or not (node.op_type == "Mul" or (node.op_type == "Div" and given[0] == node.input[1])):
            return False
        return self._head.values(given[0]).size == 1

    def _turns_vectors(self, node: onnx.NodeProto) -> bool:
        """Whether a node changes the order of axes of which one at most is longer than 1."""
        return node.op_type == "Transpose" and sum(size > 1 for size in self._head.shape(node.input[0])) <= 1

    def _class_ids(self, background_class: int) -> str:
        """Add what decides the class (N,) as the modes do: the largest logit, the first of equal ones."""
        if background_class < 0:
            return self._add("ArgMax", [_LOGITS], "class", axis=1, keepdims=0)
        n_classes = self._head.shape(_LOGITS)[0]
        others = self._store("classes", [k for k in range(n_classes) if k != background_class])
        scores = self._add("Gather", [_LOGITS, others], "logits", axis=1)
        best = self._add("ArgMax", [scores], "best", axis=1, keepdims=0)
        return self._add("Gather", [others, best], "class", axis=0)

    def _row(self, layer: onnx.NodeProto, class_ids: str) -> str:
        """Add the derivative of the class's logit by what its layer reads: the class's own weights."""
        weights = self._weights(layer)
        if layer.op_type == "Conv" or attribute(layer, "transB", 0):
            return self._add("Gather", [weights, class_ids], "class_weights", axis=0)
        columns = self._add("Gather", [weights, class_ids], "class_columns", axis=1)
        return self._add("Transpose", [columns], "class_weights", perm=[1, 0])

    def _through_layer(self, node: onnx.NodeProto, gradient: str) -> Branch:
        """Return what a linear layer reads, and the derivative by it."""
        self._check_layer(node)
        tensor = self._head.data(node)
        if node.op_type == "Conv":
            return tensor, self._add("ConvTranspose", [gradient, self._weights(node)], "by_input")
        grid = self._flattened(tensor)
        if grid is not None:
            by_map = self._product(gradient, self._mean_weights(node, grid), "by_map")
            self._means.add(by_map)
            return grid, by_map
        transposed = 1 - attribute(node, "transB", 0)
        return tensor, self._product(gradient, self._weights(node), "by_input", transposed)

    def _product(self, gradient: str, weights: str, output: str, transposed: int = 0) -> str:
        """Add the product with weights, which takes a bias in old opsets."""
        biases = []
        if self._opset < _BIAS_OPTIONAL:
            kind = self._head.type(weights) or TensorProto.FLOAT
            biases.append(self._store("no_bias", np.zeros(1, helper.tensor_dtype_to_np_dtype(kind))))
        return self._add("Gemm", [gradient, weights, *biases], output, transB=transposed)

    def _flattened(self, tensor: str) -> str | None:
        """Return the maps, or what a pooling gave, that ``tensor`` holds as one vector an image; None if it is none."""
        while not self._head.is_grid(tensor):
            node = self._head.producer(tensor)
            if node.op_type not in (*RESHAPING, *PASSING) or node.op_type == "Cast":
                return None
            tensor = self._head.data(node)
        return tensor if len(self._head.shape(tensor)) == graph_shapes.MAP_RANK - 1 else None

    def _weights(self, layer: onnx.NodeProto) -> str:
        """Return a layer's weights. Levels are read anew, lest a backend that fuses the forward ones with it cannot."""
        weights: str = layer.input[1]
        node = self._head.computed_by(weights)
        if node is None or node.op_type != "DequantizeLinear":
            return weights
        return self._add("DequantizeLinear", node.input, "weights", **attributes(node))

    def _mean_weights(self, layer: onnx.NodeProto, grid: str) -> str:
        """Store the layer's weights, averaged over the cells of each map (outputs, C).

        Only the mean of the derivative over the cells is wanted, and that is the derivative times the mean: of VGG's
        largest weights, whose product would cost a hundredth of the network and their memory once more, a 49th.
        """
        weights = self._head.values(layer.input[1])
        rows = weights if attribute(layer, "transB", 0) else weights.T
        means = rows.reshape(len(rows), self._channels(grid), -1).mean(axis=2, dtype=np.float64)
        return self._store("mean_weights", means.astype(weights.dtype))

    def _one_per_map(self, gradient: str, grid: str) -> str:
        """Add the mean of the derivative over each map's cells (N, C) or (N, C, 1, 1), where it has several."""
        channels = self._channels(grid)
        if self._is_mean or gradient in self._means or math.prod(self._head.shape(grid)) == channels:
            return gradient
        cells = self._add("Reshape", [gradient, self._store("shape", [0, channels, -1, 1])], "cells")
        return self._add("GlobalAveragePool", [cells], "means")

    def _is_grid(self, tensor: str) -> bool:
        """Whether the way back ends at a tensor: at maps, or at what a pooling of maps gave."""
        if self._head.is_grid(tensor):
            return True
        # Where logits are averaged over cells, what has cells are maps, whatever gave them.
        shape = self._head.shape(tensor)
        has_cells = len(shape) == graph_shapes.MAP_RANK - 1 and math.prod(shape[1:]) > 1
        return self._is_mean and has_cells and self._head.producer(tensor).op_type not in PASSING

    def _channels(self, grid: str) -> int:
        """Return the number of maps that a grid is, or was pooled from."""
        return self._head.shape(self._head.maps_behind(grid))[0]

    def _check_layer(self, node: onnx.NodeProto) -> None:
        """Raise ModelError unless a layer multiplies one vector an image by weights that do not depend on the image."""
        weights_known = self._head.is_constant(node.input[1])
        if node.op_type == "Conv":
            # One cell is all of the maps, or each cell is one of those that are averaged.
            whole = (1, 1) if self._is_mean else self._head.shape(node.input[0])[1:]
            kernel = tuple(attribute(node, "kernel_shape", None) or self._head.weight_dims(node.input[1])[2:])
            plain = kernel == whole and not any(attribute(node, "pads", [0]))
            plain = plain and attribute(node, "group", 1) == 1 and set(attribute(node, "strides", [1])) == {1}
        else:
            plain = len(self._head.shape(node.input[0])) == _VECTOR_RANK - 1
            plain = plain and attribute(node, "alpha", 1.0) == 1 and not attribute(node, "transA", 0)
        if not (weights_known and plain):
            raise self._head.cannot(node)

    def _is_bias(self, node: onnx.NodeProto) -> bool:
        """Whether a node adds something to its data that does not depend on the image."""
        if node.op_type == "Sub":
            return self._head.is_constant(node.input[1])
        return node.op_type == "Add" and any(self._head.is_constant(name) for name in node.input)
