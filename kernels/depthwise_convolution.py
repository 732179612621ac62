"""Convolution of each feature map by itself, the maps with their channels last, as a network on a GPU keeps them."""

from __future__ import annotations

import math

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import device_of
from pc_engine.kernels.windows import Windows


def depthwise_convolution(
    maps: Array,
    weights: Array,
    bias: Array,
    *,
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Array:
    """Convolve each map with a filter of its own.

    Parameters
    ----------
    maps
        (N, H, W, C), floating point.
    weights, bias
        (rows, columns, C) and (C,), dtype of ``maps``.
    stride
        Rows and columns from one window to the next.
    pads
        Zeros above, left, below, right.
    bounds
        What results are limited to: (0, 6) is a ReLU6.

    Returns
    -------
    Array
        (N, H', W', C), dtype of ``maps``, contiguous; summed in float32, row by row of the window.

    Raises
    ------
    ValueError
        If shapes or types do not fit, or no window does.
    """
    windows = Windows.over("depthwise_convolution", maps, weights.shape[:2], stride, pads)
    channels = maps.shape[3]
    fits = weights.shape[2:] == bias.shape == (channels,) and weights.dtype == bias.dtype == maps.dtype
    if not fits:
        raise ValueError(
            f"depthwise_convolution needs weights (rows, columns, {channels}) and a bias ({channels},) of "
            f"{maps.dtype}, but got {weights.dtype} {weights.shape} and {bias.dtype} {bias.shape}."
        )
    xp = get_array_module(maps)
    device = device_of(maps, types=("f16", "f32"))
    least, greatest = xp.float32(bounds[0]), xp.float32(bounds[1])
    if device is None:
        cells = windows.cells(maps, 0.0)
        sums = xp.zeros(cells[0][2].shape, xp.float32)
        for row, column, cell in cells:
            sums += cell.astype(xp.float32) * weights[row, column].astype(xp.float32)
        sums += bias.astype(xp.float32)
        return xp.minimum(xp.maximum(sums, least), greatest).astype(maps.dtype)
    return windows.launch(device, "depthwise_convolution", maps, weights, bias, numbers=(least, greatest))
