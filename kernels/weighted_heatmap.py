"""The class activation map: each image's maps in a sum of its own weights (Zhou et al. 2016, equation 2)."""

from __future__ import annotations

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import device_of
from pc_engine.kernels.mean_heatmap import launch_over_channels
from pc_engine.kernels.normalise import normalise_heatmap
from pc_engine.kernels.top_weights import check_weighted_maps, top_weights


def weighted_heatmap(maps: Array, weights: Array, mean_factor: float = 0.0, top: int | None = None) -> Array:
    """Add up each image's maps, every one times its weight, and clamp at 0 what speaks against.

    Parameters
    ----------
    maps
        (N, C, H, W), floating point.
    weights
        (N, C), floating point, of either sign.
    mean_factor
        Multiple of the mean over the clamped sum's cells that is subtracted before clamping once more.
    top
        Only the maps that add most, on the mean over their cells, are added up: so many of each image, more where some
        add the same; see `top_weights`. None adds all.

    Returns
    -------
    Array
        (N, H, W), dtype of ``maps``, or float32 for float16; nowhere below 0. NaN where the sum overflows.

    Raises
    ------
    ValueError
        If shapes disagree, either is not floating point, or ``top`` is below 1.

    Notes
    -----
    On a device the sum is a kernel for maps of float16 and float32: how cuBLAS rounds may depend on the batch.
    """
    xp = get_array_module(maps)
    check_weighted_maps(maps, weights, "weighted_heatmap")
    if top is not None and top < 1:
        raise ValueError(f"weighted_heatmap adds up at least 1 map, but got top={top}.")
    dtype = xp.promote_types(maps.dtype, xp.float32)
    count, channels, height, width = maps.shape
    # What is not a number keeps its weight, so that the image's heatmap is none either.
    weights = weights.astype(dtype, copy=False) if top is None else top_weights(maps, weights, top)
    device = device_of(maps, types=("f16", "f32"))
    if device is not None and maps.size:
        given = (xp.ascontiguousarray(weights, dtype=xp.float32),)
        return launch_over_channels(device, "weighted_heatmap", maps, given, (xp.float64(mean_factor),))
    planes = maps.reshape(count, channels, height * width)
    total = (weights[:, None, :] @ planes.astype(dtype, copy=False)).reshape(count, 1, height, width)
    return normalise_heatmap(xp.maximum(total, 0), mean_factor)
