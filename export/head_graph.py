"""The last layers of a classifier, as one goes back through them: which tensors are maps, vectors, or constants."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pc_engine.errors import ModelError
from pc_engine.export.map_layout import REARRANGING, has_channels_last
from pc_engine.export.node_writer import NodeWriter
from pc_engine.export.run_shapes import quiet_session
from pc_engine.graph import shapes as graph_shapes
from pc_engine.graph.attributes import attribute
from pc_engine.graph.names import reads
from pc_engine.graph.operators import CHANNELS_FIRST, CHANNELS_LAST, POOLING, transposes
from pc_engine.graph.pruning import part_behind

#: Operators that hand values on as they are, in another shape or type.
RESHAPING = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
PASSING = ("Cast", "DequantizeLinear", "Dropout", "Identity", "QuantizeLinear")

_AVERAGING = ("AveragePool", "GlobalAveragePool", "ReduceMean")
_REDUCING = ("ReduceMax", "ReduceMean")
_POOLING = (*POOLING, *_REDUCING)
# What makes maps with their channels first, and what puts values elsewhere or mixes them otherwise.
_MAKING_MAPS = (*_POOLING, "Conv", "ConvTranspose", "Concat", "Resize", "Upsample")
_REARRANGING = (*REARRANGING, "MatMul", "Transpose")


class HeadGraph:
    """The part of a network that is gone back through.

    Parameters
    ----------
    model
        The network.
    writer
        Takes a node, where the network holds maps with their channels last only.
    known
        Types and shapes of its tensors.
    """

    def __init__(self, model: onnx.ModelProto, writer: NodeWriter, known: Mapping[str, graph_shapes.Value]) -> None:
        self._model, self._writer = model, writer
        self._producers: dict[str, onnx.NodeProto] = {name: node for node in model.graph.node for name in node.output}
        self._places = {name: k for k, node in enumerate(model.graph.node) for name in node.output}
        self._constants = _constants(model.graph)
        self._known = dict(known)
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def producer(self, tensor: str) -> onnx.NodeProto:
        """Return the node that gives ``tensor``; raise ModelError where none does."""
        if tensor not in self._producers:
            raise ModelError(f"nothing but '{tensor}' leads to the logits")
        return self._producers[tensor]

    def computed_by(self, tensor: str) -> onnx.NodeProto | None:
        """Return the node that gives ``tensor``, None where it is stored."""
        return self._producers.get(tensor)

    def place(self, tensor: str) -> int:
        """Return how many nodes come before the one that gives ``tensor``."""
        return self._places.get(tensor, -1)

    def is_constant(self, tensor: str) -> bool:
        """Whether a tensor, or the absence of one, does not depend on the image."""
        return tensor in self._constants

    def data(self, node: onnx.NodeProto) -> str:
        """Return the first input of a node that depends on the image."""
        data = next((str(name) for name in node.input if name not in self._constants), None)
        if data is None:  # it takes it from outside of a graph of its own
            raise self.cannot(node)
        return data

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Return a tensor's shape without the batch axis."""
        shape = (self._known.get(tensor, graph_shapes.UNKNOWN).shape or (None, None))[1:]
        sizes = tuple(size for size in shape if isinstance(size, int))
        if len(sizes) < len(shape):
            raise ModelError(f"the shape of '{tensor}' is not known before it is computed")
        return sizes

    def type(self, tensor: str) -> int | None:
        """Return a tensor's element type, None where that is not known."""
        return self._known.get(tensor, graph_shapes.UNKNOWN).type

    def values(self, name: str) -> np.ndarray:
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
        values: np.ndarray = quiet_session(known).run([name], {})[0]
        return values

    def weight_dims(self, name: str) -> tuple[int | str | None, ...]:
        """Return the dimensions of weights, none where they are not known."""
        stored = self._tensors.get(name)
        return tuple(stored.dims) if stored is not None else self._known.get(name, graph_shapes.UNKNOWN).shape or ()

    def axes(self, node: onnx.NodeProto) -> list[int]:
        """Return the axes that a node reduces, which are an attribute or, in later opsets, an input; none for all."""
        if len(node.input) > 1 and node.input[1] in self._constants:
            given: list[int] = self.values(node.input[1]).tolist() if node.input[1] else []
        else:
            given = list(attribute(node, "axes", []))
        rank = len(self.shape(node.input[0])) + 1
        return sorted(axis % rank for axis in given)

    def is_grid(self, tensor: str) -> bool:
        """Whether a tensor holds maps, or is what a pooling of maps gave."""
        return self._is_maps(tensor) or self.pools(self.producer(tensor))

    def pools(self, node: onnx.NodeProto) -> bool:
        """Whether a node pools maps, over all cells or over windows of them."""
        if node.op_type not in _POOLING or len(self.shape(node.input[0])) != graph_shapes.MAP_RANK - 1:
            return False
        return node.op_type not in _REDUCING or self._reduced_maps(node) is not None

    def averages(self, node: onnx.NodeProto) -> bool:
        """Whether a node gives the mean of each map over all cells."""
        if node.op_type not in _AVERAGING or not self.pools(node):
            return False
        return math.prod(self.shape(node.output[0])) == self.shape(self._pooled_maps(node))[0]

    def maps_behind(self, grid: str) -> str:
        """Return the maps (N, C, H, W) that a grid is, or was pooled from."""
        while self.pools(self.producer(grid)):
            grid = self._pooled_maps(self.producer(grid))
        return grid

    def cannot(self, node: onnx.NodeProto) -> ModelError:
        """Return the error about a node that there is no way back through."""
        return ModelError(
            f"the way from the logits back to the feature maps leads through '{node.output[0]}' ({node.op_type})"
        )

    def _is_maps(self, tensor: str) -> bool:
        """Whether a tensor holds maps (N, C, H, W) of more than one cell, which no pooling gave."""
        shape = self._known.get(tensor, graph_shapes.UNKNOWN).shape or ()
        if len(shape) != graph_shapes.MAP_RANK or shape[2:] == (1, 1):
            return False
        node = self.producer(tensor)
        return node.op_type not in (*_POOLING, *PASSING, "Transpose") and self._comes_from_maps(tensor)

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

    def _pooled_maps(self, node: onnx.NodeProto) -> str:
        """Return the maps (N, C, H, W) that a node pools."""
        if node.op_type not in _REDUCING:
            return str(node.input[0])
        maps = self._reduced_maps(node)
        if maps is None:
            raise self.cannot(node)
        return maps

    def _reduced_maps(self, node: onnx.NodeProto) -> str | None:
        """Return the maps (N, C, H, W) that a node reduces over their cells, None if it reduces something else."""
        maps, axes = str(node.input[0]), self.axes(node)
        if axes == [2, 3]:
            return maps
        turned = self.producer(maps)
        if axes == [1, 2] and transposes(turned, CHANNELS_LAST):
            return str(turned.input[0])
        if axes == [1, 2] and has_channels_last(maps, self._producers):
            return self._turned(maps)
        return None

    def _turned(self, maps: str) -> str:
        """Return maps with their channels first, given some with theirs last: those of the network if it has them."""
        for name, node in self._producers.items():
            if transposes(node, CHANNELS_FIRST) and node.input[0] == maps:
                return name
        height, width, channels = self.shape(maps)
        name = self._writer.add("Transpose", [maps], "maps", perm=CHANNELS_FIRST)
        self._known[name] = graph_shapes.Value(self._known[maps].type, (None, channels, height, width))
        self._producers[name] = helper.make_node("Transpose", [maps], [name], perm=CHANNELS_FIRST)
        return name


def _constants(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the tensors that do not depend on the image: stored ones, and what is computed from these alone."""
    constants = {"", *(tensor.name for tensor in graph.initializer)}
    for node in graph.node:
        if all(name in constants for name in reads(node)):
            constants.update(node.output)
    return frozenset(constants)
