"""Maximum over windows of feature maps that lie with their channels last, as a network on a GPU keeps them."""

from __future__ import annotations

import math

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import Launch, device_of, kernel_suffix

# Adjacent channels that a thread reads at once, where their number allows it.
_LOAD = 8


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
        If ``maps`` has another rank or type, or no window fits.
    """
    top, left, bottom, right = pads
    sizes = [
        (size + before + after - extent) // step + 1
        for size, extent, step, before, after in zip(
            maps.shape[1:3], window, stride, (top, left), (bottom, right), strict=False
        )
    ]
    inside = all(pad < extent for pad, extent in zip(pads, (*window, *window), strict=True))
    if maps.ndim != 4 or maps.dtype.kind != "f" or not inside or min(*sizes, *window, *stride) < 1:
        raise ValueError(
            f"max_pool needs floating-point maps (N, H, W, C) that windows fit into, and got {maps.dtype} "
            f"{maps.shape}, windows of {window} every {stride} cells and pads {pads}."
        )
    xp = get_array_module(maps)
    count, channels = maps.shape[0], maps.shape[3]
    pooled = xp.empty((count, *sizes, channels), maps.dtype)
    device, suffix = device_of(maps), kernel_suffix([maps])
    if device is None or suffix not in ("f16", "f32"):
        return _in_steps(maps, window, stride, pads, pooled)
    maps = xp.ascontiguousarray(maps)
    load = _LOAD if channels % _LOAD == 0 else 1
    cells = count * sizes[0] * sizes[1]
    tasks = cells * channels // load
    threads = device.threads("max_pool", tasks)
    numbers = (*maps.shape[1:3], *window, *stride, top, left, *sizes, channels, load)
    device.launch(
        Launch(
            source="channels_last",
            kernel=f"max_pool_{suffix}",
            blocks=math.ceil(tasks / threads),
            threads=threads,
            arguments=(maps, *map(xp.int32, numbers), xp.int64(cells), pooled),
        )
    )
    return pooled


def _in_steps(
    maps: Array, window: tuple[int, int], stride: tuple[int, int], pads: tuple[int, int, int, int], pooled: Array
) -> Array:
    """Fill ``pooled`` by one maximum of all windows for each cell of theirs."""
    xp = get_array_module(maps)
    top, left, bottom, right = pads
    least = xp.array(-xp.inf, maps.dtype)
    padded = xp.pad(maps, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=least)
    pooled[...] = least
    for row in range(window[0]):
        for column in range(window[1]):
            rows = slice(row, row + stride[0] * pooled.shape[1], stride[0])
            columns = slice(column, column + stride[1] * pooled.shape[2], stride[1])
            xp.maximum(pooled, padded[:, rows, columns][:, : pooled.shape[1], : pooled.shape[2]], out=pooled)
    return pooled
