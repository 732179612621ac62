"""Networks that are built from nothing, node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

_OPSET = 17
_IR_VERSION = 8


def empty_model(name: str) -> onnx.ModelProto:
    """Return a model without nodes."""
    model = onnx.ModelProto(ir_version=_IR_VERSION, producer_name="pc-engine")
    model.opset_import.append(helper.make_opsetid("", _OPSET))
    model.graph.name = name
    return model


class GraphWriter:
    """Adds nodes and initializers to a graph; both calls return the name of the tensor they define.

    It writes into the model's own graph, because every message handed over to another is copied, weights and all.
    """

    def __init__(self, proto: onnx.GraphProto) -> None:
        self._proto = proto

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node of one output, called like it."""
        self._proto.node.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name: str, values: np.ndarray) -> str:
        """Add a constant."""
        data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        little_endian = values.astype(values.dtype.newbyteorder("<"), copy=False)
        self._proto.initializer.add(name=name, data_type=data_type, dims=values.shape, raw_data=little_endian.tobytes())
        return name
