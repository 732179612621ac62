"""Copies that an exporter wrote as a gather of single values, though nothing moves.

PyTorch's exporter does so behind the average pool of a network whose values lie in memory with their channels last: the
maps are laid out flat, and each value is fetched by a number that is computed from the size of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from pc_engine.export.run_shapes import run_for
from pc_engine.graph import shapes as graph_shapes
from pc_engine.graph.attributes import attribute
from pc_engine.manifest import NetworkInput

_IMAGES = 2


def drop_strided_copies(model: onnx.ModelProto, pixels: NetworkInput, known: Mapping[str, graph_shapes.Value]) -> None:
    """Make an Identity of each such gather that gives what was laid out, in place.

    Parameters
    ----------
    model, pixels, known
        See `pc_engine.export.run_shapes.known_shapes`, and what it returns. A network that cannot be run is left as it
        is.
    """

    def shape(name: str) -> tuple[int | str | None, ...]:
        return known.get(name, graph_shapes.UNKNOWN).shape or ()

    flattened = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Reshape"}
    copies = [
        node
        for node in model.graph.node
        if node.op_type == "Gather"
        and attribute(node, "axis", 0) == 0
        and node.input[0] in flattened
        and len(shape(node.input[0])) == 1
        and len(shape(node.output[0])) > 1
        and shape(node.output[0])[1:] == shape(flattened[node.input[0]])[1:]
    ]
    if not copies:
        return
    sources = [flattened[node.input[0]] for node in copies]
    images = np.random.default_rng(0).integers(0, 256, (_IMAGES, pixels.height, pixels.width, 3), np.uint8)
    try:
        values = run_for(model, [*sources, *(node.output[0] for node in copies)], images)
    except Exception:  # whatever is wrong with the network is said where it is run for its taps' shapes
        return
    for node, source, before, after in zip(copies, sources, values, values[len(copies) :], strict=False):
        if np.array_equal(before, after):
            node.CopyFrom(helper.make_node("Identity", [source], node.output, name=node.name))
