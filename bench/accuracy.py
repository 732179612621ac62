"""Count accuracy, as in Table 1 of the paper: per label, and its mean over labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pc_engine.counter import DEFAULT_LABELS, count_label
from pc_engine.errors import DataError

#: Table 1 of the paper, on the test set of SOS, in per cent; None where it gives no figure.
PUBLISHED = {
    "Chance": (28, 48, 19, 12, 7, 23),
    "SalCount": (None, 55, 21, 16, 11, None),
    "Zhang et al.": (93, 90, 51, 48, 65, 69),
    "C2P (paper)": (89, 83, 59, 50, 72, 71),
    "P2C (paper)": (52, 75, 35, 42, 44, 50),
}

_RESAMPLES = 2000


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
        95 % bootstrap intervals of the accuracy, by label and for ``"mean"`` and ``"overall"``.
    """

    labels: tuple[str, ...]
    confusion: np.ndarray
    mean_absolute_error: float
    intervals: dict[str, tuple[float, float]]

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
            "confusion": {"labels": list(self.labels), "rows_true": self.confusion.tolist()},
        }


def count_accuracy(
    true: Sequence[int], predicted: Sequence[int], labels: Sequence[str] = DEFAULT_LABELS, seed: int = 0
) -> CountAccuracy:
    """Compare predicted counts with the true ones, both (n,) integers.

    Raises
    ------
    DataError
        If there is no image.
    """
    labels = tuple(labels)
    if not len(true):
        raise DataError("There is no image with a known count to evaluate on.")
    index = {label: i for i, label in enumerate(labels)}
    pairs = np.array(
        [(index[count_label(a, labels)], index[count_label(b, labels)]) for a, b in zip(true, predicted, strict=True)]
    )
    error = float(np.abs(np.asarray(true) - np.asarray(predicted)).mean())
    confusion = _confusion(pairs, len(labels))
    return CountAccuracy(labels, confusion, error, _intervals(pairs, labels, seed))


def _confusion(pairs: np.ndarray, n_labels: int) -> np.ndarray:
    return np.bincount(pairs[:, 0] * n_labels + pairs[:, 1], minlength=n_labels**2).reshape(n_labels, n_labels)


def _accuracy(confusion: np.ndarray, labels: tuple[str, ...]) -> dict[str, float]:
    per_label = {
        label: row[i] / row.sum() for i, (label, row) in enumerate(zip(labels, confusion, strict=True)) if row.sum()
    }
    accuracy = {label: float(value) for label, value in per_label.items()}
    accuracy["mean"] = float(np.mean(list(per_label.values())))
    accuracy["overall"] = float(np.trace(confusion) / confusion.sum())
    return accuracy


def _intervals(pairs: np.ndarray, labels: tuple[str, ...], seed: int) -> dict[str, tuple[float, float]]:
    rng = np.random.default_rng(seed)
    draws: dict[str, list[float]] = {}
    for _ in range(_RESAMPLES):
        sample = pairs[rng.integers(len(pairs), size=len(pairs))]
        for name, value in _accuracy(_confusion(sample, len(labels)), labels).items():
            draws.setdefault(name, []).append(value)
    return {name: (float(low), float(high)) for name, values in draws.items() for low, high in [_middle(values)]}


def _middle(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return low, high
