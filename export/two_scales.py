"""Networks that see each image at two sizes: at the one that they were trained on, and at twice that.

The classes, and what is counted by, are those of the smaller view. Maps of the larger one have four times the cells,
and show where objects lie more finely: of several maps the heat is multiplied (`pc_engine.modes.salience`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import onnx
from onnx import helper

from pc_engine.errors import ModelError, UsageError
from pc_engine.export.classifier_input import SPATIAL_AXES
from pc_engine.graph.names import fresh_name, names_of, reads, stored_names, subgraphs
from pc_engine.graph.operators import CHANNELS_FIRST, CHANNELS_LAST
from pc_engine.graph.prepare import input_tensor
from pc_engine.manifest import NetworkInput

#: What the names of the larger view's tensors begin with, before those that they have in the file.
LARGER = "larger/"


def add_larger_view(model: onnx.ModelProto, pixels: NetworkInput) -> NetworkInput:
    """Let a network take images of twice the size, which it halves, and do to these as they are what it does to those.

    All that depends on the image is there twice then, under its own name of the image halved, and under that behind
    `LARGER` of the whole; what is stored is shared. Nodes with graphs of their own, and what follows them, stay single.

    Parameters
    ----------
    model
        The network, changed in place.
    pixels
        How it takes pixels, nothing left open.

    Returns
    -------
    NetworkInput
        How it takes them now.

    Raises
    ------
    ModelError
        If it is made for images of one size, or has such names already.
    """
    given = input_tensor(model, pixels.tensor)
    dims = given.type.tensor_type.shape.dim
    axes = SPATIAL_AXES[pixels.layout]
    if len(dims) > max(axes) and any(dims[axis].dim_value > 0 for axis in axes):
        raise ModelError(
            f"The network takes images of {pixels.height} x {pixels.width} pixels only, so it cannot see them larger: "
            "omit --two-scales, or export it from its framework with a dynamic height and width."
        )
    if taken := [name for name in names_of(model.graph) if name.startswith(LARGER)]:
        raise ModelError(f"The network has a tensor '{taken[0]}' already: rename it, or omit --two-scales.")
    graph = model.graph
    larger = list(_copies(graph, given.name))
    halved = fresh_name(f"{given.name}/halved", set(names_of(graph)))
    for node in graph.node:
        node.input[:] = [halved if name == given.name else name for name in node.input]
    nodes = [*_halving(given.name, halved, pixels), *graph.node, *larger]
    del graph.node[:]
    graph.node.extend(nodes)
    return replace(pixels, height=2 * pixels.height, width=2 * pixels.width)


def check_larger_view(tensors: Iterable[str]) -> None:
    """Raise UsageError where no tap is of the larger view, which would be seen for nothing."""
    if not any(name.startswith(LARGER) for name in tensors):
        raise UsageError(
            f"No tap is from the larger view: name maps of it, and point at their heat, as in --tap fine={LARGER}NAME "
            "--heat fine beside the others; or omit --two-scales."
        )


def _copies(graph: onnx.GraphProto, image: str) -> Iterator[onnx.NodeProto]:
    """Yield a copy of each node that the image decides, reading the copies of what that decides."""
    stored = set(stored_names(graph))
    depending, copied = {image}, {image: image}
    for node in graph.node:
        if depending.isdisjoint(reads(node)):
            continue
        outputs = [name for name in node.output if name and name not in stored]
        depending.update(outputs)
        if any(subgraphs(node)) or not depending.intersection(node.input) <= copied.keys():
            continue
        copied.update({name: LARGER + name for name in outputs})
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = LARGER + node.name if node.name else ""
        copy.input[:] = [copied.get(name, name) for name in node.input]
        copy.output[:] = [copied.get(name, name) for name in node.output]
        yield copy


def _halving(image: str, halved: str, pixels: NetworkInput) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that make one pixel the mean of four, which is rounded where pixels are whole numbers."""
    steps: list[tuple[str, dict[str, Any]]] = [("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]})]
    if pixels.layout == "NHWC":
        steps = [("Transpose", {"perm": CHANNELS_FIRST}), *steps, ("Transpose", {"perm": CHANNELS_LAST})]
    if pixels.dtype == "uint8":
        to_bytes = [("Round", {}), ("Cast", {"to": onnx.TensorProto.UINT8})]
        steps = [("Cast", {"to": onnx.TensorProto.FLOAT}), *steps, *to_bytes]
    names = [image, *(f"{halved}/{k}" for k in range(1, len(steps))), halved]
    for k, (operator, attributes) in enumerate(steps):
        yield helper.make_node(operator, [names[k]], [names[k + 1]], **attributes)
