"""Networks stored in half precision, as they were before: in float32.

Processors without float16 compute such a network in float32 anyway, with a cast before and behind every layer; bf16 and
int8 are made from float32; and every backend halves a network by itself where that is faster.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from pc_engine.graph_names import stored_tensors, subgraphs

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Attributes that are an element type.
_TYPES = ("dtype", "to")


def widen(model: onnx.ModelProto) -> bool:
    """Make every tensor of float16 or bfloat16 one of float32, in place; return whether there were any.

    What is stored keeps its values; what is computed is no longer rounded. The network has no functions of its own.
    """
    found = False
    for tensor in stored_tensors(model):
        if tensor.data_type in _HALVES:
            found = True
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return _widen_scope(model.graph) or found


def _widen_scope(graph: onnx.GraphProto) -> bool:
    found = False
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _HALVES:
            found = True
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return _widen_nodes(graph.node) | found


def _widen_nodes(nodes: Iterable[onnx.NodeProto]) -> bool:
    found = False
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name in _TYPES and attribute.i in _HALVES:
                found = True
                attribute.i = TensorProto.FLOAT
        for graph in subgraphs(node):
            found |= _widen_scope(graph)
    return found
