"""How far numbers of clusters are to be believed beside a count SVM, from images whose count is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pc_engine.fitted.cluster_likelihood import PEAK_LIMITS, ClusterLikelihood, PeakSettings
from pc_engine.fitted.counter import last_count
from pc_engine.fitting.aim import SURE_ERRORS, Aim
from pc_engine.fitting.class_heat import ClassHeat
from pc_engine.fitting.folds import Split
from pc_engine.kernels.density_peaks import LEAST_DENSITY
from pc_engine.modes.p2c import heat_clusters
from pc_engine.modes.p2c_settings import P2CSettings

# Weights of the clusters beside log-probabilities of labels, and beside decision values, which vary less, unless
# images say otherwise. Both witnesses look at the same maps, so that the second one is worth less than one that knows
# nothing of the first (1, beside log-probabilities).
_WEIGHT, _WEIGHT_BESIDE_DECISIONS = 0.5, 0.2
_WEIGHTS = (0.0, 0.05, 0.1, _WEIGHT_BESIDE_DECISIONS, 0.3, _WEIGHT, 1.0, 2.0)
# What counts as a cluster: the model's own cut-off, density and distance, times these. A SVM and a clustering that
# errs otherwise than it does are worth more together than one that is right more often by itself.
_PEAKS = ((1.0, 1.0, 1.0), (1.0, 0.6, 0.75), (1.4, 1.0, 0.75), (2.0, 0.7, 0.5))
# Images clustered at once.
_BATCH = 256


@dataclass(frozen=True, eq=False)
class FittedLikelihood:
    """A likelihood, its weight, and the scores (n, L) of both witnesses, each image held out."""

    likelihood: ClusterLikelihood
    weight: float
    scores: np.ndarray


def fit_cluster_likelihood(
    scores: np.ndarray,
    truth: np.ndarray,
    labels: Sequence[str],
    heat: ClassHeat,
    splits: Sequence[Split],
    *,
    coupled: bool = True,
    aim: Aim = Aim.MEAN,
) -> FittedLikelihood | None:
    """Count how often each label shows each number of clusters, and find out how far that is to be believed.

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
    coupled
        Whether the scores are log-probabilities, or else decision values. Unless it is better without, clusters are
        weighed in: those of p2c, with half the weight of log-probabilities, a fifth beside decision values, unless
        other ones or another weight are better.
    aim
        What is better.

    Returns
    -------
    The likelihood; None where clusters are not weighed in, or no image would get another label for them.

    Notes
    -----
    Better is what gains two standard errors of the gain on held-out images. A few hundred images cannot show less,
    while on 16 of 18 sets of 60 to 2,000 images the clusters were worth something, 2.6 points on average
    (`bench/results/accuracy.md`): it is for the images to show that they are not.
    """
    rows = last_count(labels) + 2
    alone = scores.argmax(axis=1)
    tables: list[tuple[PeakSettings, np.ndarray]] = []
    candidates: list[tuple[int, float, np.ndarray]] = []
    for factors in _PEAKS:
        peaks = _scaled(heat.settings, factors)
        clusters = np.minimum(count_clusters(heat, peaks), rows - 1)
        likelihood = np.empty_like(scores)
        for others, held_out in splits:
            table = _log_likelihood(clusters[others], truth[others], (rows, len(labels)))
            likelihood[held_out] = table[clusters[held_out]]
        candidates += [(len(tables), weight, scores + weight * likelihood) for weight in _WEIGHTS]
        tables.append((peaks, _log_likelihood(clusters, truth, (rows, len(labels)))))
    chosen = candidates[_WEIGHTS.index(_WEIGHT if coupled else _WEIGHT_BESIDE_DECISIONS)]
    usual, best = chosen[2].argmax(axis=1), 0.0
    for candidate in candidates:
        gain, error = aim.gain(truth, candidate[2].argmax(axis=1), usual)
        if gain - SURE_ERRORS * error > best:
            chosen, best = candidate, gain - SURE_ERRORS * error
    place, weight, together = chosen
    if np.array_equal(together.argmax(axis=1), alone):
        return None
    peaks, table = tables[place]
    return FittedLikelihood(
        ClusterLikelihood((weight * table).astype(np.float32), peaks, heat.signatures), weight, together
    )


def count_clusters(heat: ClassHeat, peaks: PeakSettings | None) -> np.ndarray:
    """Return the number of clusters of each image, (n,) int64; by the model's own settings for ``peaks`` None."""
    settings = heat.settings if peaks is None else replace(heat.settings, **vars(peaks))
    starts = range(0, len(heat.maps), _BATCH)
    found = [heat_clusters(heat.maps[start : start + _BATCH], settings).count for start in starts]
    return np.concatenate(found)


def _scaled(settings: P2CSettings, factors: tuple[float, ...]) -> PeakSettings:
    """Return the model's cut-off, density and distance times these factors, and its prominence.

    With a prominence, what the density has above the least one is what grows by its factor: it has to stay above that.
    """
    from_density = LEAST_DENSITY if settings.prominence else 0.0
    lowest = {"cutoff": 0.0, "min_density": from_density, "min_distance": 0.0}
    scaled = {
        name: min(low + (getattr(settings, name) - low) * factor, PEAK_LIMITS[name][1])
        for (name, low), factor in zip(lowest.items(), factors, strict=True)
    }
    return PeakSettings(**scaled, prominence=settings.prominence)


def _log_likelihood(clusters: np.ndarray, truth: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the logarithm of P(clusters | label), (K, L), by counting; each number was seen once before (Laplace)."""
    seen = np.ones(shape)
    np.add.at(seen, (clusters, truth), 1)
    logarithms: np.ndarray = np.log(seen / seen.sum(axis=0))
    return logarithms
