"""Convolutions as they are run on arrays whose images lie with their channels last."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pc_engine.kernels.array_module import Array


@dataclass(frozen=True)
class Convolution:
    """A convolution of a batch, with what follows it.

    Attributes
    ----------
    images
        (N, height, width, channels) of what it reads.
    filters
        Number of them.
    window, stride, dilation
        Rows and columns.
    pads
        Zeros above, left, below, right.
    groups
        Groups of channels and filters that are convolved by themselves.
    relu
        Whether negative sums become 0.
    ceiling
        What greater sums become: 6 of a ReLU6.
    """

    images: tuple[int, int, int, int]
    filters: int
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1
    relu: bool = False
    ceiling: float = math.inf

    @property
    def weights(self) -> tuple[int, int, int, int]:
        """(filters, rows, columns, channels of a group): the shape of its weights."""
        return (self.filters, *self.window, self.images[3] // self.groups)

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel has one filter of its own, as `pc_engine.kernels.depthwise_convolution` applies it."""
        return self.images[3] == self.filters == self.groups > 1 and self.dilation == (1, 1)

    @property
    def bounds(self) -> tuple[float, float]:
        """What its results are limited to."""
        return (0.0, self.ceiling) if self.relu else (-math.inf, math.inf)

    @property
    def result(self) -> tuple[int, int, int, int]:
        """(N, height, width, filters) of what it gives."""
        (n, height, width, _), (top, left, bottom, right) = self.images, self.pads
        rows, columns = (
            (size - step * (extent - 1) - 1) // stride + 1
            for size, extent, stride, step in zip(
                (height + top + bottom, width + left + right), self.window, self.stride, self.dilation, strict=True
            )
        )
        return n, rows, columns, self.filters


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution with its weights, of the shape that it says, and its bias (filters,).

    ``constant`` tells a layer of float16 that reads the images themselves, uint8 (N, H, W, 3): it is the fourth value
    of all their pixels, and the convolution one of four channels.
    """

    convolution: Convolution
    weights: np.ndarray
    bias: np.ndarray
    constant: float | None = None


#: Runs the layer of a name on an array (N, H, W, C) and returns one of its weights' type.
Convolve = Callable[[str, Array], Array]
