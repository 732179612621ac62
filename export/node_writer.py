"""Nodes to append to a network: named after what they are part of, and added all at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pc_engine.graph.names import fresh_name, names_of


class NodeWriter:
    """Gathers nodes and the constants that they read; the network is left as it is until `append`.

    Parameters
    ----------
    model
        The network.
    name
        What the nodes are part of: their tensors are called ``name/...``, or by the name itself, and by no name of the
        network.
    """

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        self._graph, self._name = model.graph, name
        self._taken = set(names_of(model.graph))
        self._nodes: list[onnx.NodeProto] = []
        self._stored: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Add a node of one output; return the name of that, which is the whole's for an empty ``output``."""
        name = fresh_name(f"{self._name}/{output}" if output else self._name, self._taken)
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def store(self, name: str, values: Sequence[int] | np.ndarray) -> str:
        """Add a constant, int64 where it is no array; return its name."""
        name = fresh_name(f"{self._name}/{name}", self._taken)
        array = values if isinstance(values, np.ndarray) else np.array(values, np.int64)
        self._stored.append(numpy_helper.from_array(array, name))
        return name

    def append(self) -> None:
        """Append all of it to the network, in place."""
        self._graph.initializer.extend(self._stored)
        self._graph.node.extend(self._nodes)
