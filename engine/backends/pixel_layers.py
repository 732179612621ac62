"""The first layer of a network on a GPU, which reads pixels: in two ways, of which a machine takes the faster.

Either one kernel of this project does it all (`pc_engine.kernels.pixel_convolution`), or one gathers the pixels under
the columns of a window as channels and cuDNN's convolution of a single column follows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from pc_engine.backends.array_layers import Layer
from pc_engine.backends.cudnn_plans import Kernel, Plan, convolution_key
from pc_engine.kernels import pixel_columns, pixel_convolution
from pc_engine.kernels.array_module import Array
from pc_engine.kernels.pixel_columns import PIXEL
from pc_engine.kernels.pixel_convolution import has_pixel_kernel

#: Stands among the plans of a network for this project's kernel.
OWN = Plan(-1, "pixel_convolution")

# Channels that gathered pixels are filled up to a multiple of.
_ALIGNED = 8
_RUNS = 5


def with_columns_gathered(layer: Layer) -> Layer:
    """Return a layer as cuDNN computes it: one of pixels with the columns of its windows as channels."""
    if layer.constant is None:
        return layer
    convolution = layer.convolution
    (count, height, _, _), (rows, columns) = convolution.images, convolution.window
    room = -(-PIXEL * columns // _ALIGNED) * _ALIGNED
    weights = np.zeros((convolution.filters, rows, 1, room), layer.weights.dtype)
    weights[:, :, 0, : PIXEL * columns] = layer.weights.reshape(convolution.filters, rows, PIXEL * columns)
    top, _, bottom, _ = convolution.pads
    gathered = replace(
        convolution,
        images=(count, height, convolution.result[2], room),
        window=(rows, 1),
        stride=(convolution.stride[0], 1),
        pads=(top, 0, bottom, 0),
    )
    return replace(layer, convolution=gathered, weights=weights, constant=None)


def convolve_pixels(layer: Layer, images: Array, weights: Array, bias: Array) -> Array:
    """Run a layer by this project's kernel on uint8 images (N, H, W, 3); float16 (N, H', W', filters)."""
    convolution = layer.convolution
    return pixel_convolution(
        images,
        weights,
        bias,
        layer.constant or 0.0,
        stride=convolution.stride,
        pads=convolution.pads,
        bounds=convolution.bounds,
    )


def convolve_columns(layer: Layer, kernel: Kernel) -> Callable[[Array, Array, Array], Array]:
    """Return what runs a layer on uint8 images (N, H, W, 3) by cuDNN's kernel of it `with_columns_gathered`."""
    convolution = layer.convolution
    _, left, _, right = convolution.pads
    gather = functools.partial(
        pixel_columns,
        constant=layer.constant or 0.0,
        window=convolution.window[1],
        stride=convolution.stride[1],
        pads=(left, right),
        channels=with_columns_gathered(layer).convolution.images[3],
    )
    return lambda images, weights, bias: kernel(gather(images), weights, bias)


def choose_way(
    cudnn: ModuleType,
    handle: Any,
    layer: Layer,
    plan: Plan,
    time: Callable[..., float],
    known: MutableMapping[str, Plan],
) -> Plan:
    """Return the faster of `OWN` and cuDNN's ``plan`` for a layer that reads pixels.

    ``time(run, times)`` and ``known`` are those of `pc_engine.backends.cudnn_plans.choose_plans`.

    Raises
    ------
    BackendError
        If cuDNN reports an error.
    """
    convolution = layer.convolution
    if not has_pixel_kernel(convolution.window, convolution.stride, convolution.filters):
        return plan
    key = f"pixels {convolution_key(convolution)}"
    if key not in known:
        known[key] = _timed(cudnn, handle, layer, plan, time)
    return OWN if known[key] == OWN else plan


def _timed(cudnn: ModuleType, handle: Any, layer: Layer, plan: Plan, time: Callable[..., float]) -> Plan:
    import cupy

    count, height, width, _ = layer.convolution.images
    rng = np.random.default_rng(0)
    images = cupy.resize(cupy.asarray(rng.integers(0, 256, 1 << 20, np.uint8)), (count, height, width, PIXEL - 1))
    columns, bias = with_columns_gathered(layer), cupy.asarray(layer.bias)
    theirs = convolve_columns(layer, Kernel(cudnn, handle, columns.convolution, plan))
    gathered, weights = cupy.asarray(columns.weights), cupy.asarray(layer.weights)
    by_cudnn = time(lambda: theirs(images, gathered, bias), _RUNS)
    return OWN if time(lambda: convolve_pixels(layer, images, weights, bias), _RUNS) < by_cudnn else plan
