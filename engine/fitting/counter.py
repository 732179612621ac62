"""Fit the count SVM (paper 3.1) with cross-validated regularisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import StratifiedKFold

from pc_engine.counter import DEFAULT_LABELS, CountSVM, count_label, label_counts
from pc_engine.errors import DataError
from pc_engine.fitting.linear_svm import fit_one_vs_rest
from pc_engine.fitting.reduction import reduce_features

#: Values of the SVM's C that cross-validation chooses from.
DEFAULT_C_GRID = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class CounterReport:
    """What cross-validation says about a counter: every image judged by an SVM that did not see it.

    Attributes
    ----------
    labels
        The count labels.
    n
        Number of images.
    c
        The chosen C.
    folds
        Number of folds used.
    confusion
        Images by true label (row) and predicted label (column), summed over the folds, at the chosen C.
    grid
        C to (mean, standard deviation) over the folds of the mean recall over labels.
    """

    labels: tuple[str, ...]
    n: int
    c: float
    folds: int
    confusion: tuple[tuple[int, ...], ...]
    grid: Mapping[float, tuple[float, float]]

    @property
    def images(self) -> dict[str, int]:
        """Number of images by true label."""
        return {label: sum(row) for label, row in zip(self.labels, self.confusion, strict=True)}

    @property
    def recall(self) -> dict[str, float]:
        """Share of a label's images that got this label: the accuracy per label of the paper's Table 1."""
        return {
            label: row[i] / sum(row) for i, (label, row) in enumerate(zip(self.labels, self.confusion, strict=True))
        }

    @property
    def precision(self) -> dict[str, float | None]:
        """Share of the images given a label that are of this label; None where no image was given it."""
        given = [sum(column) for column in zip(*self.confusion, strict=True)]
        return {label: self.confusion[i][i] / given[i] if given[i] else None for i, label in enumerate(self.labels)}

    @property
    def mean_accuracy(self) -> float:
        """Mean of the recall over labels: the last column of the paper's Table 1."""
        return float(np.mean(list(self.recall.values())))

    @property
    def overall_accuracy(self) -> float:
        """Share of all images with the right label."""
        return sum(row[i] for i, row in enumerate(self.confusion)) / self.n

    @property
    def cv_mean(self) -> float:
        """Mean over the folds of the mean recall over labels, at the chosen C."""
        return self.grid[self.c][0]

    @property
    def cv_std(self) -> float:
        """Standard deviation that belongs to :attr:`cv_mean`."""
        return self.grid[self.c][1]

    def to_dict(self) -> dict[str, object]:
        """Return the report as JSON values; ``count_accuracy`` has the form of ``pc-engine evaluate``."""
        return {
            "n": self.n,
            "images": self.images,
            "c": self.c,
            "folds": self.folds,
            "count_accuracy": {**self.recall, "mean": self.mean_accuracy, "overall": self.overall_accuracy},
            "precision": self.precision,
            "cv_mean": self.cv_mean,
            "cv_std": self.cv_std,
            "confusion": [list(row) for row in self.confusion],
            "grid": [{"c": c, "mean": mean, "std": std} for c, (mean, std) in self.grid.items()],
        }


def fit_counter(
    features: Mapping[str, np.ndarray],
    counts: np.ndarray,
    *,
    labels: Sequence[str] = DEFAULT_LABELS,
    c_grid: Sequence[float] = DEFAULT_C_GRID,
    folds: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[CountSVM, CounterReport]:
    """Fit a linear one-vs-rest SVM that tells the count label of an image from its features (paper 3.1).

    Parameters
    ----------
    features
        Tap name to rows, (n, D_tap) float32, raw or already L2-normalised: each row is normalised here (normalising
        twice changes nothing), as :meth:`CountSVM.scores` does. The order of the taps is the order of the features.
    counts
        True number of objects of each image, (n,) integers. A count above an open-ended label ("4+") has that label.
    labels
        The count labels; each needs at least 2 images.
    c_grid
        Values of C to choose from, by the mean recall over labels in cross-validation; the smaller of equals wins.
    folds
        Stratified folds. A label with fewer images lowers the number of folds to its number of images.
    seed
        Of the fold assignment and the solver's order: the same input gives the same SVM.
    progress
        Called as ``progress(done, total)`` after every fit.

    Returns
    -------
    tuple
        The SVM fitted on all images with the chosen C, and the report of the cross-validation.

    Raises
    ------
    DataError
        If the rows do not fit the counts, hold values that are not finite, a label has fewer than 2 images, or a
        count has no label.

    Notes
    -----
    scikit-learn's ``LinearSVC`` (squared hinge, classes weighted by the inverse of their share) solves a reduced
    problem of the same inner products: with more features than images, one of at most n columns (see
    :mod:`pc_engine.fitting.reduction`). No copy of the features is made. As always in LIBLINEAR the intercept is
    regularised like a weight.

    The report's figures are taken at the C they helped to choose, so they flatter by the little that a choice among
    a handful of values can; ``pc-engine evaluate`` on other images is the unbiased figure.
    """
    labels = tuple(labels)
    label_counts(labels)
    truth = _label_indices(features, counts, labels)
    if not c_grid or min(c_grid) <= 0:
        raise DataError(f"The values of C to choose from are {list(c_grid)}: give at least one, all above 0.")
    candidates = sorted({float(c) for c in c_grid})
    folds = _usable_folds(truth, labels, folds)
    reduced = reduce_features(features)
    total = len(candidates) * folds + 1
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(truth, truth))
    grid: dict[float, tuple[float, float]] = {}
    confusions: dict[float, np.ndarray] = {}
    done = 0
    for c in candidates:
        confusion = np.zeros((folds, len(labels), len(labels)), np.int64)
        for fold, (train, held_out) in enumerate(splits):
            weights, bias = fit_one_vs_rest(reduced.rows[train], truth[train], c=c, seed=seed)
            predicted = np.argmax(reduced.rows[held_out] @ weights.T + bias, axis=1)
            np.add.at(confusion[fold], (truth[held_out], predicted), 1)
            done += 1
            if progress is not None:
                progress(done, total)
        recall = np.diagonal(confusion, axis1=1, axis2=2) / confusion.sum(axis=2)
        grid[c] = (float(recall.mean(axis=1).mean()), float(recall.mean(axis=1).std()))
        confusions[c] = confusion.sum(axis=0)
    best = max(grid, key=lambda c: grid[c][0])
    weights, bias = fit_one_vs_rest(reduced.rows, truth, c=best, seed=seed)
    counter = CountSVM(
        features=tuple(features),
        labels=labels,
        weights={name: matrix.astype(np.float32) for name, matrix in reduced.expand(weights).items()},
        bias=bias.astype(np.float32),
    )
    if progress is not None:
        progress(total, total)
    confusion_rows = tuple(tuple(int(value) for value in row) for row in confusions[best])
    return counter, CounterReport(labels, len(truth), best, folds, confusion_rows, grid)


def _label_indices(features: Mapping[str, np.ndarray], counts: np.ndarray, labels: tuple[str, ...]) -> np.ndarray:
    counts = np.asarray(counts)
    if not features or counts.ndim != 1 or not np.issubdtype(counts.dtype, np.integer):
        raise DataError(
            f"A counter is fitted on at least one tap and one whole number per image, but there are {len(features)} "
            f"taps and counts of shape {counts.shape}, type {counts.dtype}."
        )
    for name, rows in features.items():
        if rows.ndim != 2 or len(rows) != len(counts):
            raise DataError(
                f"The features '{name}' have shape {rows.shape}, expected one row for each of the {len(counts)} counts."
            )
    values, inverse = np.unique(counts, return_inverse=True)
    index = np.array([labels.index(count_label(int(value), labels)) for value in values], dtype=np.int64)
    return index[inverse]


def _usable_folds(truth: np.ndarray, labels: tuple[str, ...], folds: int) -> int:
    if folds < 2:
        raise DataError(f"Cross-validation with {folds} fold(s) is not possible: ask for at least 2.")
    images = np.bincount(truth, minlength=len(labels))
    scarce = [f"'{label}' ({n})" for label, n in zip(labels, images, strict=True) if n < 2]
    if scarce:
        raise DataError(
            f"The count label(s) {', '.join(scarce)} have fewer than 2 images among the {len(truth)}: add images, or "
            f"leave the label(s) out."
        )
    return min(folds, int(images.min()))
