"""The weights of those of an image's maps that add most to a sum of them; the others' are 0."""

from __future__ import annotations

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import Device, device_of

# Threads that share a map: PARTS of cuda/heatmaps.cu.
_PARTS = 8


def top_weights(maps: Array, weights: Array, top: int) -> Array:
    """Return the weights with 0 for all maps but those that add most, on the mean over their cells.

    Parameters
    ----------
    maps
        (N, C, H, W), floating point.
    weights
        (N, C), floating point, of either sign.
    top
        How many maps of each image keep their weight; more do where some add the same as the least of these. A map that
        adds what is not a number does, too.

    Returns
    -------
    Array
        (N, C), dtype of ``maps``, or float32 for float16.

    Raises
    ------
    ValueError
        If shapes disagree, either is not floating point, or ``top`` is below 1.

    Notes
    -----
    One kernel on a device, for maps of float16 and float32. Its means may differ from NumPy's by rounding, and with
    them which of two maps that add almost the same is taken; an image's batch does not change them.
    """
    check_weighted_maps(maps, weights, "top_weights")
    if top < 1:
        raise ValueError(f"top_weights keeps at least 1 map, but got top={top}.")
    xp = get_array_module(maps)
    dtype = xp.promote_types(maps.dtype, xp.float32)
    weights = weights.astype(dtype, copy=False)
    count, channels, height, width = maps.shape
    if top >= channels or not maps.size:
        return weights
    device = device_of(maps, types=("f16", "f32"))
    if device is not None:
        return _on_device(device, maps, weights, top)
    added = weights * maps.reshape(count, channels, height * width).mean(axis=2, dtype=dtype)
    least = xp.partition(added, channels - top, axis=1)[:, channels - top]
    return xp.where(added < least[:, None], 0, weights)


def check_weighted_maps(maps: Array, weights: Array, operation: str) -> None:
    """Raise ``ValueError`` unless there are maps (N, C, H, W) with a weight for each (N, C), both floating point."""
    if maps.ndim != 4 or maps.dtype.kind != "f" or weights.shape != maps.shape[:2] or weights.dtype.kind != "f":
        raise ValueError(
            f"{operation} needs floating-point maps (N, C, H, W) and a weight for each, but got {maps.dtype} "
            f"{maps.shape} and {weights.dtype} {weights.shape}."
        )


def _on_device(device: Device, maps: Array, weights: Array, top: int) -> Array:
    """Launch ``top_weights`` of ``cuda/heatmaps.cu``."""
    xp = get_array_module(maps)
    count, channels, height, width = maps.shape
    kept = xp.empty((count, channels), xp.float32)
    device.launch(
        "top_weights",
        *map(xp.ascontiguousarray, (maps, weights)),
        *map(xp.int32, (channels, height * width, top)),
        kept,
        blocks=count,
        tasks=channels * _PARTS,
        doubles=(channels * _PARTS + 1) // 2,
    )
    return kept
