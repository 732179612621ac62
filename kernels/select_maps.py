"""Selection of the feature maps that make up a class's signature, a different set for each image (paper 3.2)."""

from __future__ import annotations

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import device_of


def select_maps(maps: Array, indices: Array) -> Array:
    """Take ``indices[n]`` of the maps of image ``n``, in the order given.

    Parameters
    ----------
    maps
        (N, C, H, W), any dtype.
    indices
        (N, k) integers in 0 … C-1; repeats are allowed, negative numbers are not.

    Returns
    -------
    Array
        (N, k, H, W), a copy, dtype of ``maps``.

    Raises
    ------
    ValueError
        If shapes disagree or an index names no map. On a device such an index gives a map of NaN instead, for maps of
        floating point: looking at the indices would wait for the device.
    """
    xp = get_array_module(maps)
    indices = xp.asarray(indices)
    if maps.ndim != 4:
        raise ValueError(f"select_maps needs maps of shape (N, C, H, W), but got {maps.shape}.")
    if indices.ndim != 2 or len(indices) != len(maps) or indices.dtype.kind not in "iu":
        raise ValueError(
            f"select_maps needs integer indices of shape ({len(maps)}, k), but got {indices.dtype} {indices.shape}."
        )
    channels = maps.shape[1]
    image = xp.arange(len(maps))[:, None]
    if device_of(maps) is not None and channels and maps.dtype.kind == "f":
        exists = (indices >= 0) & (indices < channels)
        return xp.where(exists[:, :, None, None], maps[image, xp.clip(indices, 0, channels - 1)], xp.nan)
    if indices.size and (int(indices.min()) < 0 or int(indices.max()) >= channels):
        raise ValueError(
            f"select_maps got indices from {int(indices.min())} to {int(indices.max())} for {channels} maps: "
            "the signatures were made for another layer or network."
        )
    return maps[image, indices]
