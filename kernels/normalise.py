"""Normalisation of stacks of feature maps (paper 4)."""

from __future__ import annotations

from pc_engine.kernels.array_module import Array, get_array_module


def normalise_heatmap(maps: Array, mean_factor: float = 2.0) -> Array:
    """Turn each image's stack of maps into one heatmap: subtract the global mean, clamp at 0, sum over the maps.

    Parameters
    ----------
    maps
        (N, k, H, W), floating point: the selected maps of each image.
    mean_factor
        Multiple of the mean over the image's whole stack that is subtracted.

    Returns
    -------
    Array
        (N, H, W), dtype of ``maps``, or float32 for float16, which the sum over many maps could overflow; nowhere
        below 0. All 0 where ``k`` is 0, NaN where the mean overflows.

    Notes
    -----
    Paper 4: "normalized by subtracting 2x of the global mean". A smaller factor keeps more of each object, a larger
    one parts objects that touch.
    """
    xp = get_array_module(maps)
    if maps.ndim != 4 or maps.dtype.kind != "f":
        raise ValueError(
            f"normalise_heatmap needs floating-point maps of shape (N, k, H, W), but got {maps.dtype} {maps.shape}."
        )
    maps = maps.astype(xp.promote_types(maps.dtype, xp.float32), copy=False)
    count, _, height, width = maps.shape
    if 0 in maps.shape:
        return xp.zeros((count, height, width), dtype=maps.dtype)
    mean = maps.reshape(count, -1).mean(axis=1)
    threshold = (mean_factor * mean.astype(xp.float64)).astype(maps.dtype)
    # A mean that overflows would leave nothing of any map, as if there were nothing in the picture.
    threshold = xp.where(xp.isfinite(threshold), threshold, xp.nan)
    excess = maps - threshold[:, None, None, None]
    xp.maximum(excess, 0, out=excess)
    return excess.sum(axis=1)
