"""Reading VGG weights from whatever file they come in, checked and brought to torchvision's names and layout.

safetensors       torchvision's names, or timm's (fc6 and fc7 as convolutions)
.pth, .pt         a PyTorch state_dict (read without torch, and without running what is in it)
.h5, .hdf5        keras.applications, of Keras 1 to 3 (needs h5py)
.keras            the same with the model around it, of Keras 3
random:SEED       He-initialised, for measuring speed
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pc_engine.errors import WeightsError
from pc_engine.export.vgg_graph import ARCHITECTURES, IMAGENET_MEAN, IMAGENET_STD, VggSpec
from pc_engine.export.weight_files import WeightFile, as_float32, check_shape, take, take_float32
from pc_engine.export.weight_layouts import KERAS, NUMBERED_KERAS, TIMM, TORCHVISION, Layout
from pc_engine.export.weight_sources import he_initialised, random_seed, read_weight_file

#: Keras' VGG takes BGR pixels minus these means, undivided ("caffe" preprocessing); here in RGB order.
CAFFE_MEAN = (123.68, 116.779, 103.939)


@dataclass(frozen=True)
class VggWeights:
    """Weights of a VGG network, as ``build_vgg`` takes them.

    Attributes
    ----------
    tensors
        float32 arrays by torchvision's names; the first convolution reads RGB.
    mean, std
        The normalisation that they were trained with, in units of 0..255, RGB.
    """

    tensors: dict[str, np.ndarray]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


def read_weights(source: str | Path, architecture: VggSpec) -> VggWeights:
    """Read the weights of ``architecture``.

    Parameters
    ----------
    source
        A weight file, its kind told by its suffix, or ``random:SEED``. 16-bit floats are widened to float32.
    architecture
        What the weights must fit; only the number of classes is free.

    Raises
    ------
    UsageError
        If ``source`` names no seed, a file that is absent, or one of no known kind.
    WeightsError
        If the file is damaged, no weight file, of another architecture, or a tensor of it is missing, has
        another shape or holds NaN or infinity.
    MissingPackageError
        If h5py is needed and absent.
    """
    seed = random_seed(source)
    if seed is not None:
        return VggWeights(random_weights(architecture, seed))
    file = read_weight_file(source)
    layout = _layout(file)
    _check_architecture(file, layout, architecture)
    tensors = _convert(file, layout, architecture)
    if file.is_keras:
        first = "features.0.weight"
        tensors[first] = np.ascontiguousarray(tensors[first][:, ::-1])  # BGR to RGB
        return VggWeights(tensors, CAFFE_MEAN, (1.0, 1.0, 1.0))
    return VggWeights(tensors)


def random_weights(architecture: VggSpec, seed: int, n_classes: int = 1000) -> dict[str, np.ndarray]:
    """Return `he_initialised` weights."""
    shapes = {layer.name: TORCHVISION.weight_shape(layer, n_classes) for layer in architecture.layers()}
    return he_initialised(shapes, seed)


def _layout(file: WeightFile) -> Layout:
    """Return the naming that most of the file's tensors follow."""
    if file.is_keras:
        named = not file.is_numbered or any(KERAS.is_conv(name) for name in file.tensors)
        return KERAS if named else NUMBERED_KERAS
    return TIMM if any(name.startswith(("pre_logits.", "head.")) for name in file.tensors) else TORCHVISION


def _check_architecture(file: WeightFile, layout: Layout, architecture: VggSpec) -> None:
    """Raise where the names of the convolutions tell that the file is of something else."""
    found = {name for name in file.tensors if layout.is_conv(name)}
    if found == _conv_names(layout, architecture):
        return
    if any(name.endswith("running_mean") for name in file.tensors):
        raise WeightsError(
            f"{file.path} holds a batch-normalised network ('{_first(file.tensors, 'running_mean')}'), expected "
            f"{architecture.name} without batch normalisation."
        )
    for other in ARCHITECTURES.values():
        if other.blocks != architecture.blocks and found == _conv_names(layout, other):
            raise WeightsError(
                f"{file.path} looks like {other.name.upper()} weights, but {architecture.name} was asked for: "
                f"export it as {other.name}, or give the weights of {architecture.name}."
            )
    if not found:
        raise WeightsError(
            f"{file.path} has no tensor '{_first_conv(layout, architecture)}', so it does not hold {architecture.name} "
            f"weights; it holds {_some(file.tensors)}."
        )
    extra = sorted(found - _conv_names(layout, architecture))
    if extra:
        raise WeightsError(
            f"{file.path} has the tensor '{extra[0]}', which {architecture.name} does not have: "
            f"it is of another network."
        )


def _conv_names(layout: Layout, spec: VggSpec) -> set[str]:
    return {layout.weight_name(layer) for layer in spec.layers() if layer.is_conv}


def _first_conv(layout: Layout, spec: VggSpec) -> str:
    return layout.weight_name(next(spec.layers()))


def _first(names: Mapping[str, np.ndarray], suffix: str) -> str:
    return next(name for name in names if name.endswith(suffix))


def _some(names: Mapping[str, np.ndarray]) -> str:
    shown = ", ".join(f"'{name}'" for name in list(names)[:3])
    return f"{len(names)} others, e.g. {shown}" if names else "none"


def _convert(file: WeightFile, layout: Layout, architecture: VggSpec) -> dict[str, np.ndarray]:
    """Take the tensors out of ``file`` one by one, checked, in torchvision's layout."""
    n_classes = 0
    tensors: dict[str, np.ndarray] = {}
    for layer in architecture.layers():
        name = layout.weight_name(layer)
        weight = take(file, name)
        if layer.n_out is None and weight.ndim == len(layout.weight_shape(layer, 1)):
            n_classes = weight.shape[layout.class_axis]
        check_shape(file, name, weight, layout.weight_shape(layer, n_classes))
        tensors[f"{layer.name}.weight"] = as_float32(file, name, layout.to_torchvision(weight, layer))
        bias_name = layout.bias_name(layer)
        tensors[f"{layer.name}.bias"] = take_float32(file, bias_name, (layer.n_out or n_classes,))
    return tensors
