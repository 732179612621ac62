"""Percentile bootstrap: how far a figure would move with another sample of as many images.

Resamples hold none but the images that are there. Where these are all right, or all wrong, or there is a single one,
the figure never moves, which says nothing of other images. There an interval comes from Wilson's of a share of images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtri

#: Resamples of an interval: enough that its ends repeat to about a tenth of its width.
RESAMPLES = 2000

_CHUNK = 64
_ENDS = (0.025, 0.975)
# Of an interval of this width or less, as a share of its end, the width is that of rounding.
_ROUNDING = 1e-9
# As many standard deviations of a normal distribution lie between its middle and these ends.
_Z = float(ndtri(0.5 + 0.5 * 0.95))


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


def percentile_interval(draws: np.ndarray, otherwise: tuple[float, float] | None = None) -> tuple[float, float] | None:
    """Return the 95 % interval of a figure's resamples (R,), leaving out NaN; ``otherwise`` where it has no width.

    Without any that is known it is ``otherwise``, too.
    """
    known = draws[~np.isnan(draws)]
    if not len(known):
        return otherwise
    low, high = np.quantile(known, _ENDS)
    return (float(low), float(high)) if high - low > _ROUNDING * max(abs(high), 1.0) else otherwise


def as_json(interval: tuple[float, float] | None) -> list[float] | None:
    """Return an interval as JSON holds it."""
    return None if interval is None else list(interval)


def wilson_interval(share: float, images: int) -> tuple[float, float] | None:
    """Return Wilson's 95 % interval of a share of ``images``, which has a width for 0 and 1, too; None without any.

    It holds for other means over images of values from 0 to 1 as well, such as the share of each image's pointers that
    are right: no such values vary more than zeros and ones of the same mean, so that it is rather too wide.
    """
    if not images:
        return None
    scale = 2 * (images + _Z**2)
    centre = (2 * images * share + _Z**2) / scale
    reach = _Z / scale * math.sqrt(4 * images * share * (1 - share) + _Z**2)
    return 0.0 if share <= 0 else centre - reach, 1.0 if share >= 1 else centre + reach


def interval_of_mean(shares: Sequence[float] | np.ndarray, images: Sequence[int] | np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of a mean over shares, as of labels, each of so many images, at least one.

    By square and add: the ends of the mean are as far from it as deviations of independent shares would add up to, each
    the distance to the end of its Wilson interval (Newcombe 1998, Statistics in Medicine 17, p. 873).
    """
    return _square_and_add([(1, shares, images)])


def interval_of_gain(
    gained: Sequence[float] | np.ndarray, lost: Sequence[float] | np.ndarray, images: Sequence[int] | np.ndarray
) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean over shares gained less shares lost, each of so many images.

    By square and add, as `interval_of_mean`. Two that agree on all of the images need not agree on others, as a share
    of 0 has an interval, too. A single image says nothing of what is gained: None.
    """
    if sum(images) <= 1:
        return None
    return _square_and_add([(1, gained, images), (-1, lost, images)])


def _square_and_add(
    terms: Sequence[tuple[int, Sequence[float] | np.ndarray, Sequence[int] | np.ndarray]],
) -> tuple[float, float]:
    """Return the interval of the sum of means, each taken with its sign, over shares of so many images."""
    total = below = above = 0.0
    for sign, shares, images in terms:
        for share, n in zip(shares, images, strict=True):
            ends = wilson_interval(float(share), int(n))
            assert ends is not None  # each share is of an image at least
            down, up = sorted(sign * (end - float(share)) for end in ends)
            total, below, above = total + sign * float(share), below + down**2, above + up**2
    parts = len(terms[0][1])
    return (total - math.sqrt(below)) / parts, (total + math.sqrt(above)) / parts
