"""Spatial maximum of every feature map: what the signature dictionary ranks maps by (paper 4)."""

from __future__ import annotations

import math

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import device_of

# Threads that share a map: LANES of cuda/heatmaps.cu.
_LANES = 32


def channel_max(maps: Array) -> Array:
    """Return the largest activation of each feature map.

    Parameters
    ----------
    maps
        (N, C, H, W), any real dtype; a NaN in a map makes its maximum NaN.

    Returns
    -------
    Array
        (N, C), dtype of ``maps``.

    Raises
    ------
    ValueError
        If ``maps`` has another rank or empty maps.
    """
    if maps.ndim != 4 or 0 in maps.shape[2:]:
        raise ValueError(f"channel_max needs maps of shape (N, C, H, W) with H, W >= 1, but got {maps.shape}.")
    device = device_of(maps, types=("f16", "f32"))
    if device is None:
        return maps.max(axis=(2, 3))
    xp = get_array_module(maps)
    count, channels, height, width = maps.shape
    greatest = xp.empty((count, channels), dtype=xp.float32)
    tasks = _LANES * count * channels
    maps_at_once = max(1, device.threads("channel_max", tasks) // _LANES)
    device.launch(
        "channel_max",
        xp.ascontiguousarray(maps),
        xp.int64(count * channels),
        xp.int32(height * width),
        greatest,
        blocks=math.ceil(count * channels / maps_at_once),
        tasks=tasks,
    )
    return greatest.astype(maps.dtype, copy=False)
