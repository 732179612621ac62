"""Maximum over windows of feature maps that lie with their channels last, as a network on a GPU keeps them."""

from __future__ import annotations

import functools

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import device_of
from pc_engine.kernels.windows import Windows


def max_pool(
    maps: Array,
    window: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
) -> Array:
    """Return the largest activation in each window of each map.

    Parameters
    ----------
    maps
        (N, H, W, C), floating point. A NaN in a window makes its maximum NaN.
    window
        Rows and columns of a window.
    stride
        Rows and columns from one window to the next.
    pads
        Cells outside the map that windows may begin or end on: above, left, below, right, each fewer than the window
        has. They never are the maximum.

    Returns
    -------
    Array
        (N, H', W', C), dtype of ``maps``, contiguous; windows that reach beyond the pads are left out, as those of ONNX
        ``MaxPool`` are.

    Raises
    ------
    ValueError
        If ``maps`` has another rank or type, no window fits, or one would lie outside.
    """
    windows = Windows.over("max_pool", maps, window, stride, pads)
    if any(pad >= extent for pad, extent in zip(pads, (*window, *window), strict=True)):
        raise ValueError(f"max_pool needs pads smaller than its windows of {window}, but got {pads}.")
    xp = get_array_module(maps)
    device = device_of(maps, types=("f16", "f32"))
    if device is None:
        return functools.reduce(xp.maximum, (cell for _, _, cell in windows.cells(maps, -xp.inf))).copy()
    return windows.launch(device, "max_pool", maps)
