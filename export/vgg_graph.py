"""The VGG networks as ONNX graphs, built from a weight dictionary (Simonyan & Zisserman 2015, arXiv:1409.1556).

The graph takes uint8 [N, H, W, 3] RGB and normalises inside its first convolution. Normalising folds into weights and
bias alone only without padding: a convolution pads zeros *after* normalisation, which are mean pixels before it. So
the pixels get a fourth channel with the constant 255, whose weights carry the mean: padding zeroes that channel
too, and a padded position contributes nothing, exactly as if it had been normalised first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from pc_engine.backbone import IMAGE
from pc_engine.errors import UsageError
from pc_engine.export.evidence import append_evidence
from pc_engine.export.graph_writer import GraphWriter, empty_model
from pc_engine.graph.operators import CHANNELS_FIRST
from pc_engine.graph.prepare import BATCH
from pc_engine.manifest import NetworkInput, Tap

#: torchvision's ImageNet statistics in units of 0..255, RGB.
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)

COUNT_FEATURES = ("pool5", "fc6", "fc7")

_FIRST = "features.0.weight"
_PARTS = ("weight", "bias")
_CONSTANT = 255.0  # of the fourth channel: exact in uint8 scale and in every float format


@dataclass(frozen=True)
class VggLayer:
    """One layer with weights.

    Attributes
    ----------
    name
        torchvision's name: ``features.0`` … for convolutions, ``classifier.0``, ``.3``, ``.6`` for the linear layers.
    block, index
        Position of a convolution, both from 1 as in ``conv5_3``; a linear layer has block 0 and index 1, 2, 3.
    in_shape
        What it reads: (channels,) of a convolution, (channels, height, width) of ``pool5`` for fc6, (values,) after.
    n_out
        Channels or values out; None for the last layer, which takes any number of classes.
    """

    name: str
    block: int
    index: int
    in_shape: tuple[int, ...]
    n_out: int | None

    @property
    def is_conv(self) -> bool:
        """Whether this is a convolution (3x3, padded by 1)."""
        return self.block > 0

    @property
    def n_in(self) -> int:
        """Number of channels or values in."""
        return math.prod(self.in_shape)


@dataclass(frozen=True)
class VggSpec:
    """The shape of a VGG network.

    Attributes
    ----------
    name
        Name of the architecture.
    blocks
        Channels of each convolution, one tuple per block; every block ends in a 2x2 maximum pooling.
    fc_width
        Width of fc6 and fc7.
    trained_size
        Height and width in pixels that fc6 was trained for.
    scale
        Multiples of that which the input's height and width are. The convolutions see as much more detail; their last
        maps are averaged over ``scale`` cells for fc6, as torchvision's VGG does it (``AdaptiveAvgPool2d``).
    """

    name: str
    blocks: tuple[tuple[int, ...], ...]
    fc_width: int = 4096
    trained_size: int = 224
    scale: tuple[int, int] = (1, 1)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return self.trained_size * self.scale[0], self.trained_size * self.scale[1]

    @property
    def is_scaled(self) -> bool:
        """Whether the input is larger than what fc6 was trained for."""
        return self.scale != (1, 1)

    @property
    def pooled_shape(self) -> tuple[int, int, int]:
        """Shape of ``pool5``: channels, height, width."""
        side = self.trained_size // 2 ** len(self.blocks)
        return self.blocks[-1][-1], side, side

    def at_size(self, height: int, width: int) -> VggSpec:
        """Return the same network for inputs of another size in pixels.

        Raises
        ------
        UsageError
            If a side is no multiple of what it was trained for.
        """
        for side in (height, width):
            if side < 1 or side % self.trained_size:
                examples = ", ".join(str(self.trained_size * times) for times in (1, 2, 3))
                raise UsageError(
                    f"{self.name} takes multiples of {self.trained_size} pixels, but {side} is not one: choose one of "
                    f"{examples}, ..."
                )
        return replace(self, scale=(height // self.trained_size, width // self.trained_size))

    def layers(self) -> Iterator[VggLayer]:
        """Yield the layers with weights, from input to logits."""
        position, channels = 0, 3
        for block, widths in enumerate(self.blocks, start=1):
            for index, width in enumerate(widths, start=1):
                yield VggLayer(f"features.{position}", block, index, (channels,), width)
                position, channels = position + 2, width  # a ReLU follows
            position += 1  # the pooling
        yield VggLayer("classifier.0", 0, 1, self.pooled_shape, self.fc_width)
        yield VggLayer("classifier.3", 0, 2, (self.fc_width,), self.fc_width)
        yield VggLayer("classifier.6", 0, 3, (self.fc_width,), None)


def _vgg(depth: int, convs: tuple[int, ...]) -> VggSpec:
    widths = (64, 128, 256, 512, 512)
    return VggSpec(f"vgg{depth}", tuple((width,) * n for width, n in zip(widths, convs, strict=True)))


#: Configurations A, B, D and E of the VGG paper, by name.
ARCHITECTURES: Mapping[str, VggSpec] = {
    spec.name: spec
    for spec in (
        _vgg(11, (1, 1, 2, 2, 2)),
        _vgg(13, (2, 2, 2, 2, 2)),
        _vgg(16, (2, 2, 3, 3, 3)),
        _vgg(19, (2, 2, 4, 4, 4)),
    )
}


def build_vgg(
    spec: VggSpec,
    weights: Mapping[str, np.ndarray],
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> onnx.ModelProto:
    """Return the network as ONNX, with the taps as outputs.

    Parameters
    ----------
    spec
        The architecture.
    weights
        ``<layer>.weight`` and ``<layer>.bias`` by torchvision's names, float32: convolutions [out, in, 3, 3], linear
        layers [out, in], fc6 reading ``pool5`` flattened in the order channel, row, column. See ``read_weights``.
    mean, std
        What the weights expect to be subtracted from and divided into pixels of 0..255, RGB; folded into the
        first convolution.

    Returns
    -------
    onnx.ModelProto
        Input ``image`` uint8 [N, H, W, 3] RGB of the specification's size; outputs ``conv_prev``, ``conv_last``,
        ``pool5``, ``fc6``, ``fc7`` (all after ReLU), ``logits`` and ``evidence``, float32.
    """
    model = empty_model(spec.name)
    graph = GraphWriter(model.graph)
    tensor = _add_features(graph, spec, {**weights, _FIRST: _fold(weights[_FIRST], mean, std)}, _add_pixels(graph))
    _add_classifier(graph, weights, tensor)
    declare = helper.make_tensor_value_info
    model.graph.input.append(declare(IMAGE, TensorProto.UINT8, [BATCH, *spec.size, 3]))
    append_evidence(model)
    for name, tap in vgg_taps(spec, weights["classifier.6.weight"].shape[0]).items():
        model.graph.output.append(declare(name, TensorProto.FLOAT, [BATCH, *tap.shape]))
    return model


def _add_pixels(graph: GraphWriter) -> str:
    """Add what leads from the image to float32 [N, 4, H, W], the fourth channel constant; return that tensor."""
    tensor = graph.node("Cast", [IMAGE], "pixels", to=TensorProto.FLOAT)
    tensor = graph.node("Transpose", [tensor], "pixels_chw", perm=CHANNELS_FIRST)
    pads = graph.constant("constant_channel.pads", np.array([0, 0, 0, 0, 0, 1, 0, 0], dtype=np.int64))
    value = graph.constant("constant_channel.value", np.array(_CONSTANT, dtype=np.float32))
    return graph.node("Pad", [tensor, pads, value], "pixels_and_constant", mode="constant")


def _add_features(graph: GraphWriter, spec: VggSpec, weights: Mapping[str, np.ndarray], tensor: str) -> str:
    """Add the blocks of convolutions; return ``pool5``."""
    for layer in spec.layers():
        if not layer.is_conv:
            break
        operands = [graph.constant(f"{layer.name}.{part}", weights[f"{layer.name}.{part}"]) for part in _PARTS]
        tensor = graph.node("Conv", [tensor, *operands], f"{layer.name}.sum", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        is_last_block, n_convs = layer.block == len(spec.blocks), len(spec.blocks[layer.block - 1])
        tap = {n_convs - 1: "conv_prev", n_convs: "conv_last"}.get(layer.index) if is_last_block else None
        tensor = graph.node("Relu", [tensor], tap or f"conv{layer.block}_{layer.index}")
        if layer.index == n_convs:
            pooled = "pool5" if is_last_block and not spec.is_scaled else f"block{layer.block}_pool"
            tensor = graph.node("MaxPool", [tensor], pooled, kernel_shape=[2, 2], strides=[2, 2])
    if spec.is_scaled:
        tensor = graph.node("AveragePool", [tensor], "pool5", kernel_shape=[*spec.scale], strides=[*spec.scale])
    return tensor


def _add_classifier(graph: GraphWriter, weights: Mapping[str, np.ndarray], tensor: str) -> None:
    tensor = graph.node("Flatten", [tensor], "pool5_flat", axis=1)
    for name, tap in (("classifier.0", "fc6"), ("classifier.3", "fc7"), ("classifier.6", "logits")):
        operands = [graph.constant(f"{name}.{part}", weights[f"{name}.{part}"]) for part in _PARTS]
        tensor = graph.node("Gemm", [tensor, *operands], tap if tap == "logits" else f"{name}.sum", transB=1)
        if tap != "logits":
            tensor = graph.node("Relu", [tensor], tap)


def vgg_taps(spec: VggSpec, n_classes: int) -> dict[str, Tap]:
    """Return the taps of a network with ``n_classes`` logits, from input to output."""
    channels, height, width = spec.pooled_shape
    grid = 2 * height * spec.scale[0], 2 * width * spec.scale[1]
    taps = {
        "conv_prev": (spec.blocks[-1][-2], *grid),
        "conv_last": (channels, *grid),
        "pool5": (channels, height, width),
        "fc6": (spec.fc_width,),
        "fc7": (spec.fc_width,),
        "logits": (n_classes,),
        "evidence": (channels,),
    }
    return {name: Tap(name, shape) for name, shape in taps.items()}


def vgg_input(spec: VggSpec, mean: tuple[float, float, float], std: tuple[float, float, float]) -> NetworkInput:
    """Return the manifest's record of the input; ``mean`` and ``std`` are folded into the graph already."""
    return NetworkInput(IMAGE, *spec.size, mean=mean, std=std)


def _fold(kernel: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Return a kernel [out, 4, 3, 3] for pixels of 0..255 and the constant channel, from one for normalised pixels."""
    scaled = kernel.astype(np.float64) / np.array(std)[:, None, None]
    constant = -(scaled * np.array(mean)[:, None, None]).sum(axis=1, keepdims=True) / _CONSTANT
    return np.concatenate([scaled, constant], axis=1).astype(np.float32)
