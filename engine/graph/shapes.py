"""Types and shapes of a graph's tensors, found without touching its weights, and what depends on a fixed batch size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from pc_engine.graph.attributes import attribute, constant_tensor, remove_attribute

#: Axes of maps in a graph: images, maps, rows, columns.
MAP_RANK = 4

# Tensors up to this many elements may hold a shape that inference needs to read; larger ones are weights.
_LARGEST_SHAPE_OPERAND = 1024


@dataclass(frozen=True)
class Value:
    """What is known of one tensor.

    ``type`` is an ``onnx.TensorProto`` element type; ``shape`` has a number, a symbol or None per axis. Both are None
    where unknown.
    """

    type: int | None
    shape: tuple[int | str | None, ...] | None


UNKNOWN = Value(None, None)


def infer(model: onnx.ModelProto) -> dict[str, Value]:
    """Return what ONNX shape inference finds, by tensor name, and what the network itself notes of the others.

    Inference runs on a copy in which the weights are inputs of the same type and shape: it would otherwise serialise
    them, half a gigabyte for VGG. Tensors behind operators that ONNX does not know are absent.
    """
    skeleton = onnx.ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    graph = skeleton.graph
    graph.name = model.graph.name or "graph"
    graph.input.extend(model.graph.input)
    for node in model.graph.node:
        weight = _constant_weight(node)
        if weight is None:
            graph.node.append(node)
        else:
            graph.input.append(helper.make_tensor_value_info(node.output[0], weight.data_type, weight.dims))
    listed = {value.name for value in graph.input}
    for tensor in model.graph.initializer:
        if np.prod(tensor.dims) <= _LARGEST_SHAPE_OPERAND:
            graph.initializer.append(tensor)
        elif tensor.name not in listed:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        inferred = shape_inference.infer_shapes(skeleton, data_prop=True)
        found = {value.name: _value(value) for value in (*inferred.graph.value_info, *inferred.graph.input)}
    except (shape_inference.InferenceError, RuntimeError):  # an operator or opset that this onnx does not know
        found = {}
    noted = {value.name: _value(value) for value in model.graph.value_info}
    return found | {name: value for name, value in noted.items() if not is_whole(found.get(name, UNKNOWN))}


def is_whole(value: Value) -> bool:
    """Whether a tensor's type is known, and its shape but for the first axis, which may be that of a batch."""
    return value.type is not None and value.shape is not None and all(isinstance(size, int) for size in value.shape[1:])


def free_reshapes(model: onnx.ModelProto, batch: int) -> None:
    """Let Reshape nodes that repeat the fixed ``batch`` size copy it from their input instead, in place.

    A leading ``batch`` in the target shape becomes 0 ("as in the input") where the input's first axis has that very
    size, so nothing changes at this batch size, whatever the axis means.
    """
    known = infer(model)
    shapes = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT64}
    for node in model.graph.node:
        if node.op_type != "Constant":
            continue
        tensor = constant_tensor(node)
        if tensor is not None and tensor.data_type == onnx.TensorProto.INT64:
            shapes[node.output[0]] = tensor
        elif (values := attribute(node, "value_ints", None)) is not None:
            shapes[node.output[0]] = numpy_helper.from_array(np.array(values, np.int64))
    for k, node in enumerate(model.graph.node):
        if node.op_type != "Reshape" or len(node.input) < 2 or node.input[1] not in shapes:
            continue
        source = known.get(node.input[0], UNKNOWN).shape or ()
        target = numpy_helper.to_array(shapes[node.input[1]])
        if repeats_batch(node, source, target, batch):
            free_reshape(model.graph, node, target, f"{node.input[1]}/any_batch_{k}")


def repeats_batch(
    node: onnx.NodeProto, source: Sequence[int | str | None] | np.ndarray, target: np.ndarray, batch: int
) -> bool:
    """Whether the shape that a Reshape reads, and its target, begin with ``batch``, so that `free_reshape` can free it.

    Not where a 0 in the target means an empty axis.
    """
    if not len(source) or not target.ndim or not len(target) or not source[0] == target[0] == batch:
        return False
    return not (attribute(node, "allowzero", 0) and 0 in target)


def free_reshape(graph: onnx.GraphProto, node: onnx.NodeProto, target: np.ndarray, name: str) -> None:
    """Let a Reshape to the shape ``target`` copy the first size from its input; that is stored as ``name``."""
    remove_attribute(node, "allowzero")  # it is there without a need, and would take the next line by its word
    graph.initializer.append(numpy_helper.from_array(np.array([0, *target[1:]], np.int64), name))
    node.input[1] = name


def _constant_weight(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the tensor of a Constant node that is too large to be a shape, else None."""
    if node.op_type != "Constant":
        return None
    tensor = constant_tensor(node)
    return tensor if tensor is not None and np.prod(tensor.dims) > _LARGEST_SHAPE_OPERAND else None


def _value(value: onnx.ValueInfoProto) -> Value:
    tensor_type = value.type.tensor_type
    shape = None
    if tensor_type.HasField("shape"):
        shape = tuple(
            dim.dim_value if dim.HasField("dim_value") else (dim.dim_param or None) for dim in tensor_type.shape.dim
        )
    return Value(tensor_type.elem_type or None, shape)
