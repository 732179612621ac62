"""Quantise a network to 8-bit integers after training: one ONNX file with QuantizeLinear and DequantizeLinear nodes.

Weights become signed with one scale per output channel, as `pc_engine.export.weight_rounding` chooses them; activations
unsigned with one scale per tensor, from the ranges seen on the user's own images. ONNX Runtime's quantiser places the
nodes. Additions and activation functions stay in floating point, where backends have the sums of the convolution before
at hand: that takes a MobileNet's taps a sixth nearer to fp32. OpenVINO runs it as fast; ONNX Runtime, which computes in
integers only what is rounded right after, takes about twice as long for networks with such additions.

Unsigned activations are what processors multiply fastest, and after a ReLU they use all 256 levels. TensorRT takes
signed ones around 0 only: a reader for it has to turn each pair of scale and zero point into the scale of 127 levels
over the same range, which the file holds all there is to know for.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from pc_engine.backbone import IMAGE
from pc_engine.errors import ModelError, first_line
from pc_engine.export.activations import RANGE_IMAGES, choose_ranges, measure_activations
from pc_engine.export.evidence import append_evidence
from pc_engine.export.model_directory import check_network
from pc_engine.export.node_attributes import attribute
from pc_engine.export.run_shapes import known_shapes
from pc_engine.export.weight_rounding import BIAS, WEIGHTED, InputCovariances, round_weights
from pc_engine.files.durable import publish, unpublished
from pc_engine.graph import shapes as graph_shapes
from pc_engine.graph.names import fresh_name, names_of
from pc_engine.graph.prepare import load_graph, open_graph, opset_of
from pc_engine.graph.pruning import prune
from pc_engine.hardware.machine import usable_cores
from pc_engine.manifest import BACKGROUND_SETTING, EVIDENCE, Manifest, NetworkInput, QuantisedNetwork, Tap
from pc_engine.progress import Advance

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
_OLDEST_OPSET = 13  # the first in which DequantizeLinear takes a scale per channel
_OPSET = 17  # what older networks are converted to


def quantise_network(
    network: Path,
    manifest: Manifest,
    images: np.ndarray,
    out: Path,
    *,
    threads: int | None = None,
    advance: Advance = lambda _: None,
) -> QuantisedNetwork:
    """Write the quantised network of a model and return its entry for the manifest.

    Parameters
    ----------
    network, manifest
        The network, float32, and what the manifest says of it.
    images
        uint8 (n, H, W, 3) RGB of the network's input size, like those that it is to run on; some hundred.
    out
        The ONNX file to write: input ``image`` uint8 [N, H, W, 3] RGB, one float32 output a tap, called by its name.
    threads
        Cores to use; None for all.
    advance
        Called with a number of images done; it adds up to `calibration_steps`.

    Raises
    ------
    ModelError
        If the network cannot be read, has nothing to quantise, or is quantised already.
    OSError
        If ``out`` cannot be written.
    """
    threads = threads or usable_cores()
    # The way back to the maps is added to the quantised network: it stays in floating point, and reads its weights.
    without = {name: tap for name, tap in manifest.taps.items() if name != EVIDENCE}
    forward = replace(manifest, taps=without, quantised={}, settings={})
    model = _float_network(network, forward, threads)
    tensors = _activations(model, manifest)
    activations = measure_activations(model, tensors, images, threads, advance)
    covariances = InputCovariances(model)
    ranges = choose_ranges(model, activations, images, threads, advance, covariances.add)
    round_weights(model, activations, covariances)
    del covariances
    quantised = _insert_nodes(model, ranges, manifest)
    del model
    _rescale_dead_channels(quantised.graph)
    _read_unrounded(quantised.graph)
    _free_ends(quantised.graph)
    if EVIDENCE in manifest.taps:
        _add_evidence(quantised, manifest)
    content = quantised.SerializeToString(deterministic=True)
    del quantised
    temporary = unpublished(out)
    try:
        temporary.write_bytes(content)
        check_network(temporary)
        publish(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
    pixels = manifest.input
    return QuantisedNetwork(
        NetworkInput(IMAGE, pixels.height, pixels.width, mean=pixels.mean, std=pixels.std),
        {name: Tap(name, tap.shape) for name, tap in manifest.taps.items()},
    )


def calibration_steps(n: int) -> int:
    """Return how many images `quantise_network` goes through, given ``n``: some twice."""
    return n + min(n, RANGE_IMAGES)


def _float_network(network: Path, manifest: Manifest, threads: int) -> onnx.ModelProto:
    """Return the network from pixels to all taps, with constants folded and batch normalisations in their convolutions.

    Both matter here: a weight that is computed, or scaled afterwards, cannot be rounded where it is used.
    """
    model = open_graph(network, manifest, tuple(manifest.taps))
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv") for node in model.graph.node):
        raise ModelError(f"The network of '{manifest.name}' is quantised already: run it as it is, at fp32.")
    opset = opset_of(model)
    try:
        if opset < _OLDEST_OPSET:
            model = onnx.version_converter.convert_version(model, _OPSET)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        with tempfile.TemporaryDirectory() as scratch:
            folded = Path(scratch) / "folded.onnx"
            options.optimized_model_filepath = str(folded)
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            model = load_graph(folded)
    except ModelError:
        raise
    except Exception as error:  # neither ONNX Runtime's exceptions nor the converter's share a base of their own
        raise _cannot_quantise(manifest, error) from None
    used = {node.domain for node in model.graph.node}
    for k in reversed(range(len(model.opset_import))):
        if model.opset_import[k].domain not in {"", *used}:
            del model.opset_import[k]
    taken = {node.name for node in model.graph.node}
    for node in model.graph.node:
        node.name = node.name or fresh_name(node.op_type, taken)
    _scale_biases(model.graph)
    return model


def _scale_biases(graph: onnx.GraphProto) -> None:
    """Multiply the biases of Gemm nodes by their ``beta``, which the quantiser takes for 1 from then on."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    taken = set(names_of(graph))
    for k, node in reversed(list(enumerate(graph.node))):
        beta = attribute(node, "beta", 1.0)
        if node.op_type != "Gemm" or beta == 1 or len(node.input) <= BIAS or not node.input[BIAS]:
            continue
        name, scaled = node.input[BIAS], fresh_name(f"{node.name}.scaled_bias", taken)
        if name in stored:
            values = numpy_helper.to_array(stored[name]) * np.float32(beta)
            graph.initializer.append(numpy_helper.from_array(values, scaled))
        else:
            share = fresh_name(f"{node.name}.beta", taken)
            graph.initializer.append(numpy_helper.from_array(np.array(beta, np.float32), share))
            graph.node.insert(k, helper.make_node("Mul", [name, share], [scaled], name=scaled))
        node.input[BIAS] = scaled
        node.attribute.remove(next(item for item in node.attribute if item.name == "beta"))


def _activations(model: onnx.ModelProto, manifest: Manifest) -> list[str]:
    """Return the float tensors that the integer operators read and write."""
    stored = {tensor.name for tensor in model.graph.initializer}
    integer_nodes = _integer_nodes(model.graph)
    if not integer_nodes:
        raise ModelError(
            f"The network of '{manifest.name}' has no convolution or linear layer with stored weights, so there is "
            f"nothing to quantise."
        )
    known = graph_shapes.infer(model)
    found = {
        name: None
        for node in integer_nodes
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
        if not wanted.isdisjoint(node.output) or (node.op_type in WEIGHTED and node.input[1] in stored):
            found.append(node)
            wanted.update(node.input)
    return [node for node in found[::-1] if node.op_type not in WEIGHTED or node.input[0] not in stored]


def _insert_nodes(
    model: onnx.ModelProto, ranges: Mapping[str, tuple[float, float]], manifest: Manifest
) -> onnx.ModelProto:
    """Return the network with its weights stored in 8 bits and every tensor with a range rounded to 8 bits."""
    from onnxruntime.quantization import QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorData

    integer_nodes = {node.name for node in _integer_nodes(model.graph)}
    bounds = {
        name: TensorData(lowest=np.array(low, np.float32), highest=np.array(high, np.float32))
        for name, (low, high) in ranges.items()
    }
    try:
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
    except Exception as error:  # the quantiser raises whatever an odd graph leads it to
        raise _cannot_quantise(manifest, error) from None
    quantised: onnx.ModelProto = quantizer.model.model
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
    return node.op_type == "Add" or before is None or before.op_type not in WEIGHTED


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


def _add_evidence(model: onnx.ModelProto, manifest: Manifest) -> None:
    """Add the evidence to the outputs of a quantised network."""
    background = manifest.settings.get(BACKGROUND_SETTING, -1)
    try:
        found = append_evidence(model, int(background), known_shapes(model, manifest.input))
    except ModelError as error:
        raise _cannot_quantise(manifest, error) from None
    shape: list[str | int | None] = ["N", *manifest.taps[EVIDENCE].shape]
    model.graph.output.append(helper.make_tensor_value_info(found.tensor, TensorProto.FLOAT, shape))


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


def _cannot_quantise(manifest: Manifest, error: Exception) -> ModelError:
    return ModelError(
        f"The network of '{manifest.name}' cannot be quantised ({first_line(error)}); run it at fp32 or bf16."
    )
