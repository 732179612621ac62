"""Round a network's weights to 8 bits such that what its layers give changes little.

Inputs of a convolution that lie side by side are much alike, so what rounding one weight adds, the weights that are
rounded after it can take away: each error is handed on to them by the inputs' covariance (GPTQ, Frantar et al. 2023,
arXiv:2210.17323, equation 2 and algorithm 1). Of what rounding to the nearest costs a MobileNet's taps that leaves two
thirds, at no cost when the network runs. The mean of what remains is taken back in the bias (Nagel et al. 2019,
arXiv:1906.04721, section 4.2), which is why covariances decide here and not GPTQ's second moments.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from threadpoolctl import ThreadpoolController

from pc_engine.export.activations import Activation
from pc_engine.graph.attributes import attribute
from pc_engine.graph.names import fresh_name, names_of, reads

#: The position of a bias among a node's inputs.
BIAS = 2
#: Below, numbers have so few digits that the largest weight may be many more steps, and GPUs take them for 0.
SMALLEST_STEP = np.finfo(np.float32).tiny

_MATRIX_RANK = 2
_IMAGE_RANK = 4  # of the weights of a convolution of images: outputs, inputs, rows, columns
# Inputs whose errors are handed on to each other. More take longer and, of so few images, hardly know better.
_LARGEST_BLOCK = 512
_POSITIONS = 128  # looked at in one image
_CHUNK = 1 << 18  # weights worked on at once: what a core's cache holds
# Added to each variance, in shares of their mean: with few images some directions seem never to vary.
_DAMPING = 0.05
_SAME = 1e-6


@dataclass(frozen=True)
class WeightGrid:
    """The values that a rounded weight may have: those that ``round`` gives, from ``-highest`` to ``highest``.

    They are multiples of a step of its output's own, ``highest`` of which make that output's largest weight.
    """

    highest: int
    round: Callable[[np.ndarray], np.ndarray]

    def steps(self, weights: np.ndarray, axis: int) -> np.ndarray:
        """Return the step of each output along ``axis``, other axes 1; 1 for outputs whose weights are as good as 0."""
        others = tuple(k for k in range(weights.ndim) if k != axis)
        largest = np.maximum(weights.max(others, keepdims=True), -weights.min(others, keepdims=True))
        step = largest / np.float32(self.highest)
        return np.asarray(np.where(step > SMALLEST_STEP, step, np.float32(1)))

    def nearest(self, weights: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Return the values nearest to ``weights``, given their steps in a shape that broadcasts."""
        rounded = self.round(weights / step)
        rounded *= step
        return rounded


class InputCovariances:
    """How the inputs of a network's convolutions vary together, gathered image by image.

    Parameters
    ----------
    model
        The network, float32, with one input of uint8 images.
    layers
        Those of its nodes to know it of; only convolutions are looked at.
    """

    def __init__(self, model: onnx.ModelProto, layers: Sequence[onnx.NodeProto]) -> None:
        stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._inputs: dict[str, _ConvolutionInputs] = {}
        for node in layers:
            weights = stored.get(node.input[1]) if node.op_type == "Conv" else None
            if weights is not None and len(weights.dims) == _IMAGE_RANK:
                self._inputs.setdefault(weights.name, _ConvolutionInputs.of(node, weights))
        self._sums = {name: _Sums.of(inputs.blocks, inputs.block) for name, inputs in self._inputs.items()}
        self._generator = np.random.default_rng(0)
        self._libraries = ThreadpoolController()

    def add(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Take in what the network's tensors, by name, hold for an image: float32 (1, C, H, W), or more maps."""
        for name, inputs in self._inputs.items():
            values = tensors.get(inputs.tensor)
            if values is not None:
                with self._one_thread():
                    for maps in values:
                        self._sums[name].add(inputs.sample(maps, self._generator))

    def round(self, name: str, weights: np.ndarray, grid: WeightGrid, step: np.ndarray) -> np.ndarray | None:
        """Return the weights (O, C, h, w) on the grid, given the steps (O,) of their outputs.

        None if there is nothing known of ``name``, or what is known varies too little to be told from rounding.

        The largest weights of each output, which make its step, are kept.
        """
        if name not in self._inputs or not self._sums[name].n:
            return None
        inputs = self._inputs[name]
        blocks = inputs.split(weights)
        steps = np.broadcast_to(inputs.split_outputs(step), blocks.shape)
        covariance = self._sums[name].covariance()
        rounded = np.empty_like(blocks)
        size = max(_CHUNK // blocks[0].size, 1)
        with self._one_thread():
            for start in range(0, len(blocks), size):
                part = slice(start, start + size)
                try:
                    rounded[part] = _round_handing_on(blocks[part], grid, steps[part], covariance[part])
                except np.linalg.LinAlgError:
                    return None
        return inputs.join(rounded, weights.shape)

    def _one_thread(self) -> AbstractContextManager[Any]:
        """Keep linear algebra to one thread: matrices are small, and threads that wait for busy cores cost more."""
        limited: AbstractContextManager[Any] = self._libraries.limit(limits=1, user_api="blas")
        return limited


def round_weights(
    model: onnx.ModelProto,
    layers: Sequence[onnx.NodeProto],
    grid: WeightGrid,
    activations: Mapping[str, Activation],
    covariances: InputCovariances,
) -> None:
    """Round the weights to a grid, and take the mean shift of the outputs back in the biases.

    A quantiser finds the same levels again, as the largest weight of each output keeps its value.

    Parameters
    ----------
    model
        The network, float32, changed in place.
    layers
        The nodes whose weights to round.
    grid
        What to round them to.
    activations
        What the tensors held that its layers read; those that read others are left as they are, and so are other nodes
        that read the same weights.
    covariances
        Of the same network. Linear layers, which read one vector an image, and convolutions of which nothing was
        gathered have their weights rounded to the nearest.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    taken = set(names_of(model.graph))
    read = Counter(name for node in model.graph.node for name in reads(node))
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in layers:
        if node.input[1] in stored and node.input[0] in activations:
            readers.setdefault(node.input[1], []).append(node)
    for name, nodes in readers.items():
        weights = numpy_helper.to_array(stored[name])
        if weights.dtype != np.float32 or weights.ndim < _MATRIX_RANK:
            continue
        step = grid.steps(weights, output_axis(nodes[0]))
        rounded = covariances.round(name, weights, grid, step.ravel()) if nodes[0].op_type == "Conv" else None
        if rounded is None:
            rounded = grid.nearest(weights, step)
        change = rounded - weights
        if read[name] == len(nodes):
            stored[name].CopyFrom(numpy_helper.from_array(rounded, name))
        else:
            own = fresh_name(f"{name}/own", taken)
            model.graph.initializer.append(numpy_helper.from_array(rounded, own))
            for node in nodes:
                node.input[1] = own
        for node in nodes:
            shift = _mean_shift(node, change, activations[node.input[0]].mean)
            bias = _bias(node, stored)
            if shift is not None and bias is not None:
                corrected = fresh_name(f"{node.name}.bias", taken)
                model.graph.initializer.append(numpy_helper.from_array((bias - shift).astype(np.float32), corrected))
                node.input[:] = [*node.input[:2], corrected]


@dataclass(frozen=True)
class _ConvolutionInputs:
    """What the weights of a convolution are multiplied with, in ``blocks`` of ``block`` values.

    A block is a group of a grouped convolution, or an equal share of its channels where it would be too large.
    """

    tensor: str
    groups: int
    blocks: int
    block: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]

    @classmethod
    def of(cls, node: onnx.NodeProto, weights: TensorProto) -> _ConvolutionInputs:
        _, channels, height, width = weights.dims
        groups = attribute(node, "group", 1)
        shares = next(
            k
            for k in range(1, channels + 1)
            if channels % k == 0 and (channels // k * height * width <= _LARGEST_BLOCK or k == channels)
        )
        return cls(
            tensor=node.input[0],
            groups=groups,
            blocks=groups * shares,
            block=channels // shares * height * width,
            kernel=(height, width),
            strides=tuple(attribute(node, "strides", (1, 1))),
            dilations=tuple(attribute(node, "dilations", (1, 1))),
            # Where an older network leaves the padding to its reader, the inside alone tells enough.
            pads=tuple(attribute(node, "pads", (0, 0, 0, 0))),
        )

    def sample(self, maps: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return what is read of maps (C, H, W) at some of the output's positions, (blocks, positions, block)."""
        top, left, bottom, right = self.pads
        maps = np.pad(maps, ((0, 0), (top, bottom), (left, right)))
        rows, columns = (
            max((size - (kernel - 1) * dilation - 1) // stride + 1, 0)
            for size, kernel, dilation, stride in zip(
                maps.shape[1:], self.kernel, self.dilations, self.strides, strict=True
            )
        )
        positions = generator.choice(rows * columns, min(rows * columns, _POSITIONS), replace=False)
        y, x = positions // columns * self.strides[0], positions % columns * self.strides[1]
        offsets = [
            (i * self.dilations[0], j * self.dilations[1]) for i in range(self.kernel[0]) for j in range(self.kernel[1])
        ]
        read = np.stack([maps[:, y + down, x + along] for down, along in offsets], axis=1)
        return read.reshape(self.blocks, self.block, -1).transpose(0, 2, 1)

    def split(self, weights: np.ndarray) -> np.ndarray:
        """Return weights (O, C / groups, h, w) as (blocks, block, O / groups)."""
        outputs = len(weights) // self.groups
        parts = weights.reshape(self.groups, outputs, self.blocks // self.groups, self.block).transpose(0, 2, 3, 1)
        return np.ascontiguousarray(parts).reshape(self.blocks, self.block, outputs)

    def split_outputs(self, values: np.ndarray) -> np.ndarray:
        """Return one value an output (O,) as (blocks, 1, O / groups)."""
        return values.reshape(self.groups, 1, -1).repeat(self.blocks // self.groups, axis=0)

    def join(self, blocks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Return what `split` made of weights of ``shape``, as they were."""
        parts = blocks.reshape(self.groups, -1, self.block, blocks.shape[-1]).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(parts).reshape(shape)


@dataclass
class _Sums:
    """Sums over ``n`` samples: of values (blocks, block), and of the products of any two (blocks, block, block)."""

    n: int
    values: np.ndarray
    products: np.ndarray

    @classmethod
    def of(cls, blocks: int, block: int) -> _Sums:
        return cls(0, np.zeros((blocks, block)), np.zeros((blocks, block, block)))

    def add(self, samples: np.ndarray) -> None:
        self.n += samples.shape[1]
        self.values += samples.sum(axis=1, dtype=np.float64)
        self.products += samples.transpose(0, 2, 1) @ samples

    def covariance(self) -> np.ndarray:
        mean = self.values / self.n
        return np.asarray(self.products / self.n - mean[:, :, None] * mean[:, None, :])


def _round_handing_on(weights: np.ndarray, grid: WeightGrid, step: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Round weights (blocks, inputs, outputs) one input after the other, handing on the errors to those to come.

    ``step`` has the shape of the weights; ``covariance`` is (blocks, inputs, inputs).
    """
    n = weights.shape[1]
    variance = np.einsum("bii->b", covariance) / n
    damped = covariance + np.eye(n) * np.where(variance > 0, _DAMPING * variance, 1)[:, None, None]
    # Row i: by how much the weights after i make good for an error in i, times the diagonal.
    factor = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    handed = (factor / np.einsum("bii->bi", factor)[:, :, None]).astype(np.float32)
    largest = np.abs(weights) >= grid.highest * step * (1 - _SAME)
    current, rounded = weights.copy(), np.empty_like(weights)
    for k in range(n):
        level = grid.round(np.clip(current[:, k] / step[:, k], -grid.highest, grid.highest))
        rounded[:, k] = np.where(largest[:, k], weights[:, k], level * step[:, k])
        error = current[:, k] - rounded[:, k]
        current[:, k + 1 :] -= handed[:, k, k + 1 :, None] * error[:, None, :]
    return rounded


def output_axis(node: onnx.NodeProto) -> int:
    """Return the axis of a layer's weights that its outputs lie along."""
    return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1


def _mean_shift(node: onnx.NodeProto, change: np.ndarray, mean: np.ndarray) -> np.ndarray | None:
    """Return what ``change`` of the weights adds to each output in the mean (O,); None if no bias could take it back.

    Border positions of a convolution, which see padding, are counted as if they did not.
    """
    if node.op_type == "Conv":
        groups = attribute(node, "group", 1)
        by_channel = change.reshape(groups, -1, *change.shape[1:2], math.prod(change.shape[2:])).sum(axis=-1)
        return np.asarray(np.einsum("goc,gc->go", by_channel, mean.reshape(groups, -1)).ravel())
    bias_share = attribute(node, "beta", 1.0)
    if node.op_type == "Gemm" and bias_share != 0 and not attribute(node, "transA", 0):
        shift = change @ mean if attribute(node, "transB", 0) else mean @ change
        return np.asarray(shift * attribute(node, "alpha", 1.0) / bias_share)
    return None


def _bias(node: onnx.NodeProto, stored: Mapping[str, TensorProto]) -> np.ndarray | None:
    """Return the bias of a node, 0 if it has none; None if it is computed."""
    name = node.input[BIAS] if len(node.input) > BIAS else ""
    if not name:
        return np.zeros((), np.float32)
    return numpy_helper.to_array(stored[name]) if name in stored else None
