"""Percentile bootstrap: how far a figure would move with another sample of as many images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Resamples of an interval: enough that its ends repeat to about a tenth of its width.
RESAMPLES = 2000

_CHUNK = 64
_ENDS = (0.025, 0.975)


def resampled_sums(values: np.ndarray, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Sum per-image values over images drawn with replacement, as many as there are.

    Parameters
    ----------
    values
        Shape (n, k), one row an image, n at least 1.
    seed
        Two calls with the same seed and n draw the same images, so that figures of two methods can be compared draw by
        draw.
    resamples
        Number of draws R.

    Returns
    -------
    np.ndarray
        Shape (R, k), float64. A share of sums, computed from its columns, is that share in each resample.
    """
    n = len(values)
    rng = np.random.default_rng(seed)
    sums = np.empty((resamples, values.shape[1]))
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        sums[start : start + rows] = times @ values
    return sums


def share_of(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return ``part / whole``, NaN where ``whole`` is 0: a resample may hold none of the images that count."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    shares: np.ndarray = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return shares


def mean_over(shares: np.ndarray, chosen: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the mean of the ``chosen`` entries of the last axis, NaN where one of them is NaN, or none is chosen.

    So a resample without images of a rare label says nothing about the mean over labels, which would else jump.
    """
    total: np.ndarray = shares[..., chosen].sum(axis=-1)
    return total / len(chosen) if len(chosen) else np.full(total.shape, np.nan)


def percentile_interval(draws: np.ndarray) -> tuple[float, float] | None:
    """Return the 95 % interval of a figure's resamples (R,), leaving out NaN; None where all are."""
    known = draws[~np.isnan(draws)]
    if not len(known):
        return None
    low, high = np.quantile(known, _ENDS)
    return float(low), float(high)
