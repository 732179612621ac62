"""How many, where the label only says "4 or more": a number beyond the last label, from the counter's own features."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pc_engine.errors import ModelError
from pc_engine.kernels.array_module import Array, get_array_module

#: Counts are told apart by their ratios, the more so the smaller; this keeps the lower end of the label finite.
HALF = 0.5
#: No picture shows more; a stranger's file may say anything.
MOST = 1_000_000


@dataclass(frozen=True, eq=False)
class OpenCount:
    """A linear model of the logarithm of a count, for images under the open-ended label.

    Attributes
    ----------
    weights
        Tap name to weights, (1, D_tap) float32; the taps are those of the count SVM.
    bias
        Is added to their sum.
    floor
        The lower end of the label: no count is below it.
    most
        No count is above it.

    Raises
    ------
    ModelError
        If the values are not finite, or make no range.
    """

    weights: Mapping[str, np.ndarray]
    bias: float
    floor: int
    most: int

    def __post_init__(self) -> None:
        arrays = self.weights.values()
        shaped = all(each.ndim == 2 and len(each) == 1 and each.dtype == np.float32 for each in arrays)
        whole = all(type(each) is int for each in (self.floor, self.most))
        finite = shaped and math.isfinite(self.bias) and all(np.isfinite(each).all() for each in arrays)
        if not (finite and whole and 0 <= self.floor <= self.most <= MOST):
            raise ModelError("The count beyond the last label is not a finite model: fit the counter again.")

    def counts(self, products: Array) -> Array:
        """Return the count of each image, (N,) int64, for those under the open-ended label.

        ``products`` (N,) is the sum over taps of ``weights · x/‖x‖`` (`pc_engine.fitted.tap_products`), NumPy or CuPy.
        """
        xp = get_array_module(products)
        # An image whose features overflow is refused by its scores; here it needs to be a number only.
        logarithm = xp.nan_to_num(products.astype(xp.float64) + self.bias)
        return counted_on(logarithm, self.floor, self.most).astype(xp.int64)

    def header(self) -> dict[str, Any]:
        """Return all but the weights as JSON values."""
        return {"bias": self.bias, "floor": self.floor, "most": self.most}


def counted_on(logarithm: Array, floor: int, most: int) -> Array:
    """Return the whole number, ``floor`` to ``most``, of which the model says this logarithm; (N,), of its type."""
    xp = get_array_module(logarithm)
    above = xp.exp(xp.minimum(logarithm, math.log(most + 1)))
    return xp.clip(xp.rint(floor - HALF + above), floor, most)


def open_count(weights: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> OpenCount:
    """Return the model of its weights and `OpenCount.header`, which may be a stranger's.

    Raises
    ------
    ModelError
        If either is not what it has to be.
    """
    try:
        return OpenCount(weights, float(header["bias"]), header["floor"], header["most"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ModelError("The count beyond the last label lacks its settings: fit the counter again.") from None
