"""EfficientNet-Lite as an ONNX graph: a small network, for processors without much to spare.

Tan & Le 2019 (arXiv:1905.11946), as https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
changed it: no squeeze-and-excitation, ReLU6 in the place of swish, and as many channels at both ends in all sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from pc_engine.backbone import IMAGE
from pc_engine.export.graph_writer import GraphWriter, empty_model
from pc_engine.graph.prepare import BATCH

#: By how much the network makes maps smaller than the picture.
STRIDE = 32

_STEM, _HEAD = 32, 1280


@dataclass(frozen=True)
class LiteConvolution:
    """A convolution, the batch normalisation behind it, and ReLU6 behind that where it ``is_clipped``.

    Attributes
    ----------
    name
        Of its output in the graph, such as ``block_3_expand``.
    n_in, n_out, kernel, stride
        Channels, and pixels.
    is_depthwise
        Whether each channel has a kernel of its own.
    """

    name: str
    n_in: int
    n_out: int
    kernel: int = 1
    stride: int = 1
    is_depthwise: bool = False
    is_clipped: bool = True

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of its weight."""
        return self.n_out, 1 if self.is_depthwise else self.n_in, self.kernel, self.kernel


@dataclass(frozen=True)
class Block:
    """An inverted residual: channels are expanded, seen through one kernel each, and projected.

    Attributes
    ----------
    number
        From 0.
    convolutions
        In their order.
    is_residual
        Whether what comes in is added to what goes out.
    """

    number: int
    convolutions: tuple[LiteConvolution, ...]
    is_residual: bool


@dataclass(frozen=True)
class _Stage:
    """Some blocks in a row, as the smallest network has them; only the first of them has the ``stride``."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    n_blocks: int


_STAGES = (
    _Stage(3, 1, 1, 16, 1),
    _Stage(3, 2, 6, 24, 2),
    _Stage(5, 2, 6, 40, 2),
    _Stage(3, 2, 6, 80, 3),
    _Stage(5, 1, 6, 112, 3),
    _Stage(5, 2, 6, 192, 4),
    _Stage(3, 1, 6, 320, 1),
)


@dataclass(frozen=True)
class LiteSpec:
    """The shape of an EfficientNet-Lite.

    Attributes
    ----------
    name
        Name of the architecture.
    width, depth
        Factors of the channels and of the blocks in a stage.
    size
        Height and width in pixels: the multiple of `STRIDE` that is nearest to what the network was trained for, or
        the next one. There every layer halves an even side, so that cells of all maps lie evenly on the picture.
    """

    name: str
    width: float
    depth: float
    size: int

    @property
    def stem(self) -> LiteConvolution:
        """What sees the picture."""
        return LiteConvolution("stem", 3, _STEM, 3, 2)

    @property
    def head(self) -> LiteConvolution:
        """What makes the maps whose means are classified."""
        return LiteConvolution("head", self._scaled(_STAGES[-1].channels), _HEAD)

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks between the two."""
        number, n_in = 0, _STEM
        for place, stage in enumerate(_STAGES):
            at_an_end = place in (0, len(_STAGES) - 1)
            n_out = self._scaled(stage.channels)
            for position in range(stage.n_blocks if at_an_end else math.ceil(stage.n_blocks * self.depth)):
                yield _block(number, stage, n_in, n_out, 1 if position else stage.stride)
                number, n_in = number + 1, n_out

    def convolutions(self) -> Iterator[LiteConvolution]:
        """Yield all convolutions, from the picture on."""
        yield self.stem
        for block in self.blocks():
            yield from block.convolutions
        yield self.head

    @property
    def first_coarse(self) -> int:
        """Number of the first block whose maps are as small as the last; what it expands is twice as fine."""
        return max(block.number for block in self.blocks() if any(each.stride > 1 for each in block.convolutions))

    @property
    def last(self) -> int:
        """Number of the last block."""
        return sum(1 for _ in self.blocks()) - 1

    def _scaled(self, channels: int) -> int:
        """Return so many channels times the width, as a multiple of 8 that is not less by a tenth."""
        wanted = channels * self.width
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * wanted else rounded


def _block(number: int, stage: _Stage, n_in: int, n_out: int, stride: int) -> Block:
    name, n_between = f"block_{number}", n_in * stage.expansion
    expand = LiteConvolution(f"{name}_expand", n_in, n_between)
    depthwise = LiteConvolution(f"{name}_depthwise", n_between, n_between, stage.kernel, stride, is_depthwise=True)
    project = LiteConvolution(f"{name}_project", n_between, n_out, is_clipped=False)
    convolutions = (depthwise, project) if stage.expansion == 1 else (expand, depthwise, project)
    return Block(number, convolutions, is_residual=stride == 1 and n_in == n_out)


#: Those whose weights are published as packages, by name. They were trained at 224, 240 and 260 pixels.
LITE_ARCHITECTURES: Mapping[str, LiteSpec] = {
    spec.name: spec
    for spec in (
        LiteSpec("efficientnet_lite0", 1.0, 1.0, 224),
        LiteSpec("efficientnet_lite1", 1.0, 1.1, 256),
        LiteSpec("efficientnet_lite2", 1.1, 1.2, 256),
    )
}


def build_efficientnet_lite(spec: LiteSpec, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """Return the classifier as ONNX.

    Parameters
    ----------
    spec
        The architecture.
    weights
        ``NAME.weight`` and ``NAME.bias`` of each of its convolutions, float32, batch normalisations folded in, and
        ``logits.weight`` [classes, 1280] and ``logits.bias``; see `pc_engine.export.efficientnet_weights`.

    Returns
    -------
    onnx.ModelProto
        Input ``image`` float32 [N, 3, H, W], normalised, of any multiples of `STRIDE`; output ``logits``. Tensors have
        the names of their convolutions; that of a block's sum is ``block_N_add``.
    """
    model = empty_model(spec.name)
    graph = GraphWriter(model.graph)
    for name, limit in (("relu6.least", 0.0), ("relu6.most", 6.0)):
        graph.constant(name, np.array(limit, np.float32))
    tensor = _convolved(graph, spec.stem, weights, IMAGE)
    for block in spec.blocks():
        before = tensor
        for convolution in block.convolutions:
            tensor = _convolved(graph, convolution, weights, tensor)
        if block.is_residual:
            tensor = graph.node("Add", [tensor, before], f"block_{block.number}_add")
    tensor = _convolved(graph, spec.head, weights, tensor)
    tensor = graph.node("GlobalAveragePool", [tensor], "means")
    tensor = graph.node("Flatten", [tensor], "pooled", axis=1)
    operands = [graph.constant(f"logits.{part}", weights[f"logits.{part}"]) for part in ("weight", "bias")]
    graph.node("Gemm", [tensor, *operands], "logits", transB=1)
    declare = helper.make_tensor_value_info
    model.graph.input.append(declare(IMAGE, TensorProto.FLOAT, [BATCH, 3, "H", "W"]))
    model.graph.output.append(declare("logits", TensorProto.FLOAT, [BATCH, len(weights["logits.bias"])]))
    return model


def _convolved(graph: GraphWriter, layer: LiteConvolution, weights: Mapping[str, np.ndarray], tensor: str) -> str:
    operands = [graph.constant(f"{layer.name}.{part}", weights[f"{layer.name}.{part}"]) for part in ("weight", "bias")]
    # Of an even side TensorFlow's "same" padding has the odd one of the zeros behind it.
    before = (layer.kernel - layer.stride) // 2
    behind = layer.kernel - layer.stride - before
    tensor = graph.node(
        "Conv",
        [tensor, *operands],
        f"{layer.name}.sum" if layer.is_clipped else layer.name,
        kernel_shape=[layer.kernel] * 2,
        strides=[layer.stride] * 2,
        pads=[before, before, behind, behind],
        group=layer.n_in if layer.is_depthwise else 1,
    )
    return graph.node("Clip", [tensor, "relu6.least", "relu6.most"], layer.name) if layer.is_clipped else tensor
