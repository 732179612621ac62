"""Count accuracy, as in Table 1 of the paper: per label, and its mean over labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pc_engine.bench.accuracy.resampling import (
    as_json,
    interval_of_gain,
    interval_of_mean,
    mean_over,
    percentile_interval,
    resampled_sums,
    share_of,
    wilson_interval,
)
from pc_engine.errors import DataError
from pc_engine.fitted.counter import label_indices

#: Table 1 of the paper, on the test set of SOS, in per cent; None where it gives no figure.
PUBLISHED = {
    "Chance": (28, 48, 19, 12, 7, 23),
    "SalCount": (None, 55, 21, 16, 11, None),
    "Zhang et al.": (93, 90, 51, 48, 65, 69),
    "C2P (paper)": (89, 83, 59, 50, 72, 71),
    "P2C (paper)": (52, 75, 35, 42, 44, 50),
}


@dataclass(frozen=True)
class CountAccuracy:
    """Count accuracy of one mode on one data set.

    Attributes
    ----------
    labels
        The count labels.
    confusion
        (L, L) images by true label (row) and predicted label (column).
    mean_absolute_error
        Mean of the absolute difference of the counts, with an open-ended label's counts as they are.
    intervals
        95 % bootstrap intervals of the accuracy, by label and for ``"mean"`` and ``"overall"``. Where resamples are all
        alike, as where all images are right, they are Wilson's, and for the mean `interval_of_mean` of these.
    error_interval
        That of the mean absolute error; None where all errors are alike: others have no bound that one could name.
    """

    labels: tuple[str, ...]
    confusion: np.ndarray
    mean_absolute_error: float
    intervals: dict[str, tuple[float, float]]
    error_interval: tuple[float, float] | None

    @property
    def n(self) -> int:
        """Number of images."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> dict[str, float]:
        """Accuracy by label that occurs, ``"mean"`` over those labels, and ``"overall"`` over images."""
        return _accuracy(self.confusion, self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {
            "n": self.n,
            "count_accuracy": self.accuracy,
            "count_accuracy_interval": {name: list(interval) for name, interval in self.intervals.items()},
            "mean_absolute_error": self.mean_absolute_error,
            "mean_absolute_error_interval": as_json(self.error_interval),
            "confusion": {"labels": list(self.labels), "rows_true": self.confusion.tolist()},
        }


def count_accuracy(true: Sequence[int], predicted: Sequence[int], labels: Sequence[str], seed: int) -> CountAccuracy:
    """Compare predicted counts with the true ones, both (n,) integers.

    Raises
    ------
    DataError
        If there is no image.
    """
    labels = tuple(labels)
    _require_images(true)
    errors = np.array([abs(a - b) for a, b in zip(true, predicted, strict=True)], np.float64)
    truth, found = label_indices(true, labels), label_indices(predicted, labels)
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(confusion, (truth, found), 1)
    of_label = truth[:, None] == np.arange(len(labels))
    right = of_label & (truth == found)[:, None]
    sums = resampled_sums(np.column_stack([right, of_label, errors]), seed)
    intervals = label_intervals(right, of_label, labels, sums[:, :-1])
    known = {name: interval for name, interval in intervals.items() if interval is not None}
    error_interval = percentile_interval(sums[:, -1] / len(truth))
    return CountAccuracy(labels, confusion, float(errors.mean()), known, error_interval)


def accuracy_gain(
    true: Sequence[int],
    ours: Sequence[int],
    theirs: Sequence[int],
    labels: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """Return how much better one counts than another, image by image, JSON-ready.

    ``"mean"`` and ``"overall"`` are the differences of these accuracies, each with its 95 % interval. Both count the
    same resampled images, so that what makes an image hard for both does not widen it. Where resamples are all alike,
    as where both are right about the same images, it is `interval_of_gain`; of a single image there is none.

    Raises
    ------
    DataError
        If there is no image.
    """
    labels = tuple(labels)
    _require_images(true)
    truth, first, second = (label_indices(counts, labels) for counts in (true, ours, theirs))
    of_label = truth[:, None] == np.arange(len(labels))
    gained = (first == truth).astype(np.float64) - (second == truth)
    columns = np.column_stack([of_label * gained[:, None], of_label])
    present = np.flatnonzero(of_label.any(axis=0))

    def differences(sums: np.ndarray) -> dict[str, np.ndarray]:
        change, images = np.split(sums, 2, axis=1)
        return {"mean": mean_over(share_of(change, images), present), "overall": change.sum(axis=1) / len(true)}

    draws = differences(resampled_sums(columns, seed))
    images = of_label.sum(axis=0)[present]
    better, worse = ((of_label & (gained == sign)[:, None]).sum(axis=0)[present] for sign in (1, -1))
    n = len(true)
    otherwise = {
        "mean": interval_of_gain(better / images, worse / images, images),
        "overall": interval_of_gain([better.sum() / n], [worse.sum() / n], [n]),
    }
    return {
        name: {"gain": float(found[0]), "interval": as_json(percentile_interval(draws[name], otherwise[name]))}
        for name, found in differences(columns.sum(axis=0)[None]).items()
    }


def chance_accuracy(true: Sequence[int], labels: Sequence[str], seed: int) -> dict[str, Any]:
    """Return the accuracy to expect from guessing labels as often as they occur, JSON-ready as `CountAccuracy`.

    An image of a label that a share p of the images has is guessed right with probability p. So the mean over labels is
    one over their number, whatever the images are, and its interval has no width; and overall it is the sum of the
    squares, without an interval where all images have one label.

    Raises
    ------
    DataError
        If there is no image.
    """
    labels = tuple(labels)
    _require_images(true)
    is_label = (label_indices(true, labels)[:, None] == np.arange(len(labels))).astype(np.float64)
    draws = np.concatenate([is_label.mean(axis=0)[None], resampled_sums(is_label, seed) / len(true)])
    present = np.flatnonzero(draws[0])
    found = {labels[i]: draws[:, i] for i in present}
    found["mean"] = mean_over(draws, present)
    found["overall"] = (draws**2).sum(axis=1)
    otherwise = {labels[i]: wilson_interval(float(draws[0, i]), len(true)) for i in present}
    otherwise["mean"] = (1 / len(present),) * 2
    return {
        "n": len(true),
        "count_accuracy": {name: float(values[0]) for name, values in found.items()},
        "count_accuracy_interval": {
            name: as_json(percentile_interval(values[1:], otherwise.get(name))) for name, values in found.items()
        },
    }


def _accuracy(confusion: np.ndarray, labels: tuple[str, ...]) -> dict[str, float]:
    right, images = np.diagonal(confusion), confusion.sum(axis=1)
    shares = share_of(right, images)
    accuracy = {label: float(shares[i]) for i, label in enumerate(labels) if images[i]}
    mean = mean_over(shares, np.flatnonzero(images))
    return {**accuracy, "mean": float(mean), "overall": float(right.sum() / images.sum())}


def _require_images(true: Sequence[int]) -> None:
    if not len(true):
        raise DataError("There is no image with a known count to evaluate on.")


def label_intervals(
    hits: np.ndarray, of_label: np.ndarray, labels: Sequence[str], sums: np.ndarray
) -> dict[str, tuple[float, float] | None]:
    """Return the 95 % intervals of the share of ``hits``, by label that occurs, of its mean over labels and overall.

    Parameters
    ----------
    hits, of_label
        Which images are such, and which are of the label at all, each in its label's column, (n, L) bool.
    labels
        The L labels.
    sums
        `resampled_sums` of both, side by side, (R, 2 L).
    """
    n, sizes = len(hits), of_label.sum(axis=0)
    present = np.flatnonzero(sizes).tolist()
    n_hit, n_images = np.split(sums, 2, axis=1)
    draws, shares = share_of(n_hit, n_images), share_of(hits.sum(axis=0), sizes)
    found = {
        labels[i]: percentile_interval(draws[:, i], wilson_interval(float(shares[i]), int(sizes[i]))) for i in present
    }
    of_mean = interval_of_mean(shares[present], sizes[present])
    found["mean"] = percentile_interval(mean_over(draws, present), of_mean)
    found["overall"] = percentile_interval(n_hit.sum(axis=1) / n, wilson_interval(float(hits.sum() / n), n))
    return found
