"""Freeing networks of the batch size that their exporter wrote down.

Exporters that are given one image write its 1 into every Reshape. `pc_engine.graph.shapes.free_reshapes` mends those
whose shapes can be inferred. Behind operators whose shapes cannot, such as slices up to a computed place, the network
has to be run to learn them.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import helper

from pc_engine.export.run_shapes import quiet_session
from pc_engine.graph.names import fresh_name, names_of
from pc_engine.graph.prepare import input_tensor
from pc_engine.graph.pruning import keep_part, part_behind
from pc_engine.graph.shapes import free_reshape, repeats_batch
from pc_engine.manifest import NetworkInput


def free_batch(model: onnx.ModelProto, tensors: Collection[str], pixels: NetworkInput) -> None:
    """Let Reshape nodes that repeat a fixed batch size copy it from their input, in place.

    A target shape that is the same for all images, and begins with the batch size as the input's shape does, begins
    with 0 then ("as in the input"): nothing changes at this batch size.

    Parameters
    ----------
    model
        The network as given. One with a dynamic batch size, or that cannot be run, is left as it is.
    tensors
        What is wanted of it.
    pixels
        How it takes pixels, nothing left open.
    """
    dims = input_tensor(model, pixels.tensor).type.tensor_type.shape.dim
    batch = dims[0].dim_value if dims else 0
    reshapes = _fixed_reshapes(model.graph, tensors) if batch > 0 else []
    shapes = _run(model, reshapes, batch, pixels) if reshapes else {}
    taken = set(names_of(model.graph))
    for node in reshapes:
        source, target = (shapes.get(name) for name in node.input)
        if source is not None and target is not None and repeats_batch(node, source, target, batch):
            free_reshape(model.graph, node, target, fresh_name(f"{node.input[1]}/any_batch", taken))


def _fixed_reshapes(graph: onnx.GraphProto, tensors: Collection[str]) -> list[onnx.NodeProto]:
    """Return the Reshape nodes on the way to ``tensors`` whose target does not depend on the network's input."""
    inputs = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    part = part_behind(graph, tensors)
    return [
        node
        for k, node in enumerate(graph.node)
        if k in part.nodes
        and node.op_type == "Reshape"
        and len(node.input) > 1
        and inputs.isdisjoint(part_behind(graph, node.input[1:]).tensors)
    ]


def _run(
    model: onnx.ModelProto, reshapes: list[onnx.NodeProto], batch: int, pixels: NetworkInput
) -> dict[str, np.ndarray]:
    """Return the shape of what each Reshape reads, and its target, by the tensors' names; nothing if it cannot run."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    graph, wanted = probed.graph, {name: name for node in reshapes for name in node.input}
    taken = set(names_of(graph))
    for name in {node.input[0]: None for node in reshapes}:
        wanted[name] = fresh_name(f"{name}/shape", taken)
        graph.node.append(helper.make_node("Shape", [name], [wanted[name]]))
    del graph.output[:]
    for name in wanted.values():
        graph.output.add(name=name)
    keep_part(graph, part_behind(graph, wanted.values()))
    given = input_tensor(probed, pixels.tensor)
    del graph.input[:]
    graph.input.append(given)
    size = (pixels.height, pixels.width)
    image = np.zeros(
        (batch, *size, 3) if pixels.layout == "NHWC" else (batch, 3, *size),
        helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type),
    )
    try:
        session = quiet_session(probed)
        found = session.run(list(wanted.values()), {given.name: image})
    except Exception:  # whatever is wrong with the network is said where it is run for its taps' shapes
        return {}
    return dict(zip(wanted, found, strict=True))
