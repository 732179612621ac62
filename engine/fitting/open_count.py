"""Learn to count on where the label only says "4 or more", from images whose count is known.

Ridge regression of ``log(count - floor + 1/2)`` on the features that the count SVM has already: among crowds the
features tell about the number, too, where the clusters of a coarse heatmap are soon too few. Images that only seem to
be under the label take part as those of its lower end, as they will be asked about, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pc_engine.fitted.open_count import HALF, MOST, OpenCount, counted_on
from pc_engine.fitting.folds import Split
from pc_engine.fitting.recall import LEAST_IMAGES
from pc_engine.fitting.reduction import ReducedRows

# Strengths of the regularisation, on features of unit length.
_STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)
# Beyond what was seen, but not as far as an exponential may lead.
_MOST_TIMES = 2


@dataclass(frozen=True)
class FittedOpenCount:
    """A model that was found to help.

    Attributes
    ----------
    model
        The model.
    error, error_before
        Mean absolute error of the count on the images asked about, each held out, and of what stood in its place.
    """

    model: OpenCount
    error: float
    error_before: float


def fit_open_count(
    reduced: ReducedRows,
    counts: np.ndarray,
    floor: int,
    asked: np.ndarray,
    before: np.ndarray,
    splits: Sequence[Split],
) -> FittedOpenCount | None:
    """Fit a count beyond the last label, and find out whether that helps.

    Parameters
    ----------
    reduced
        Rows of n images, and the way back to their features.
    counts
        True counts, (n,).
    floor
        Lower end of the open-ended label.
    asked
        Which images get this label, (n,) bool, from an SVM that did not see them.
    before
        What is counted under this label otherwise, (n,).
    splits
        Folds, of which each image is in one.

    Returns
    -------
    The best of several strengths by the mean absolute error on the images asked about, each held out, where that is
    less than that of ``before`` by more than the difference's standard error; None otherwise, or with fewer such
    images, or images under the label, than `LEAST_IMAGES`.
    """
    is_open = counts >= floor
    if min(is_open.sum(), asked.sum()) < LEAST_IMAGES:
        return None
    taught, most = is_open | asked, min(int(counts.max()) * _MOST_TIMES, MOST)
    logarithm = np.log(np.maximum(counts, floor) - floor + HALF)
    error_before = np.abs(before - counts)[asked]
    found, best = None, math.inf
    for strength in _STRENGTHS:
        told = np.zeros(len(counts))
        for others, held_out in splits:
            seen = others[taught[others]]
            weights, bias = _ridge(reduced.rows[seen], logarithm[seen], strength)
            told[held_out] = reduced.rows[held_out] @ weights + bias
        error = np.abs(counted_on(told, floor, most) - counts)[asked]
        gain = error_before - error
        if error.mean() < best and gain.mean() > gain.std() / math.sqrt(len(gain)):
            best, found = error.mean(), (strength, error)
    if found is None:
        return None
    strength, error = found
    weights, bias = _ridge(reduced.rows[taught], logarithm[taught], strength)
    expanded = {name: each.astype(np.float32) for name, each in reduced.expand(weights[None]).items()}
    model = OpenCount(expanded, float(bias), floor, most)
    return FittedOpenCount(model, float(error.mean()), float(error_before.mean()))


def _ridge(rows: np.ndarray, values: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    """Return weights (r,) and bias of the ridge regression of ``values`` (n,) on rows (n, r)."""
    middle, mean = rows.mean(axis=0), float(values.mean())
    centred = rows - middle
    n, r = centred.shape
    if n <= r:
        weights = centred.T @ np.linalg.solve(centred @ centred.T + strength * np.eye(n), values - mean)
    else:
        weights = np.linalg.solve(centred.T @ centred + strength * np.eye(r), centred.T @ (values - mean))
    return weights, mean - float(middle @ weights)
