"""Heatmaps as parts of their greatest value, so that products of them cannot overflow."""

from __future__ import annotations

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import device_of


def scale_to_peak(heat: Array) -> Array:
    """Divide each heatmap by its greatest value.

    Parameters
    ----------
    heat
        (N, H, W) with H, W >= 1, floating point. One that is nowhere above 0, or somewhere no number, stays as it is.

    Returns
    -------
    Array
        (N, H, W), dtype of ``heat``.

    Raises
    ------
    ValueError
        If ``heat`` has another rank, another type or no cells.

    Notes
    -----
    One kernel on a device for float32 and float64.
    """
    if heat.ndim != 3 or 0 in heat.shape[1:] or heat.dtype.kind != "f":
        raise ValueError(
            f"scale_to_peak needs floating-point heatmaps (N, H, W) with H, W >= 1, but got {heat.dtype} {heat.shape}."
        )
    xp, device = get_array_module(heat), device_of(heat, types=("f32", "f64"))
    if device is None:
        peak = heat.max(axis=(1, 2), keepdims=True)
        return heat / xp.where(peak > 0, peak, 1)
    count, height, width = heat.shape
    scaled = xp.empty(heat.shape, heat.dtype)
    device.launch(
        "scale_to_peak",
        xp.ascontiguousarray(heat),
        xp.int32(height * width),
        scaled,
        blocks=count,
        tasks=height * width,
    )
    return scaled
