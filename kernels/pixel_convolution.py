"""The first convolution of a network, straight from the pixels of its images.

It reads three bytes a place and writes 64 values or so: what it takes is the time to write these. So its products are
made where the pixels are read, of matrices that fit into a block of threads, and nothing else passes through the
device's memory.
"""

from __future__ import annotations

import math

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import device_of
from pc_engine.kernels.pixel_columns import PIXEL
from pc_engine.kernels.windows import LOAD, Windows

# Constants of cuda/pixel_convolution.cu: places and filters that a warp takes at a time, and pixels that a block keeps.
_PLACES, _FILTERS, _ROOM = 16, 64, 1536
# Places of a window whose values a step of a matrix unit multiplies, and steps that there are kernels for.
_STEP, _MOST_STEPS = 4, 3
# Places of a row, and stretches of _PLACES places, of a tile at most: a large tile reads less of what lies around it
# again, and with many tiles few blocks are idle at the end.
_WIDEST, _MOST_STRETCHES = 256, 64
_WARP = 32
# Pixels of four float16 that shared memory gives at once, in as many pairs of banks. Rows an odd number of halves of
# these apart do not meet in one.
_BANKS = 16


def has_pixel_kernel(window: tuple[int, int], stride: tuple[int, int], filters: int) -> bool:
    """Whether there is a kernel for such filters: a multiple of 8, with windows of up to 12 places."""
    steps = math.ceil(window[0] * window[1] / _STEP)
    return steps <= _MOST_STEPS and filters % LOAD == 0 and window[0] * _pitch(_PLACES, window, stride) <= _ROOM


def pixel_convolution(
    images: Array,
    weights: Array,
    bias: Array,
    constant: float = 0.0,
    *,
    stride: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Array:
    """Convolve pixels that have a fourth value.

    Parameters
    ----------
    images
        uint8 (N, H, W, 3).
    weights, bias
        float16 (filters, rows, columns, 4) and (filters,).
    constant
        The fourth value of every pixel, behind red, green and blue, which tells the picture from what lies outside of
        it: there all four are 0.
    stride
        Rows and columns from one window to the next.
    pads
        Places outside of the picture above, left, below, right.
    bounds
        What results are limited to: (0, 6) is a ReLU6.

    Returns
    -------
    Array
        float16 (N, H', W', filters), contiguous; summed in float32, in an order that is not said. On a device it comes
        from a kernel of this project where `has_pixel_kernel`, and else from CuPy.

    Raises
    ------
    ValueError
        If shapes or types do not fit, no window does, or the constant is not finite.
    """
    fits = images.dtype.name == "uint8" and images.ndim == weights.ndim == 4 and images.shape[3] == PIXEL - 1
    fits = fits and weights.shape[3] == PIXEL and bias.shape == weights.shape[:1]
    fits = fits and weights.dtype.name == bias.dtype.name == "float16" and math.isfinite(constant)
    windows = Windows(images.shape[1:3], weights.shape[1:3], stride, pads) if fits else None
    if windows is None or min(*windows.size, *windows.window, *stride) < 1 or min(pads) < 0 or min(windows.count) < 1:
        raise ValueError(
            f"pixel_convolution needs uint8 images (N, H, W, {PIXEL - 1}), float16 weights (filters, rows, columns, "
            f"{PIXEL}) whose windows fit into them, a bias (filters,) and a finite constant, but got {images.dtype} "
            f"{images.shape}, {weights.dtype} {weights.shape}, {bias.dtype} {bias.shape} and {constant}, windows every "
            f"{stride} places and pads {pads}."
        )
    xp = get_array_module(images, weights)
    device = device_of(images, weights)
    filters = len(weights)
    if device is None or not has_pixel_kernel(windows.window, stride, filters):
        cells = windows.cells(_with_constant(images, constant), 0.0)
        factors = weights.astype(xp.float32)
        sums = sum(xp.matmul(cell, factors[:, row, column].T) for row, column, cell in cells)
        sums += bias.astype(xp.float32)
        return xp.clip(sums, *bounds).astype(xp.float16)
    rows, columns = windows.count
    tile_rows, tile_columns = _tile(windows)
    tiles = math.ceil(rows / tile_rows) * math.ceil(columns / tile_columns)
    result = xp.empty((len(images), rows, columns, filters), xp.float16)
    sizes = (*windows.size, *windows.window, *stride, *pads[:2], rows, columns, filters, tile_rows, tile_columns)
    device.launch(
        f"pixel_convolution_{math.ceil(windows.window[0] * windows.window[1] / _STEP)}",
        *map(xp.ascontiguousarray, (images, weights, bias)),
        *map(xp.int32, (*sizes, _pitch(tile_columns, windows.window, stride))),
        *map(xp.float16, (constant, *bounds)),
        result,
        blocks=len(images) * tiles * math.ceil(filters / _FILTERS),
        tasks=_WARP * tile_rows * (tile_columns // _PLACES),
    )
    return result


def _with_constant(images: Array, constant: float) -> Array:
    """Return pixels of four values, in float32."""
    xp = get_array_module(images)
    last = xp.full((*images.shape[:3], 1), xp.float16(constant), xp.float32)
    return xp.concatenate([images.astype(xp.float32), last], axis=3)


def _pitch(columns: int, window: tuple[int, int], stride: tuple[int, int]) -> int:
    """Pixels from a row to the next, of those kept for so many places of a row."""
    needed = (columns - 1) * stride[1] + window[1]
    return math.ceil((needed - _BANKS // 2) / _BANKS) * _BANKS + _BANKS // 2


def _tile(windows: Windows) -> tuple[int, int]:
    """Rows and columns of places that a block computes: as many rows as it has room for the pixels of."""
    rows, columns = windows.count
    (high, _), (down, _) = windows.window, windows.stride
    room = range(_PLACES, _WIDEST + 1, _PLACES)
    widest = max(c for c in room if high * _pitch(c, windows.window, windows.stride) <= _ROOM)
    even = math.ceil(columns / math.ceil(columns / widest))
    wide = math.ceil(even / _PLACES) * _PLACES
    fitting = (_ROOM // _pitch(wide, windows.window, windows.stride) - high) // down + 1
    return min(rows, fitting, max(1, _MOST_STRETCHES * _PLACES // wide)), wide
