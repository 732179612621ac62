"""What a node of a graph says, and arrays with their channels first or last."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from pc_engine.graph.attributes import attributes
from pc_engine.graph.operators import CHANNELS_FIRST, CHANNELS_LAST
from pc_engine.kernels.array_module import Array, get_array_module


def channels_last(x: Array) -> Array:
    """Return maps (N, C, H, W) as a contiguous array (N, H, W, C)."""
    return get_array_module(x).ascontiguousarray(x.transpose(CHANNELS_LAST))


def channels_first(x: Array) -> Array:
    """Return an array (N, H, W, C) as maps (N, C, H, W), a view."""
    return x.transpose(CHANNELS_FIRST)


def cast_type(node: onnx.NodeProto) -> np.dtype[Any]:
    """Return what a Cast casts to."""
    return helper.tensor_dtype_to_np_dtype(attributes(node)["to"])
