"""Bilinear resizing of feature maps, so that layers of different grids can be stacked."""

from __future__ import annotations

import math
from types import ModuleType

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import Device, device_of


def resize_maps(maps: Array, height: int, width: int) -> Array:
    """Resize maps bilinearly, with half-pixel centres and clamped edges.

    Parameters
    ----------
    maps
        (..., H, W), floating point.
    height, width
        Cells of the new grid.

    Returns
    -------
    Array
        (..., height, width), dtype of ``maps``; ``maps`` itself where the sizes agree.

    Notes
    -----
    The sampling of ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)`` and of ONNX ``Resize``
    with ``half_pixel``, as two products with matrices of two taps a row. No anti-aliasing when shrinking. On a device
    this is a kernel for float16 and float32: how cuBLAS rounds may depend on the batch.
    """
    if maps.ndim < 2 or maps.dtype.kind != "f" or 0 in maps.shape[-2:] or height < 1 or width < 1:
        raise ValueError(
            f"resize_maps needs floating-point maps (..., H, W) and a target of at least 1x1, but got {maps.dtype} "
            f"{maps.shape} and {height}x{width}."
        )
    old_height, old_width = maps.shape[-2:]
    if (old_height, old_width) == (height, width):
        return maps
    device = device_of(maps, types=("f16", "f32"))
    if device is not None:
        return _on_device(device, maps, height, width)
    xp = get_array_module(maps)
    resized = maps
    if old_width != width:
        resized = resized @ _interpolation(xp, old_width, width).astype(maps.dtype).T
    if old_height != height:
        resized = _interpolation(xp, old_height, height).astype(maps.dtype) @ resized
    return resized


def _interpolation(xp: ModuleType, old: int, new: int) -> Array:
    """Matrix (new, old) whose row i holds the bilinear weights of new cell i."""
    # Cell i of the new grid has its centre at (i + 1/2) / new of the axis.
    position = xp.clip((xp.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    distance = xp.abs(position[:, None] - xp.arange(old))
    return xp.maximum(1.0 - distance, 0.0)


def _on_device(device: Device, maps: Array, height: int, width: int) -> Array:
    """Launch the kernel in ``cuda/resize_maps.cu``."""
    xp = get_array_module(maps)
    *leading, old_height, old_width = maps.shape
    resized = xp.empty((*leading, height, width), maps.dtype)
    device.launch(
        "resize_maps",
        xp.ascontiguousarray(maps),
        *map(xp.int32, (old_height, old_width, height, width)),
        *map(xp.float64, (old_height / height, old_width / width)),
        resized,
        blocks=math.prod(leading),
        tasks=height * width,
    )
    return resized
