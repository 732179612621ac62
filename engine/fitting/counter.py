"""Fit the count SVM (paper 3.1) with cross-validated regularisation, and what mode combined weighs in beside it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pc_engine.counter import DEFAULT_LABELS, CountSVM, count_label, label_counts
from pc_engine.errors import DataError
from pc_engine.fitting.class_heat import ClassHeat
from pc_engine.fitting.cluster_likelihood import count_clusters, fit_cluster_likelihood
from pc_engine.fitting.folds import Split, stratified_folds
from pc_engine.fitting.linear_svm import fit_one_vs_rest
from pc_engine.fitting.open_count import fit_open_count
from pc_engine.fitting.recall import mean_recall, recall_gain
from pc_engine.fitting.recoupling import fit_recoupling, held_out_coupling
from pc_engine.fitting.reduction import reduce_features

#: Values of the SVM's C that cross-validation chooses from.
DEFAULT_C_GRID = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class CombinedReport:
    """What cross-validation says about the SVM and the clustering together.

    Attributes
    ----------
    weight
        Of the clusters' log-likelihood beside the SVM's scores.
    confusion
        As in `CounterReport`.
    """

    weight: float
    confusion: tuple[tuple[int, ...], ...]

    @property
    def mean_accuracy(self) -> float:
        """Mean of the recall over labels."""
        return float(np.mean(_recalls(self.confusion)))


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
        C to (mean, standard deviation) over the folds of the mean recall over labels, before any coupling.
    coupled
        Whether the labels' scores are coupled (see `pc_engine.fitting.recoupling`).
    combined
        How mode combined does on the same images; None where it counts as c2p does, but beyond the last label.
    beyond
        Mean absolute error of mode combined's count of the images that get the open-ended label, each held out, and
        what it would be by clusters; None where it is by these.
    """

    labels: tuple[str, ...]
    n: int
    c: float
    folds: int
    confusion: tuple[tuple[int, ...], ...]
    grid: Mapping[float, tuple[float, float]]
    coupled: bool = False
    combined: CombinedReport | None = None
    beyond: tuple[float, float] | None = None

    @property
    def images(self) -> dict[str, int]:
        """Number of images by true label."""
        return {label: sum(row) for label, row in zip(self.labels, self.confusion, strict=True)}

    @property
    def recall(self) -> dict[str, float]:
        """Share of a label's images that got this label: the accuracy per label of the paper's Table 1."""
        return dict(zip(self.labels, _recalls(self.confusion), strict=True))

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
    def only_answer(self) -> str | None:
        """The label most often given, where always giving it is as good by all that is sure; None where it is not."""
        confusion = np.array(self.confusion)
        truth, predicted = (np.repeat(index.ravel(), confusion.ravel()) for index in np.indices(confusion.shape))
        usual = int(confusion.sum(axis=0).argmax())
        gain, error = recall_gain(truth, predicted, np.full(len(truth), usual))
        return None if gain > error else self.labels[usual]

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
            "coupled": self.coupled,
            "combined": None
            if self.combined is None
            else {
                "weight": self.combined.weight,
                "mean": self.combined.mean_accuracy,
                "confusion": [list(row) for row in self.combined.confusion],
            },
            "beyond": None if self.beyond is None else {"error": self.beyond[0], "error_by_clusters": self.beyond[1]},
        }


def fit_counter(
    features: Mapping[str, np.ndarray],
    counts: np.ndarray,
    *,
    labels: Sequence[str] = DEFAULT_LABELS,
    c_grid: Sequence[float] = DEFAULT_C_GRID,
    folds: int = 5,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
    map_widths: Mapping[str, int] | None = None,
    couple: bool = True,
    heat: ClassHeat | None = None,
    weigh_clusters: bool = True,
    count_on: bool = True,
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
    groups
        Of each image, (n,): images of one group are in one fold, as far as each fold's others then show every label.
    map_widths
        Width of a map, by the names of those taps whose rows are maps: what they show is learnt for its mirror image,
        too (see :mod:`pc_engine.fitting.reduction`). None, or a tap left out, learns the rows as they are.
    couple
        Whether the labels' scores may be coupled, where that helps.
    heat
        What p2c sees of the images, from which mode combined is to learn how far clusters are to be believed; None
        leaves it the SVM alone.
    weigh_clusters, count_on
        Whether clusters may be weighed in there, and the number of objects under an open-ended label be learnt.
    progress
        Called as ``progress(done, total)`` after every fit.

    Returns
    -------
    tuple
        The SVM fitted on all images with the chosen C, and the report of the cross-validation.

    Raises
    ------
    DataError
        If the rows do not fit the counts, hold values that are not finite, or as `check_counts` does.

    Notes
    -----
    scikit-learn's ``LinearSVC`` (squared hinge, classes weighted by the inverse of their share) solves a reduced
    problem of the same inner products: with more features than images, one of at most n columns (see
    :mod:`pc_engine.fitting.reduction`). No copy of the features is made. As always in LIBLINEAR the intercept is
    regularised like a weight.

    What is fitted beside the SVM takes part only where held-out images gain by it in mean recall: the coupling of the
    labels' scores (`pc_engine.fitting.recoupling`) if that exceeds the gain's standard error, then the clusters
    (`pc_engine.fitting.cluster_likelihood`), of which many settings are tried, if it exceeds two. So does the number of
    objects under an open-ended label (`pc_engine.fitting.open_count`), where its error is less than that of clusters.

    The report's figures are taken at the C they helped to choose, so they flatter by the little that a choice among
    a handful of values can; ``pc-engine evaluate`` on other images is the unbiased figure.
    """
    labels = tuple(labels)
    truth = _label_indices(features, counts, labels)
    floor = int(label_counts(labels)[-1])
    if not c_grid or min(c_grid) <= 0:
        raise DataError(f"The values of C to choose from are {list(c_grid)}: give at least one, all above 0.")
    candidates = sorted({float(c) for c in c_grid})
    splits = _splits(truth, folds, seed, groups)
    reduced = reduce_features(features, map_widths)
    total = len(candidates) * len(splits) + 1
    grid: dict[float, tuple[float, float]] = {}
    held_out_scores: dict[float, np.ndarray] = {}
    for c in candidates:
        scores, recalls = np.empty((len(truth), len(labels))), []
        for others, held_out in splits:
            weights, bias = fit_one_vs_rest(reduced.rows[others], truth[others], c=c, seed=seed)
            scores[held_out] = reduced.rows[held_out] @ weights.T + bias
            recalls.append(mean_recall(truth[held_out], scores[held_out].argmax(axis=1)))
            if progress is not None:
                progress(len(grid) * len(splits) + len(recalls), total)
        grid[c] = (float(np.mean(recalls)), float(np.std(recalls)))
        held_out_scores[c] = scores
    best = max(grid, key=lambda c: grid[c][0])
    weights, bias = fit_one_vs_rest(reduced.rows, truth, c=best, seed=seed)
    scores = held_out_scores[best]
    coupled = held_out_coupling(scores, truth, splits) if couple else scores
    gain, error = recall_gain(truth, coupled.argmax(axis=1), scores.argmax(axis=1))
    couple = gain > error
    if couple:
        coupling = fit_recoupling(scores, truth)
        scores, weights, bias = coupled, coupling.matrix @ weights, coupling(bias)
    witness = None
    if weigh_clusters and heat is not None:
        witness = fit_cluster_likelihood(scores, truth, labels, heat, splits)
    beyond = None
    if count_on and heat is not None and labels[-1].endswith("+"):
        told, peaks = (scores, None) if witness is None else (witness.scores, witness.likelihood.peaks)
        asked = told.argmax(axis=1) == len(labels) - 1
        beyond = fit_open_count(reduced, counts, floor, asked, np.maximum(count_clusters(heat, peaks), floor), splits)
    counter = CountSVM(
        features=tuple(features),
        labels=labels,
        weights={name: matrix.astype(np.float32) for name, matrix in reduced.expand(weights).items()},
        bias=bias.astype(np.float32),
        clusters=None if witness is None else witness.likelihood,
        beyond=None if beyond is None else beyond.model,
    )
    if progress is not None:
        progress(total, total)
    combined = None if witness is None else CombinedReport(witness.weight, _confusion(truth, witness.scores))
    report = CounterReport(
        *(labels, len(truth), best, len(splits), _confusion(truth, scores), grid, couple, combined),
        beyond=None if beyond is None else (beyond.error, beyond.error_before),
    )
    return counter, report


def check_counts(counts: Sequence[int] | np.ndarray, labels: Sequence[str]) -> None:
    """Find out before any work whether a counter can be fitted on images with these counts.

    Raises
    ------
    DataError
        If there is no image, all have one label, a label has fewer than 2 of them, or a count has no label.
    """
    values, n_images = np.unique(counts, return_counts=True)
    if not len(values):
        raise DataError("None of the images has a count: give a CSV with the columns path,count, or labels.json.")
    if len(values) == 1 or len(labels) == 1:
        shown = str(values[0]) if len(values) == 1 else labels[0]
        raise DataError(
            f"All {n_images.sum()} images show {shown} object{'' if shown == '1' else 's'}: give images of other "
            f"counts as well."
        )
    images = dict.fromkeys(labels, 0)
    for value, n in zip(values, n_images, strict=True):
        images[count_label(int(value), labels)] += int(n)
    scarce = [f"'{label}' ({n})" for label, n in images.items() if n < 2]
    if scarce:
        raise DataError(
            f"The count label(s) {', '.join(scarce)} have fewer than 2 images among the {n_images.sum()}: add images, "
            f"or leave the label(s) out."
        )


def _recalls(confusion: Sequence[Sequence[int]]) -> list[float]:
    """Return of each true label, a row, the share that was found to be it."""
    return [row[i] / sum(row) for i, row in enumerate(confusion)]


def _confusion(truth: np.ndarray, scores: np.ndarray) -> tuple[tuple[int, ...], ...]:
    confusion = np.zeros((scores.shape[1],) * 2, np.int64)
    np.add.at(confusion, (truth, scores.argmax(axis=1)), 1)
    return tuple(tuple(map(int, row)) for row in confusion)


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
    check_counts(counts, labels)
    values, inverse = np.unique(counts, return_inverse=True)
    index = np.array([labels.index(count_label(int(value), labels)) for value in values], dtype=np.int64)
    return index[inverse]


def _splits(truth: np.ndarray, folds: int, seed: int, groups: Sequence[Hashable] | None) -> list[Split]:
    if folds < 2:
        raise DataError(f"Cross-validation with {folds} fold(s) is not possible: ask for at least 2.")
    images = np.bincount(truth)
    folds = min(folds, int(images.min()))
    if groups is not None and len({*groups}) > 1:
        splits = stratified_folds(truth, min(folds, len({*groups})), seed, groups)
        if all(len(np.unique(truth[others])) == len(images) for others, _ in splits):
            return splits
    return stratified_folds(truth, folds, seed)
