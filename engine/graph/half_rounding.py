"""What a GPU computes in half precision, on a CPU: values of 16 bits, sums of 32."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, numpy_helper

from pc_engine.graph import shapes as graph_shapes
from pc_engine.graph.attributes import attribute
from pc_engine.graph.half import MOVING, cast_to_half
from pc_engine.graph.names import fresh_name, names_of

# To what a tensor in half precision may be cast without a change of its values here.
_REAL = (TensorProto.FLOAT, TensorProto.FLOAT16)
# Operators whose results are some of the values that they read: rounded as those are. Pad also writes a number of its
# own, an attribute in old graphs, where nothing rounds it.
_PICKING = {"Max", "MaxPool", "Min", "Relu", *MOVING} - {"Pad"}
# Levels are multiplied as they are, and their scale is applied to the sums.
_EXACT = {*_PICKING, "DequantizeLinear"}


def round_like_half(model: onnx.ModelProto) -> None:
    """Round a prepared graph's values as `pc_engine.graph.half.cast_to_half` makes a GPU do, in place.

    The graph stays float32: what that would store in float16 is rounded to it, each operation's result once. ONNX
    Runtime has few kernels for float16 on a CPU, casts what the others read, and leaves out the roundings between them.

    Raises
    ------
    BackendError
        If a weight is too large for float16.
    """
    cast_to_half(model, around_levels=True)
    graph = model.graph
    types = {name: value.type for name, value in graph_shapes.infer(model).items()}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    halves = {name for name, type_ in types.items() if type_ == TensorProto.FLOAT16}
    taken = set(names_of(graph))
    for tensor in graph.initializer:
        if tensor.name in halves:
            _widen(tensor)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        rounded = [] if node.op_type in _EXACT else [name for name in node.output if name in halves]
        if node.op_type == "Cast" and node.input[0] in halves and attribute(node, "to", None) in _REAL:
            node = helper.make_node("Identity", node.input, node.output)
        elif node.op_type == "Cast" and rounded:
            nodes += _rounding(node.input[0], node.output[0], taken)
            continue
        for item in node.attribute:
            if item.type == onnx.AttributeProto.TENSOR and item.t.data_type == TensorProto.FLOAT16:
                _widen(item.t)
        nodes.append(node)
        for k, name in enumerate(node.output):
            if name in rounded:
                node.output[k] = fresh_name(f"{name}/exact", taken)
                nodes += _rounding(node.output[k], name, taken)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _rounding(exact: str, rounded: str, taken: set[str]) -> list[onnx.NodeProto]:
    half = fresh_name(f"{rounded}/16", taken)
    return [
        helper.make_node("Cast", [exact], [half], to=TensorProto.FLOAT16),
        helper.make_node("Cast", [half], [rounded], to=TensorProto.FLOAT),
    ]


def _widen(tensor: onnx.TensorProto) -> None:
    """Store a float16 tensor's values as float32."""
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype("float32"), tensor.name))
