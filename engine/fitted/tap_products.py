"""Weights times L2-normalised taps: what every linear model on the network's features begins with (paper 3.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pc_engine.errors import ModelError
from pc_engine.hardware.device_arrays import DeviceConstants
from pc_engine.kernels import unit_products
from pc_engine.kernels.array_module import Array, get_array_module


def tap_products(taps: Mapping[str, Array], weights: Mapping[str, np.ndarray], constants: DeviceConstants) -> Array:
    """Return the sum over taps of ``weights[tap] · x/‖x‖`` of each image, (N, L) float32.

    Parameters
    ----------
    taps
        Tap name to activations, shape (N, ...) with D_tap values an image, any float dtype, NumPy or CuPy. Raw or
        already normalised: normalising twice changes nothing. Taps without weights are ignored.
    weights
        Tap name to weights, (L, D_tap) float32, in the order of the sum.
    constants
        Keeps the weights' copies on a device, by the taps' names.

    Raises
    ------
    ModelError
        If a tap is missing or has another number of values.

    Notes
    -----
    The concatenated features are never built: with x the tap and w its weights, ``w · x/‖x‖ = (w · x)/‖x‖``, so each
    tap is read once. An all-zero tap adds nothing.
    """
    missing = [name for name in weights if name not in taps]
    if missing:
        raise ModelError(
            f"The count SVM reads the taps {list(weights)}, but {missing} are not among the outputs {sorted(taps)}: "
            f"fit a counter for this model with 'pc-engine fit-counter'."
        )
    xp = get_array_module(*(taps[name] for name in weights))
    total = None
    for name, matrix in weights.items():
        tap = taps[name]
        flat = tap.reshape(tap.shape[0], math.prod(tap.shape[1:]))
        if flat.shape[1] != matrix.shape[1]:
            raise ModelError(size_sentence(name, matrix.shape[1], flat.shape[1]))
        term = unit_products(flat, constants.get(xp, name, matrix))
        total = term if total is None else total + term
    return total


def size_sentence(tap: str, expected: int, found: int) -> str:
    """Say that a tap does not fit the weights."""
    return (
        f"The counter expects {expected} values from the tap '{tap}', but the network gives {found}: it was fitted for "
        "another network or input size, so fit it again with 'pc-engine fit-counter'."
    )
