"""The class-agnostic heatmap: the mean over all feature maps, normalised (paper 3.1, which does not say how).

Maps in front of an activation answer with either sign; what counts is how much they answer. Behind a ReLU, as in the
paper, that is their value.
"""

from __future__ import annotations

import math

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import Device, device_of
from pc_engine.kernels.normalise import normalise_heatmap


def mean_heatmap(maps: Array, mean_factor: float = 1.0, softness: float = 0.0) -> Array:
    """Average each image's maps, without their signs, over the channels, subtract a multiple of that over the cells.

    What falls below 0 is set to 0, softly if so wished.

    Parameters
    ----------
    maps
        (N, C, H, W) with C, H, W >= 1, floating point.
    mean_factor
        Multiple of the mean that is subtracted.
    softness
        Share of the mean over the cells within which the clamp at 0 is rounded off. With P the mean over the channels,
        M its mean over the cells and w = softness * M, the heat is w * log(1 + exp((P - mean_factor * M) / w)); 0
        clamps at once. A cell next to the clamp then has some heat however the network was rounded.

    Returns
    -------
    Array
        (N, H, W), dtype of ``maps`` (float32 for float16), nowhere below 0. Where the subtraction leaves nothing, as on
        maps without contrast, the mean over the channels itself.

    Raises
    ------
    ValueError
        If ``maps`` has another rank, another type, or an empty axis other than the first, or ``softness`` is no number
        from 0.
    """
    if not 0 <= softness < math.inf:
        raise ValueError(f"softness must be at least 0, but is {softness}.")
    if maps.ndim != 4 or 0 in maps.shape[1:] or maps.dtype.kind != "f":
        raise ValueError(
            f"mean_heatmap needs floating-point maps of shape (N, C, H, W) with C, H, W >= 1, but got {maps.dtype} "
            f"{maps.shape}."
        )
    xp = get_array_module(maps)
    device = device_of(maps, types=("f16", "f32"))
    if device is not None:
        return launch_over_channels(device, "mean_heatmap", maps, (), (xp.float64(mean_factor), xp.float64(softness)))
    mean = xp.abs(maps).mean(axis=1, dtype=xp.promote_types(maps.dtype, xp.float32))
    heat = _softly_clamped(mean, mean_factor, softness) if softness else normalise_heatmap(mean[:, None], mean_factor)
    empty = ~(heat > 0).any(axis=(1, 2))
    return xp.where(empty[:, None, None], mean, heat)


def _softly_clamped(mean: Array, mean_factor: float, softness: float) -> Array:
    """Return w * log(1 + exp(x / w)) of x = P - mean_factor * M, for P (N, H, W); see `mean_heatmap`."""
    xp = get_array_module(mean)
    level = mean.mean(axis=(1, 2), keepdims=True, dtype=xp.float64)
    # As with the other clamp, a mean that overflows leaves nothing.
    level = xp.where(xp.isfinite(level), level, xp.nan)
    above, width = mean - mean_factor * level, softness * level
    # In this form no exponential overflows.
    rounding = width * xp.log1p(xp.exp(-abs(above) / xp.where(width > 0, width, 1)))
    return (xp.maximum(above, 0) + rounding).astype(mean.dtype)


def launch_over_channels(
    device: Device, operation: str, maps: Array, weights: tuple[Array, ...], factors: tuple[Array, ...]
) -> Array:
    """Launch a kernel of ``cuda/heatmaps.cu`` that sums maps (N, C, H, W) over their channels; return the (N, H, W).

    It takes ``weights`` behind the maps, of float16 or float32, and ``factors`` behind the sizes.
    """
    xp = get_array_module(maps)
    count, channels, height, width = maps.shape
    cells = height * width
    # A thread reads four cells at once, so that one team after the other covers the grid until the threads run out.
    teams = max(1, min(device.threads(operation, channels * cells) * 4 // cells, channels))
    heat = xp.empty((count, height, width), dtype=xp.float32)
    device.launch(
        operation,
        xp.ascontiguousarray(maps),
        *weights,
        *map(xp.int32, (channels, cells, teams)),
        *factors,
        heat,
        blocks=count,
        tasks=channels * cells,
        doubles=(teams * cells + 1) // 2,
    )
    return heat
