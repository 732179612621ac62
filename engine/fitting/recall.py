"""Accuracies by which fits are chosen, and how sure a difference of them is."""

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
        gain, variance = _paired(truth[own], predicted[own], other[own])
        gains.append(gain)
        variances.append(variance)
        weights.append(min(int(own.sum()), LEAST_IMAGES))
    shares = np.array(weights) / sum(weights)
    return float(shares @ gains), math.sqrt(float(shares**2 @ variances))


def overall_gain(truth: np.ndarray, predicted: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return by how much the share of images that ``predicted`` has right exceeds that of ``other``, and its error.

    Parameters and the comparison are those of `recall_gain`.
    """
    gain, variance = _paired(truth, predicted, other)
    return gain, math.sqrt(variance)


def _paired(truth: np.ndarray, predicted: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return the mean difference of right answers, and its variance as if one image more had changed."""
    difference = (predicted == truth).astype(float) - (other == truth)
    n = len(difference)
    return float(difference.mean()), float((difference.var() + 1 / n) / n)
