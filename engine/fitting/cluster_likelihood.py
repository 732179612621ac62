"""How far numbers of clusters are to be believed beside a count SVM, from images whose count is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pc_engine.cluster_likelihood import PEAK_LIMITS, ClusterLikelihood, PeakSettings
from pc_engine.counter import label_counts
from pc_engine.fitting.class_heat import ClassHeat
from pc_engine.fitting.folds import Split
from pc_engine.fitting.recall import recall_gain
from pc_engine.modes.p2c import P2CSettings, cluster_pointers

# What counts as a cluster: the model's own cut-off, density and distance, times these. A SVM and a clustering that
# errs otherwise than it does are worth more together than one that is right more often by itself.
_PEAKS = ((1.0, 1.0, 1.0), (1.0, 0.6, 0.75), (1.4, 1.0, 0.75), (2.0, 0.7, 0.5))
# Weights of the witness: small ones beside an SVM's decision values, large ones beside log-probabilities.
_WEIGHTS = (0.05, 0.1, 0.2, 0.5, 1.0)
# Of so many candidates the best one gains something by chance: by how many standard errors it has to.
_ERRORS = 2.0
# Images clustered at once.
_BATCH = 256


@dataclass(frozen=True, eq=False)
class FittedLikelihood:
    """A likelihood that was found to help, its weight, and the scores (n, L) of both witnesses, each image held out."""

    likelihood: ClusterLikelihood
    weight: float
    scores: np.ndarray


def fit_cluster_likelihood(
    scores: np.ndarray, truth: np.ndarray, labels: Sequence[str], heat: ClassHeat, splits: Sequence[Split]
) -> FittedLikelihood | None:
    """Count how often each label shows each number of clusters, and find out whether that helps.

    Parameters
    ----------
    scores
        Of SVMs that did not see the image, (n, L).
    truth
        Label index of each image, (n,).
    labels
        The count labels.
    heat
        What the model sees of the images' classes.
    splits
        Folds, of which each image is in one.

    Returns
    -------
    The best of several settings and weights, by the mean recall on held-out images, where it gains more than two
    standard errors of that gain; else None.
    """
    alone = scores.argmax(axis=1)
    rows = int(label_counts(labels)[-1]) + 2
    found, best = None, 0.0
    for factors in _PEAKS:
        peaks = _scaled(heat.settings, factors)
        clusters = np.minimum(count_clusters(heat, peaks), rows - 1)
        likelihood = np.empty_like(scores)
        for others, held_out in splits:
            table = _log_likelihood(clusters[others], truth[others], (rows, len(labels)))
            likelihood[held_out] = table[clusters[held_out]]
        for weight in _WEIGHTS:
            together = scores + weight * likelihood
            gain, error = recall_gain(truth, together.argmax(axis=1), alone)
            if gain - _ERRORS * error > best:
                best = gain - _ERRORS * error
                table = weight * _log_likelihood(clusters, truth, (rows, len(labels)))
                found = FittedLikelihood(
                    ClusterLikelihood(table.astype(np.float32), peaks, heat.signatures), weight, together
                )
    return found


def count_clusters(heat: ClassHeat, peaks: PeakSettings | None) -> np.ndarray:
    """Return the number of clusters of each image, (n,) int64; by the model's own settings for ``peaks`` None."""
    settings = heat.settings if peaks is None else replace(heat.settings, **vars(peaks))
    starts = range(0, len(heat.maps), _BATCH)
    found = [cluster_pointers(heat.maps[start : start + _BATCH], settings)[0] for start in starts]
    return np.concatenate(found)


def _scaled(settings: P2CSettings, factors: tuple[float, ...]) -> PeakSettings:
    values = zip(PEAK_LIMITS.items(), factors, strict=True)
    return PeakSettings(**{name: min(getattr(settings, name) * factor, high) for (name, (_, high)), factor in values})


def _log_likelihood(clusters: np.ndarray, truth: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the logarithm of P(clusters | label), (K, L), by counting; each number was seen once before (Laplace)."""
    seen = np.ones(shape)
    np.add.at(seen, (clusters, truth), 1)
    logarithms: np.ndarray = np.log(seen / seen.sum(axis=0))
    return logarithms
