"""From values of any depth, of grey or of colours, to 0..255, as a screen shows them.

Cameras and microscopes of 10, 12 or 14 bits write their values into files of 16 bits as they are: taken as values of 16
bits, such a picture is black. So the greatest value tells the depth, unless the file does.
"""

from __future__ import annotations

import math

import numpy as np

_DEPTHS = (10, 12, 14, 16)
#: The greatest value of 16 bits.
MOST = 2 ** _DEPTHS[-1] - 1
#: The greatest of a picture that is taken as of fewer bits.
DARK = 2 ** _DEPTHS[-2] - 1
# Of values of no known range, as many at either end do not count: a single hot pixel would leave the others black.
_ENDS = (0.1, 99.9)
# So many values tell where the ends are.
_LOOKED_AT = 1 << 20


def to_eight_bits(values: np.ndarray, top: int | None = None) -> np.ndarray:
    """Return values as uint8.

    Parameters
    ----------
    values
        (height, width), or (height, width, channels) of integers; of any type of integers or floats. What is not
        finite is black.
    top
        What white is by the file's own words, if it says so; not heeded where there are greater values.

    Returns
    -------
    ndarray
        uint8 of the same shape. Integers up to 65,535 are taken as of 10, 12, 14 or 16 bits, the least that holds the
        greatest of them; up to 255, other than of 16 bits, as they are; all others from the least to the greatest.
        Floats up to 1 are times 255, up to 255 as they are; all others from the least to the greatest, with one value
        in a thousand left aside at either end.
    """
    return _of_floats(values) if values.dtype.kind == "f" else _of_integers(values, top)


def _of_integers(values: np.ndarray, top: int | None) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > MOST:
        return _spread(values.astype(np.float64), low, high, (low, high))
    if top is None or top < max(high, 1):
        if high <= 255 and values.dtype.itemsize != 2:
            return values.astype(np.uint8)
        top = next(2**depth - 1 for depth in _DEPTHS if high < 2**depth)
    scaled = np.arange(high + 1, dtype=np.uint32) * np.uint32(255) // np.uint32(top)
    return np.asarray(scaled.astype(np.uint8)[values])


def _of_floats(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(values.shape, np.uint8)
    low, high = float(values.min(where=known, initial=np.inf)), float(values.max(where=known, initial=-np.inf))
    values[~known] = low
    if low >= 0 and high <= 1:
        grey = _rounded(values * 255)
    else:
        ends = _ends(values)
        grey = values.astype(np.uint8) if low >= 0 and high <= 255 and ends[1] > 1 else _spread(values, low, high, ends)
    grey[~known] = 0
    return grey


def _spread(values: np.ndarray, low: float, high: float, ends: tuple[float, float]) -> np.ndarray:
    """Map values from ``low`` to ``high`` to 0..255: by their ends, where there is anything between these."""
    if ends[0] < ends[1]:
        low, high = ends
    if low == high:
        return np.zeros(values.shape, np.uint8)
    return _rounded(np.clip((values - low) * (255 / (high - low)), 0, 255))


def _ends(values: np.ndarray) -> tuple[float, float]:
    step = math.ceil(math.sqrt(values.size / _LOOKED_AT))
    some = values[::step, ::step]
    # Of few values too, an outlier is not one of the ends, nor part of it.
    return float(np.percentile(some, _ENDS[0], method="higher")), float(np.percentile(some, _ENDS[1], method="lower"))


def _rounded(values: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.rint(values)
    return rounded.astype(np.uint8)
