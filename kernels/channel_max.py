"""Spatial maximum of every feature map: what the signature dictionary ranks maps by (paper 3.2)."""

from __future__ import annotations

from pc_engine.kernels.array_module import Array


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
        raise ValueError(f"channel_max needs maps of shape (N, C, H, W) with H, W >= 1, and got {maps.shape}.")
    return maps.max(axis=(2, 3))
