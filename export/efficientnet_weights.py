"""Reading EfficientNet-Lite weights, as https://github.com/lukemelas/EfficientNet-PyTorch and its kin name them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pc_engine.errors import WeightsError
from pc_engine.export.efficientnet_graph import LITE_ARCHITECTURES, LiteConvolution, LiteSpec
from pc_engine.export.weight_files import WeightFile, as_float32, check_shape, take, take_float32
from pc_engine.export.weight_sources import he_initialised, random_seed, read_weight_file

# Of the batch normalisations.
_EPSILON = 1e-3
# By the last part of a convolution's name its own in files, and its normalisation's.
_IN_FILES = {
    "stem": ("_conv_stem", "_bn0"),
    "head": ("_conv_head", "_bn1"),
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


def read_lite_weights(source: str | Path, architecture: LiteSpec) -> dict[str, np.ndarray]:
    """Read the weights of ``architecture``, as ``build_efficientnet_lite`` takes them.

    Parameters
    ----------
    source
        A weight file, or ``random:SEED``.
    architecture
        What the weights must fit; only the number of classes is free.

    Raises
    ------
    UsageError, MissingPackageError
        As `read_weight_file` does.
    WeightsError
        If the file is damaged, of another network, or a tensor of it is missing, has another shape or holds NaN or
        infinity.
    """
    seed = random_seed(source)
    if seed is not None:
        return random_lite_weights(architecture, seed)
    file = read_weight_file(source)
    _check_architecture(file, architecture)
    tensors: dict[str, np.ndarray] = {}
    for layer in architecture.convolutions():
        tensors[f"{layer.name}.weight"], tensors[f"{layer.name}.bias"] = _folded(file, layer)
    weight, bias = (take(file, f"_fc.{part}") for part in ("weight", "bias"))
    n_classes = max(len(weight), 1) if weight.ndim else 1
    check_shape(file, "_fc.weight", weight, (n_classes, architecture.head.n_out))
    check_shape(file, "_fc.bias", bias, (n_classes,))
    tensors["logits.weight"] = as_float32(file, "_fc.weight", weight)
    tensors["logits.bias"] = as_float32(file, "_fc.bias", bias)
    return tensors


def random_lite_weights(architecture: LiteSpec, seed: int, n_classes: int = 1000) -> dict[str, np.ndarray]:
    """Return `he_initialised` weights, in which there is no normalisation to fold."""
    shapes: dict[str, tuple[int, ...]] = {layer.name: layer.shape for layer in architecture.convolutions()}
    return he_initialised(shapes | {"logits": (n_classes, architecture.head.n_out)}, seed)


def _names(layer: LiteConvolution) -> tuple[str, str]:
    """Return what files call a convolution, and its normalisation."""
    weight, norm = _IN_FILES[layer.name.rpartition("_")[2]]
    block = re.match(r"block_(\d+)_", layer.name)
    prefix = f"_blocks.{block[1]}." if block else ""
    return f"{prefix}{weight}.weight", f"{prefix}{norm}"


def _check_architecture(file: WeightFile, architecture: LiteSpec) -> None:
    """Raise where the file is of another size, or of another network."""
    squeezing = next((name for name in file.tensors if "_se_" in name), None)
    if squeezing is not None:
        raise WeightsError(
            f"{file.path} has the tensor '{squeezing}', of squeeze-and-excitation: it holds an EfficientNet, not "
            f"{architecture.name}."
        )
    if _fits(file.tensors, architecture):
        return
    for other in LITE_ARCHITECTURES.values():
        if _fits(file.tensors, other):
            raise WeightsError(
                f"{file.path} looks like {other.name} weights, but {architecture.name} was asked for: export it as "
                f"{other.name}, or give the weights of {architecture.name}."
            )
    stem, _ = _names(architecture.stem)
    if stem not in file.tensors:
        raise WeightsError(
            f"{file.path} has no tensor '{stem}', so it does not hold {architecture.name} weights as "
            f"EfficientNet-PyTorch names them."
        )
    # That of the first tensor that differs is said where it is read.


def _fits(tensors: Mapping[str, np.ndarray], architecture: LiteSpec) -> bool:
    wanted = {_names(layer)[0]: layer.shape for layer in architecture.convolutions()}
    return {name: tensors[name].shape for name in tensors if "conv" in name} == wanted


def _folded(file: WeightFile, layer: LiteConvolution) -> tuple[np.ndarray, np.ndarray]:
    """Return the weight and bias of a convolution that does what its normalisation does, too."""
    name, norm = _names(layer)
    weight = take_float32(file, name, layer.shape).astype(np.float64)
    gain, shift, mean, variance = (
        take_float32(file, f"{norm}.{part}", (layer.n_out,)).astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    if variance.min() < 0:
        raise WeightsError(f"{file.path}: the tensor '{norm}.running_var' holds values below 0; the file is damaged.")
    gain /= np.sqrt(variance + _EPSILON)
    with np.errstate(over="ignore"):
        folded = (weight * gain[:, None, None, None]).astype(np.float32)
        bias = (shift - mean * gain).astype(np.float32)
    return as_float32(file, name, folded), as_float32(file, f"{norm}.bias", bias)
