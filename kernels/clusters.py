"""What is measured on the clusters of a heatmap has in common: what it takes, and how a kernel is given it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.kernels.cuda import Device
from pc_engine.kernels.validation import checked_counts, device_weights

Measured = TypeVar("Measured")


def checked_clusters(
    labels: Array, heat: Array, n_clusters: Array, slots: int | None, name: str
) -> tuple[Array, Array, Array]:
    """Return labels and heat (N, H, W) as arrays, and the numbers of clusters (N,) int64; ``name`` is that of the heat.

    Raises
    ------
    ValueError
        If shapes disagree, or slots are negative.
    """
    xp = get_array_module(labels, heat)
    labels, heat = xp.asarray(labels), xp.asarray(heat)
    if labels.shape != heat.shape:
        raise ValueError(f"labels {labels.shape} and {name} {heat.shape} must have the same shape.")
    numbers = checked_counts(n_clusters, heat, "n_clusters")
    if slots is not None and slots < 0:
        raise ValueError(f"slots must be at least 0, but is {slots}.")
    return labels, heat, numbers


def slots_for(numbers: Array, slots: int | None) -> int:
    """Return ``slots``, or as many as the largest of ``numbers`` (N,) on the host.

    Raises
    ------
    ValueError
        If the largest exceeds ``slots``.
    """
    most = int(numbers.max()) if len(numbers) else 0
    if slots is not None and most > slots:
        raise ValueError(f"n_clusters reaches {most}, beyond the {slots} slots asked for.")
    return most if slots is None else slots


def launch_on_clusters(
    device: Device,
    operation: str,
    clusters: tuple[Array, Array, Array],
    slots: int | None,
    make: Callable[[int, int], Measured],
    *numbers: Array,
    doubles: int = 0,
    ints: int = 0,
) -> Measured:
    """Launch a kernel on the clusters of each image.

    Parameters
    ----------
    operation
        The kernel's name without its type.
    clusters
        Labels, heat and numbers of clusters, as `checked_clusters` gives them.
    slots
        None for one each cell.
    make
        Makes the result for so many images and slots: its attributes, in order, are the arrays that the kernel writes.
    numbers
        What the kernel takes between the sizes and these arrays.
    doubles, ints
        State for each slot that it needs beside one double.
    """
    labels, heat, n_clusters = clusters
    heat = device_weights(heat, operation)
    xp = get_array_module(heat)
    count, height, width = heat.shape
    slots = height * width if slots is None else slots
    made = make(count, slots)
    device.launch(
        operation,
        xp.ascontiguousarray(labels, dtype=xp.int32),
        heat,
        n_clusters,
        *map(xp.int32, (height, width, slots)),
        *numbers,
        *vars(made).values(),
        blocks=count,
        tasks=height * width,
        doubles=height * width + slots * (1 + doubles),
        ints=height * width + slots * ints,
    )
    return made
