"""What a node of a graph says, and arrays with their channels first or last."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from pc_engine.errors import BackendError
from pc_engine.graph.attributes import attributes, constant_tensor
from pc_engine.graph.operators import CHANNELS_FIRST, CHANNELS_LAST
from pc_engine.kernels.array_module import Array, get_array_module


def channels_last(x: Array) -> Array:
    """Return maps (N, C, H, W) as a contiguous array (N, H, W, C)."""
    return get_array_module(x).ascontiguousarray(x.transpose(CHANNELS_LAST))


def channels_first(x: Array) -> Array:
    """Return an array (N, H, W, C) as maps (N, C, H, W), a view."""
    return x.transpose(CHANNELS_FIRST)


def constant_of(node: onnx.NodeProto) -> onnx.TensorProto:
    """Return the tensor of a Constant node."""
    tensor = constant_tensor(node)
    if tensor is None:
        raise unknown(node, "is written in a form that is not known here")
    return tensor


def cast_type(node: onnx.NodeProto) -> np.dtype[Any]:
    """Return what a Cast casts to."""
    return helper.tensor_dtype_to_np_dtype(attributes(node)["to"])


def unknown(node: onnx.NodeProto, why: str) -> BackendError:
    """Return the error for a node that cannot be run, as it ``why``."""
    return BackendError(
        f"cuDNN cannot run this network (the operator {node.op_type} '{node.output[0]}' {why}): use another backend."
    )
