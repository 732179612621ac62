"""Quantise a network to 8 bits after training: one ONNX file with QuantizeLinear and DequantizeLinear nodes.

To integers (`pc_engine.export.int8`), for processors and GPUs, or to floating point (`pc_engine.export.fp8`), for GPUs.
Weights are rounded as `pc_engine.export.weight_rounding` chooses, activations over the ranges seen on the user's own
images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pc_engine.backbone import IMAGE
from pc_engine.errors import ModelError, first_line
from pc_engine.export.activations import RANGE_IMAGES, Activation, choose_ranges, measure_activations
from pc_engine.export.evidence import append_evidence
from pc_engine.export.fp8 import FP8
from pc_engine.export.int8 import INT8
from pc_engine.export.model_directory import check_network
from pc_engine.export.rounding_scheme import RoundingScheme
from pc_engine.export.run_shapes import known_shapes, quiet_session
from pc_engine.export.weight_rounding import BIAS, InputCovariances, round_weights
from pc_engine.files.durable import publish, unpublished
from pc_engine.graph.attributes import attribute, remove_attribute
from pc_engine.graph.names import fresh_name, names_of
from pc_engine.graph.prepare import BATCH, load_graph, open_graph, opset_of
from pc_engine.hardware.machine import usable_cores
from pc_engine.manifest import BACKGROUND_SETTING, EVIDENCE, Manifest, NetworkInput, QuantisedNetwork, Tap
from pc_engine.progress import Advance

_SCHEMES = {"int8": INT8, "fp8": FP8}


def quantise_network(
    network: Path,
    manifest: Manifest,
    images: np.ndarray,
    out: Path,
    *,
    precision: str = "int8",
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
    precision
        ``"int8"`` or ``"fp8"``.
    threads
        Cores to use; None for all.
    advance
        Called with a number of images done; it adds up to `calibration_steps`.

    Raises
    ------
    ModelError
        If the network cannot be read, has nothing to quantise, is quantised already, or holds what is not finite.
    OSError
        If ``out`` cannot be written.
    """
    threads = threads or usable_cores()
    scheme = _SCHEMES[precision]
    # The way back to the maps is added to the quantised network: it stays in floating point, and reads its weights.
    without = {name: tap for name, tap in manifest.taps.items() if name != EVIDENCE}
    forward = replace(manifest, taps=without, quantised={}, settings={})
    model = _float_network(network, forward, scheme, threads)
    layers = scheme.layers(model)
    if not layers:
        raise ModelError(
            f"The network of '{manifest.name}' has no convolution or linear layer whose weights can be stored in "
            f"{precision}, so there is nothing to quantise."
        )
    activations = measure_activations(model, scheme.tensors(model, layers), images, threads, advance)
    _check_finite(manifest, activations)
    covariances = InputCovariances(model, layers)
    ranges = choose_ranges(model, activations, scheme.render, images, threads, advance, covariances.add)
    round_weights(model, layers, scheme.grid, activations, covariances)
    del covariances
    try:
        quantised = scheme.insert(model, layers, ranges)
    except Exception as error:  # ONNX Runtime's quantiser raises whatever an odd graph leads it to
        raise _cannot_quantise(manifest, error) from None
    del model, layers
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
    return quantised_entry(manifest)


def quantised_entry(manifest: Manifest) -> QuantisedNetwork:
    """Return what a manifest says of a network that `quantise_network` writes."""
    pixels = manifest.input
    return QuantisedNetwork(
        NetworkInput(IMAGE, pixels.height, pixels.width, mean=pixels.mean, std=pixels.std),
        {name: Tap(name, tap.shape) for name, tap in manifest.taps.items()},
    )


def calibration_steps(n: int) -> int:
    """Return how many images `quantise_network` goes through, given ``n``: some twice."""
    return n + min(n, RANGE_IMAGES)


def _float_network(network: Path, manifest: Manifest, scheme: RoundingScheme, threads: int) -> onnx.ModelProto:
    """Return the network from pixels to all taps, with constants folded and batch normalisations in their convolutions.

    Both matter here: a weight that is computed, or scaled afterwards, cannot be rounded where it is used.
    """
    model = open_graph(network, manifest, tuple(manifest.taps))
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv") for node in model.graph.node):
        raise ModelError(f"The network of '{manifest.name}' is quantised already: run it as it is, at fp32.")
    opset = opset_of(model)
    try:
        if opset < scheme.opset:
            model = onnx.version_converter.convert_version(model, scheme.target_opset)
        with tempfile.TemporaryDirectory() as scratch:
            folded = Path(scratch) / "folded.onnx"
            quiet_session(model, threads, folded=folded)
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


def _check_finite(manifest: Manifest, activations: Mapping[str, Activation]) -> None:
    for name, held in activations.items():
        # The means as well: the extremes of a batch leave out what is no number.
        if not np.isfinite([held.low, held.high, *held.mean]).all():
            raise ModelError(
                f"The tensor '{name}' of '{manifest.name}' holds values that are not finite for some of the photos, so "
                f"there is no range to quantise it over; run it at fp32."
            )


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
        remove_attribute(node, "beta")


def _add_evidence(model: onnx.ModelProto, manifest: Manifest) -> None:
    """Add the evidence to the outputs of a quantised network."""
    background = manifest.settings.get(BACKGROUND_SETTING, -1)
    try:
        found = append_evidence(model, int(background), known_shapes(model, manifest.input))
    except ModelError as error:
        raise _cannot_quantise(manifest, error) from None
    shape: list[str | int | None] = [BATCH, *manifest.taps[EVIDENCE].shape]
    model.graph.output.append(helper.make_tensor_value_info(found.tensor, TensorProto.FLOAT, shape))


def _cannot_quantise(manifest: Manifest, error: Exception) -> ModelError:
    return ModelError(
        f"The network of '{manifest.name}' cannot be quantised ({first_line(error)}); run it at fp32 or bf16."
    )
