"""The heatmap of a class: the maps that its signature selects, stacked, normalised and summed (paper 3.2, 4)."""

from __future__ import annotations

from collections.abc import Sequence

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import Device, device_of, no_array
from pc_engine.kernels.normalise import normalise_heatmap
from pc_engine.kernels.resize_maps import resize_maps
from pc_engine.kernels.select_maps import select_maps


def selected_heatmap(layers: Sequence[tuple[Array, Array]], mean_factor: float = 2.0) -> Array:
    """Select maps of one or more layers for each image and turn them into one heatmap.

    Parameters
    ----------
    layers
        For each layer its maps (N, C, H, W), floating point, and the indices (N, k) of those selected, as `select_maps`
        takes them. Layers of different grids are brought to the finest one with `resize_maps`.
    mean_factor
        As of `normalise_heatmap`; the mean runs over the selected maps of all layers.

    Returns
    -------
    Array
        (N, H, W) of the finest grid, dtype as of `normalise_heatmap`.

    Raises
    ------
    ValueError
        If there is no layer, shapes disagree, or an index names no map; on a device the last gives an image NaN
        throughout.

    Notes
    -----
    One kernel on a device, for up to two layers of one grid in float32 or float16: the stack is never formed.
    """
    if not layers:
        raise ValueError("selected_heatmap needs the maps of at least one layer, but got none.")
    xp = get_array_module(layers[0][0])
    device = device_of(*(maps for maps, _ in layers), types=("f16", "f32"))
    if device is not None and _one_kernel_does(layers):
        return _on_device(device, layers, mean_factor)
    stacks = [select_maps(maps, indices) for maps, indices in layers]
    height = max(stack.shape[2] for stack in stacks)
    width = max(stack.shape[3] for stack in stacks)
    stack = xp.concatenate([resize_maps(stack, height, width) for stack in stacks], axis=1)
    return normalise_heatmap(stack, mean_factor)


def _one_kernel_does(layers: Sequence[tuple[Array, Array]]) -> bool:
    all_maps = [maps for maps, _ in layers]
    return (
        len(layers) <= 2
        and all(maps.ndim == 4 and maps.size and len(maps) == len(all_maps[0]) for maps in all_maps)
        and all(indices.ndim == 2 and len(indices) == len(maps) for maps, indices in layers)
        and all(indices.dtype.kind in "iu" for _, indices in layers)
        and sum(indices.shape[1] for _, indices in layers) > 0
        and len({maps.shape[2:] for maps in all_maps}) == 1
    )


def _on_device(device: Device, layers: Sequence[tuple[Array, Array]], mean_factor: float) -> Array:
    """Launch ``selected_heatmap`` of ``cuda/heatmaps.cu``."""
    first, *rest = layers
    xp = get_array_module(first[0])
    count, _, height, width = first[0].shape
    heat = xp.empty((count, height, width), dtype=xp.float32)
    nothing = (no_array(xp), no_array(xp), xp.int32(0), xp.int32(0))
    device.launch(
        "selected_heatmap",
        *_selection(*first),
        *(_selection(*rest[0]) if rest else nothing),
        xp.int32(height * width),
        xp.float64(mean_factor),
        heat,
        blocks=count,
        tasks=height * width,
    )
    return heat


def _selection(maps: Array, indices: Array) -> tuple[Array, ...]:
    xp = get_array_module(maps)
    channels = maps.shape[1]
    if indices.dtype != xp.int32:
        # What does not fit into 32 bits names no map either.
        indices = xp.where((indices >= 0) & (indices < channels), indices, -1)
    indices = xp.ascontiguousarray(indices, dtype=xp.int32)
    return xp.ascontiguousarray(maps), indices, xp.int32(channels), xp.int32(indices.shape[1])
