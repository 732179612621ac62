"""From maps with their channels last, as a network on a GPU keeps them, to the planes that everything else reads."""

from __future__ import annotations

import math

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import device_of

# Cells, and channels, that a block turns: TILE of cuda/channels_last.cu.
_TILE = 32


def to_planes(maps: Array) -> Array:
    """Return maps (N, H, W, C), floating point, as contiguous planes (N, C, H, W) in float32.

    Raises
    ------
    ValueError
        If ``maps`` has another rank or type.
    """
    if maps.ndim != 4 or maps.dtype.kind != "f":
        raise ValueError(f"to_planes needs floating-point maps (N, H, W, C), but got {maps.dtype} {maps.shape}.")
    xp = get_array_module(maps)
    count, height, width, channels = maps.shape
    planes = xp.empty((count, channels, height, width), xp.float32)
    device = device_of(maps, types=("f16", "f32"))
    if device is None:
        planes[...] = maps.transpose(0, 3, 1, 2)
        return planes
    cells = height * width
    device.launch(
        "to_planes",
        xp.ascontiguousarray(maps),
        xp.int32(channels),
        xp.int32(cells),
        planes,
        blocks=count * math.ceil(cells / _TILE) * math.ceil(channels / _TILE),
        tasks=_TILE * _TILE,
    )
    return planes
