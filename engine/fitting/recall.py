"""Mean recall over labels, by which fits are chosen, and how sure a difference of it is."""

from __future__ import annotations

import math

import numpy as np

#: A label of fewer images than this takes part in proportion, where fits are compared: it says little, and at random.
LEAST_IMAGES = 20


def mean_recall(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean over the labels of the share of a label's images that got it; both (n,) label indices."""
    return float(np.mean([(predicted[truth == label] == label).mean() for label in np.unique(truth)]))


def recall_gain(truth: np.ndarray, predicted: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return by how much the recall of ``predicted`` exceeds that of ``other``, and the gain's standard error.

    It is the mean over the labels, of which one with fewer images than `LEAST_IMAGES` weighs less.

    Parameters
    ----------
    truth, predicted, other
        Label indices of the same images, (n,).

    Notes
    -----
    The images are compared in pairs. A label of few images, where nothing or everything differs by chance, counts as
    if one image more had changed.
    """
    gains, variances, weights = [], [], []
    for label in np.unique(truth):
        own = truth == label
        difference = (predicted[own] == label).astype(float) - (other[own] == label)
        n = len(difference)
        gains.append(difference.mean())
        variances.append((difference.var() + 1 / n) / n)
        weights.append(min(n, LEAST_IMAGES))
    shares = np.array(weights) / sum(weights)
    return float(shares @ gains), math.sqrt(float(shares**2 @ variances))
