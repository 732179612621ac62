"""Selection of the feature maps that make up a class's signature, a different set for each image (paper 3.2)."""

from __future__ import annotations

from pc_engine.kernels.array_module import Array, get_array_module


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
        If shapes disagree or an index names no map. CuPy would wrap such an index around without a word.
    """
    xp = get_array_module(maps)
    indices = xp.asarray(indices)
    if maps.ndim != 4:
        raise ValueError(f"select_maps needs maps of shape (N, C, H, W), and got {maps.shape}.")
    if indices.ndim != 2 or len(indices) != len(maps) or indices.dtype.kind not in "iu":
        raise ValueError(
            f"select_maps needs integer indices of shape ({len(maps)}, k), and got {indices.dtype} {indices.shape}."
        )
    channels = maps.shape[1]
    if indices.size and (int(indices.min()) < 0 or int(indices.max()) >= channels):
        raise ValueError(
            f"select_maps got indices from {int(indices.min())} to {int(indices.max())} for {channels} maps: "
            "the signatures were made for another layer or network."
        )
    return maps[xp.arange(len(maps))[:, None], indices]
