"""The namings and memory layouts in which VGG weights are published."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from pc_engine.export.vgg_graph import VggLayer


class Layout(ABC):
    """Where a file keeps the weight of a layer, and how to bring it to torchvision's layout."""

    #: Axis of the last layer's weight that counts the classes.
    class_axis: ClassVar[int]
    # What the names of a layer's tensors end in.
    _weight: ClassVar[str]
    _bias: ClassVar[str]
    # What the name of a convolution's weight looks like.
    _conv: ClassVar[str]

    def weight_name(self, layer: VggLayer) -> str:
        """Return the name of the layer's weight in the file."""
        return self._layer_name(layer) + self._weight

    def bias_name(self, layer: VggLayer) -> str:
        """Return the name of the layer's bias in the file."""
        return self._layer_name(layer) + self._bias

    def is_conv(self, name: str) -> bool:
        """Tell whether ``name`` is that of a convolution's weight."""
        return re.fullmatch(self._conv, name) is not None

    @abstractmethod
    def weight_shape(self, layer: VggLayer, n_classes: int) -> tuple[int, ...]:
        """Return the shape of the layer's weight in the file."""

    @abstractmethod
    def to_torchvision(self, weight: np.ndarray, layer: VggLayer) -> np.ndarray:
        """Return the weight as [out, in, 3, 3] or [out, in]."""

    @abstractmethod
    def _layer_name(self, layer: VggLayer) -> str:
        """Return what both names begin with."""


class _Torchvision(Layout):
    """``features.N`` and ``classifier.N``: convolutions [out, in, 3, 3], linear layers [out, in]."""

    class_axis = 0
    _weight, _bias, _conv = ".weight", ".bias", r"features\.\d+\.weight"

    def _layer_name(self, layer: VggLayer) -> str:
        return layer.name

    def weight_shape(self, layer: VggLayer, n_classes: int) -> tuple[int, ...]:
        n_out = layer.n_out or n_classes
        return (n_out, layer.n_in, 3, 3) if layer.is_conv else (n_out, layer.n_in)

    def to_torchvision(self, weight: np.ndarray, layer: VggLayer) -> np.ndarray:
        return weight if layer.is_conv else weight.reshape(weight.shape[0], -1)


class _Timm(_Torchvision):
    """As torchvision, but fc6 is a convolution of ``pool5``'s size and fc7 one of 1x1; other names."""

    _NAMES: ClassVar = {1: "pre_logits.fc1", 2: "pre_logits.fc2", 3: "head.fc"}

    def _layer_name(self, layer: VggLayer) -> str:
        return layer.name if layer.is_conv else self._NAMES[layer.index]

    def weight_shape(self, layer: VggLayer, n_classes: int) -> tuple[int, ...]:
        shape = super().weight_shape(layer, n_classes)
        if layer.is_conv or layer.n_out is None:
            return shape
        return (layer.n_out, *layer.in_shape) if layer.index == 1 else (*shape, 1, 1)


class _Keras(Layout):
    """``blockB_convI``, ``fc1``, ``fc2``, ``predictions``: kernels [3, 3, in, out] and [in, out].

    fc1 reads ``pool5`` flattened in the order row, column, channel.
    """

    class_axis = 1
    _weight, _bias, _conv = "/kernel", "/bias", r"block\d+_conv\d+/kernel"
    _NAMES: ClassVar = {1: "fc1", 2: "fc2", 3: "predictions"}

    def _layer_name(self, layer: VggLayer) -> str:
        return f"block{layer.block}_conv{layer.index}" if layer.is_conv else self._NAMES[layer.index]

    def weight_shape(self, layer: VggLayer, n_classes: int) -> tuple[int, ...]:
        n_out = layer.n_out or n_classes
        return (3, 3, layer.n_in, n_out) if layer.is_conv else (layer.n_in, n_out)

    def to_torchvision(self, weight: np.ndarray, layer: VggLayer) -> np.ndarray:
        if layer.is_conv:
            return weight.transpose(3, 2, 0, 1)
        if layer.index == 1:
            channels, height, width = layer.in_shape
            return weight.reshape(height, width, channels, -1).transpose(3, 2, 0, 1).reshape(weight.shape[1], -1)
        return weight.T


class _NumberedKeras(_Keras):
    """As Keras, but layers are called by their kind and counted: ``conv2d``, ``conv2d_1``, ... and ``dense``, ..."""

    _conv = r"conv2d(_\d+)?/kernel"

    def _layer_name(self, layer: VggLayer) -> str:
        if not layer.is_conv:
            return _counted("dense", layer.index - 1)
        # torchvision counts a ReLU behind each convolution and the pooling of each block, too.
        return _counted("conv2d", (int(layer.name.removeprefix("features.")) - layer.block + 1) // 2)


def _counted(kind: str, number: int) -> str:
    return f"{kind}_{number}" if number else kind


TORCHVISION: Layout = _Torchvision()
TIMM: Layout = _Timm()
KERAS: Layout = _Keras()
NUMBERED_KERAS: Layout = _NumberedKeras()
