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
    if heat.ndim != 3 or 0 in heat.shape[1:]:
        raise ValueError(f"{operation} needs weights of shape (N, H, W) with H, W >= 1, and got {heat.shape}.")
    # NaN fails both comparisons, so two reductions find NaN, infinite and negative values alike.
    if heat.size and not (bool(heat.min() >= 0) and bool(heat.max() < math.inf)):
        bad = int(xp.flatnonzero(~((heat >= 0) & (heat < math.inf)))[0])
        image, cell = divmod(bad, heat.shape[1] * heat.shape[2])
        raise ValueError(
            f"{operation} needs finite weights >= 0, and image {image} has {float(heat.ravel()[bad])} at cell "
            f"{divmod(cell, heat.shape[2])}: clamp the heatmap at 0 and check the network's outputs for NaN."
        )
    return heat


def checked_counts(counts: Array, like: Array, name: str) -> Array:
    """Return the integers ``counts`` (N,) as int64 beside ``like`` (N, ...), or raise ``ValueError``."""
    xp = get_array_module(like)
    numbers = xp.asarray(counts)
    if numbers.shape != like.shape[:1] or numbers.dtype.kind not in "iu":
        raise ValueError(
            f"{name} must hold one integer an image, shape ({like.shape[0]},), "
            f"and has shape {numbers.shape} and dtype {numbers.dtype}."
        )
    return numbers.astype(xp.int64)


def checked_positive(value: float, name: str) -> float:
    """Return ``value`` if it is a finite number above 0, or raise ``ValueError``."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, and is {value}.")
    return float(value)
