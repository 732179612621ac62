"""Which tensors are maps, and where these have their channels: first, as in ONNX, or last, as in TensorFlow.

A network that was written with its channels last holds both kinds of tensors, and their shapes do not tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper

from pc_engine.graph.names import fresh_name, names_of
from pc_engine.graph.operators import CHANNELS_FIRST, CHANNELS_LAST, transposes
from pc_engine.say import Say

_CONVOLUTIONS = ("Conv", "ConvTranspose")

# Operators that need, and give, maps with their channels first.
_OF_MAPS = (
    *("AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "DepthToSpace", "GlobalAveragePool"),
    *("GlobalMaxPool", "InstanceNormalization", "LRN", "MaxPool", "SpaceToDepth"),
)
#: Operators that put values elsewhere.
REARRANGING = (
    *("Einsum", "Flatten", "Gather", "GatherND", "Gemm", "If"),
    *("Loop", "Reshape", "Scan", "Squeeze", "Unsqueeze"),
)
_REARRANGING = (*REARRANGING, "ReduceMax", "ReduceMean", "ReduceSum")


def with_channels_first(model: onnx.ModelProto, tensors: Mapping[str, str], report: Say) -> dict[str, str]:
    """Return the tensors of taps, in the place of each that has its channels last one that has them first.

    That is one of the network where it has such a one, else it is appended, in place.

    Parameters
    ----------
    model
        The network.
    tensors
        Tap name to tensor.
    report
        Called with a sentence for each tap that is another tensor now.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    turned = {node.input[0]: node.output[0] for node in model.graph.node if transposes(node, CHANNELS_FIRST)}
    found = dict(tensors)
    for tap, tensor in tensors.items():
        if not has_channels_last(tensor, producers):
            continue
        producer = producers[tensor]
        if producer.op_type == "Transpose":
            found[tap] = producer.input[0]
        elif tensor in turned:
            found[tap] = turned[tensor]
        else:
            found[tap] = turned[tensor] = fresh_name(f"{tensor}/channels_first", set(names_of(model.graph)))
            model.graph.node.append(helper.make_node("Transpose", [tensor], [found[tap]], perm=CHANNELS_FIRST))
        report(f"The tap '{tap}' has its channels last ('{tensor}'): it is read with its channels first.")
    return found


def has_channels_last(tensor: str, producers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether what a tensor was computed from, value by value, are maps turned to have their channels last."""
    waiting, seen = [tensor], set[str]()
    while waiting:
        name = waiting.pop()
        node = producers.get(name)
        if name in seen or node is None:
            continue
        seen.add(name)
        if node.op_type == "Transpose":
            return transposes(node, CHANNELS_LAST)
        if node.op_type in _OF_MAPS or node.op_type in _REARRANGING:
            return False
        waiting += reversed(node.input)
    return False


def map_tensors(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the tensors that are maps by what gave them or reads them; attention's matrices look like some.

    Maps are what a convolution gives, what is computed from maps cell by cell, be it with their channels last, and what
    an operator reads that takes nothing but maps; the image itself is none.
    """
    maps, behind = set[str](), set[str]()  # the second: what depends on a convolution
    for node in graph.node:
        if node.op_type in _OF_MAPS and node.input[0] in behind:
            maps.add(node.input[0])
        if node.op_type in _CONVOLUTIONS or not behind.isdisjoint(node.input):
            behind.update(filter(None, node.output))
    for node in graph.node:
        turns = transposes(node, CHANNELS_FIRST) or transposes(node, CHANNELS_LAST)
        by_cell = turns or node.op_type not in (*_REARRANGING, "MatMul", "Transpose")
        if node.op_type in _CONVOLUTIONS or (by_cell and not maps.isdisjoint(node.input)):
            maps.update(filter(None, node.output))
    return frozenset(maps)
