"""What every clustering kernel asks of its input, so that each refuses a bad heatmap in the same words.

This layer knows nothing of the engine's error tree: a kernel raises ``ValueError``, like NumPy itself.
"""

from __future__ import annotations

import math

from pc_engine.kernels.array_module import Array, get_array_module


def checked_weights(weights: Array, operation: str) -> Array:
    """Return ``weights`` (N, H, W) as float64, or raise ``ValueError`` if they cannot be the heat of grid cells."""
    xp = get_array_module(weights)
    heat = xp.asarray(weights, dtype=xp.float64)
    _check_grid(heat, operation)
    # NaN fails both comparisons, so two reductions find NaN, infinite and negative values alike.
    if heat.size and not (bool(heat.min() >= 0) and bool(heat.max() < math.inf)):
        bad = int(xp.flatnonzero(~((heat >= 0) & (heat < math.inf)))[0])
        image, cell = divmod(bad, heat.shape[1] * heat.shape[2])
        raise ValueError(
            f"{operation} needs finite weights >= 0, and image {image} has {float(heat.ravel()[bad])} at cell "
            f"{divmod(cell, heat.shape[2])}: clamp the heatmap at 0 and check the network's outputs for NaN."
        )
    return heat


def device_weights(weights: Array, operation: str) -> Array:
    """Return ``weights`` (N, H, W) as a kernel on the device reads them: contiguous, float32 or float64.

    The values are not looked at, which would wait for the device: the kernel marks the images whose heat is bad.
    """
    _check_grid(weights, operation)
    xp = get_array_module(weights)
    return xp.ascontiguousarray(weights, dtype=xp.float32 if weights.dtype in (xp.float16, xp.float32) else xp.float64)


def _check_grid(weights: Array, operation: str) -> None:
    if weights.ndim != 3 or 0 in weights.shape[1:]:
        raise ValueError(f"{operation} needs weights of shape (N, H, W) with H, W >= 1, but got {weights.shape}.")


def checked_counts(counts: Array, like: Array, name: str) -> Array:
    """Return the integers ``counts`` (N,) as int64 beside ``like`` (N, ...), or raise ``ValueError``."""
    xp = get_array_module(like)
    numbers = xp.asarray(counts)
    if numbers.shape != like.shape[:1] or numbers.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must hold one integer per image, shape ({like.shape[0]},), but has shape {numbers.shape} and "
            f"dtype {numbers.dtype}."
        )
    return xp.ascontiguousarray(numbers, dtype=xp.int64)


def check_positive(value: float, name: str) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, but is {value}.")
