"""A network in 8-bit integers: QuantizeLinear and DequantizeLinear nodes, placed by ONNX Runtime's quantiser.

Weights are signed with one scale per output channel, activations unsigned with one scale per tensor. Additions and
activation functions stay in floating point, where backends have the sums of the convolution before at hand: that takes
a MobileNet's taps a sixth nearer to fp32. OpenVINO runs it as fast; ONNX Runtime, which computes in integers only what
is rounded right after, takes about twice as long for networks with such additions.

Unsigned activations are what processors multiply fastest, and after a ReLU they use all 256 levels. TensorRT takes
signed ones around 0 only: a reader for it has to turn each pair of scale and zero point into the scale of 127 levels
over the same range, which the file holds all there is to know for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from pc_engine.export.rounding_scheme import RoundingScheme
from pc_engine.export.weight_rounding import WeightGrid
from pc_engine.graph import shapes as graph_shapes
from pc_engine.graph.attributes import attribute
from pc_engine.graph.operators import LINEAR
from pc_engine.graph.pruning import prune

#: Operators that run on integers. Those that only move values are among them, lest they tear a chain of the others.
OPERATORS = (
    "Add",
    "AveragePool",
    "Clip",
    "Concat",
    "Conv",
    "Flatten",
    "Gemm",
    "GlobalAveragePool",
    "MatMul",
    "MaxPool",
    "Relu",
    "Reshape",
)

_IN_FLOAT = ("Add", "Clip", "Relu")  # between the accumulators of a layer and their rounding
_MOVING = ("Clip", "Flatten", "MaxPool", "Relu", "Reshape")

_LEVELS = 255  # of an activation above the lowest
_NO_STEP = 1e-30  # at most: that of a tensor that is always 0


def render(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return ``values`` rounded to the 256 levels between ``low`` and ``high``, of which 0 is one."""
    step = (high - low) / _LEVELS
    step = step if step > _NO_STEP else 1.0
    zero = round(-low / step)
    return np.asarray((np.clip(np.rint(values / step) + zero, 0, _LEVELS) - zero) * step)


def _layers(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    stored = {tensor.name for tensor in model.graph.initializer}
    nodes = _integer_nodes(model.graph)
    return [node for node in nodes if node.op_type in LINEAR and node.input[1] in stored]


def _activations(model: onnx.ModelProto, _: Sequence[onnx.NodeProto]) -> list[str]:
    """Return the float tensors that the integer operators read and write."""
    stored = {tensor.name for tensor in model.graph.initializer}
    known = graph_shapes.infer(model)
    found = {
        name: None
        for node in _integer_nodes(model.graph)
        if node.op_type in OPERATORS
        for name in (*node.input, *node.output)
        if name not in stored
        and (value := known.get(name)) is not None
        and value.type == TensorProto.FLOAT
        and len(value.shape or ()) > 1
    }
    return list(found)


def _integer_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the layers with stored weights and all nodes on the way to one: what lies behind stays in float.

    That is what makes taps of what the layers gave, such as co-occurrence, of which integers would not save anything.
    So do products whose weights come first: their scales would be of what is summed over, and OpenVINO gives 0.
    """
    stored = {tensor.name for tensor in graph.initializer}
    found, wanted = [], set[str]()
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output) or (node.op_type in LINEAR and node.input[1] in stored):
            found.append(node)
            wanted.update(node.input)
    return [node for node in found[::-1] if node.op_type not in LINEAR or node.input[0] not in stored]


def _insert_nodes(
    model: onnx.ModelProto, _: Sequence[onnx.NodeProto], ranges: Mapping[str, tuple[float, float]]
) -> onnx.ModelProto:
    """Return the network with its weights stored in 8 bits and every tensor with a range rounded to 8 bits."""
    from onnxruntime.quantization import QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorData

    integer_nodes = {node.name for node in _integer_nodes(model.graph)}
    bounds = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    with _quiet_quantiser():
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=bounds,
            nodes_to_quantize=[],
            nodes_to_exclude=[node.name for node in model.graph.node if node.name not in integer_nodes],
            op_types_to_quantize=list(OPERATORS),
            # A bias in whole steps of its channel's scale loses what a channel with small weights adds.
            extra_options={"QuantizeBias": False, "QDQKeepRemovableActivations": True},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    quantised: onnx.ModelProto = quantizer.model.model
    _rescale_dead_channels(quantised.graph)
    _read_unrounded(quantised.graph)
    _free_ends(quantised.graph)
    return quantised


@contextmanager
def _quiet_quantiser() -> Iterator[None]:
    """Drop what the quantiser says to the root logger: advice on the graph, which is not the user's to take."""

    def is_of_others(record: logging.LogRecord) -> bool:
        return "onnxruntime" not in record.pathname

    root = logging.getLogger()
    root.addFilter(is_of_others)
    try:
        yield
    finally:
        root.removeFilter(is_of_others)


def _rescale_dead_channels(graph: onnx.GraphProto) -> None:
    """Give channels whose weights are all 0 the smallest scale of the others.

    The quantiser gives them 1, and ONNX Runtime, which adds biases in steps of that scale, then rounds theirs away.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or not {node.input[0], node.input[1]} <= stored.keys():
            continue
        weights, scale = (numpy_helper.to_array(stored[name]) for name in node.input[:2])
        if scale.ndim == 0:
            continue
        axis = attribute(node, "axis", 1)
        alive = weights.any(axis=tuple(k for k in range(weights.ndim) if k != axis))
        if alive.any() and not alive.all():
            mended = np.where(alive, scale, scale[alive].min()).astype(scale.dtype)
            stored[node.input[1]].CopyFrom(numpy_helper.from_array(mended, node.input[1]))


def _read_unrounded(graph: onnx.GraphProto) -> None:
    """Let additions and activation functions read what was rounded as it was before.

    A convolution has its sums in floating point at hand when it gives them to an activation function. Those of a
    residual network would be rounded once a block, each time on top of the errors of all blocks before.

    Operators that know no integers read such sums so, too: a small variance that is rounded to 0 would be divided by.
    """
    producers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for k, name in enumerate(node.input):
            dequantise = producers.get(name)
            quantise = producers.get(dequantise.input[0]) if dequantise is not None and dequantise.input else None
            if quantise is None or quantise.op_type != "QuantizeLinear":
                continue
            exact = quantise.input[0]
            if node.op_type in _IN_FLOAT or (node.op_type not in OPERATORS and _is_in_float(exact, producers)):
                node.input[k] = exact
    prune(graph)


def _is_in_float(tensor: str, producers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a tensor is computed in floating point, and not within a layer that gives it rounded."""
    node = producers.get(tensor)
    if node is None or node.op_type not in _IN_FLOAT:
        return False
    before = producers.get(node.input[0])
    return node.op_type == "Add" or before is None or before.op_type not in LINEAR


def _free_ends(graph: onnx.GraphProto) -> None:
    """Leave out the rounding of tensors that no integer operator reads, such as the logits."""
    removed = True
    while removed:
        producers = {name: node for node in graph.node for name in node.output}
        consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                consumers.setdefault(name, []).append(node)
        outputs = {value.name for value in graph.output}
        removed = any(
            _free(graph, node, producers, consumers, outputs)
            for node in list(graph.node)
            if node.op_type == "DequantizeLinear" and _leads_nowhere(node.output[0], consumers)
        )
    prune(graph)


def _leads_nowhere(name: str, consumers: Mapping[str, list[onnx.NodeProto]]) -> bool:
    """Whether nothing but outputs of the network, and nodes that move values to them, reads a tensor."""
    return all(
        node.op_type in _MOVING and _leads_nowhere(node.output[0], consumers) for node in consumers.get(name, ())
    )


def _free(
    graph: onnx.GraphProto,
    dequantise: onnx.NodeProto,
    producers: Mapping[str, onnx.NodeProto],
    consumers: Mapping[str, list[onnx.NodeProto]],
    outputs: set[str],
) -> bool:
    """Join what a pair of Q and DQ rounds with what it gives; False, and nothing done, where that cannot be."""
    quantise = producers.get(dequantise.input[0])
    if quantise is None or quantise.op_type != "QuantizeLinear" or len(consumers[quantise.output[0]]) > 1:
        return False
    given, exact = dequantise.output[0], quantise.input[0]
    source = producers.get(exact)
    if source is None or exact in outputs:
        return False
    # What else reads the exact value, as an activation function does, reads it by its new name.
    for tensors in (source.output, *(node.input for node in consumers[exact])):
        tensors[:] = [given if name == exact else name for name in tensors]
    graph.node.remove(quantise)
    graph.node.remove(dequantise)
    return True


#: See the top of this module. DequantizeLinear takes a scale per channel since opset 13.
INT8 = RoundingScheme(
    opset=13,
    target_opset=17,
    # -128 is left out, so that 0 is the middle.
    grid=WeightGrid(highest=127, round=np.rint),
    render=render,
    layers=_layers,
    tensors=_activations,
    insert=_insert_nodes,
)
