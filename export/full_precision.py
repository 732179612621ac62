"""Networks stored in half or double precision, in float32.

Processors without float16 compute a halved network in float32 anyway, with a cast before and behind every layer; bf16
and int8 are made from float32; and every backend halves a network by itself where that is faster. No backend has
convolutions in float64.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from pc_engine.graph.names import all_nodes, scopes, stored_tensors

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Attributes that are an element type.
_TYPES = ("dtype", "to")


def make_float32(model: onnx.ModelProto) -> bool:
    """Make every tensor of float16 or bfloat16 one of float32, in place; return whether there were any.

    What is stored keeps its values; what is computed is no longer rounded. Where an input is of float64, so is every
    tensor of that type, rounded: elsewhere it is a size that is computed exactly. The network has no functions of its
    own.
    """
    takes_doubles = any(value.type.tensor_type.elem_type == TensorProto.DOUBLE for value in model.graph.input)
    others = (*_HALVES, TensorProto.DOUBLE) if takes_doubles else _HALVES
    found = False
    for tensor in stored_tensors(model):
        if tensor.data_type in others:
            found = True
            with np.errstate(over="ignore"):  # the lowest float64 stands for minus infinity
                values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for scope in scopes(model):
        assert isinstance(scope, onnx.GraphProto)
        for value in (*scope.input, *scope.output, *scope.value_info):
            if value.type.tensor_type.elem_type in others:
                found = True
                value.type.tensor_type.elem_type = TensorProto.FLOAT
    for attribute in (each for node in all_nodes(model) for each in node.attribute):
        if attribute.name in _TYPES and attribute.i in others:
            found = True
            attribute.i = TensorProto.FLOAT
    return found
