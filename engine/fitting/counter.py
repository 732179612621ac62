"""Fit the count SVM (paper 3.1) with cross-validated regularisation, and what mode combined weighs in beside it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pc_engine.errors import DataError
from pc_engine.fitted.counter import DEFAULT_LABELS, CountSVM, count_label, is_open, label_indices, last_count
from pc_engine.fitting.aim import SURE_ERRORS, Aim
from pc_engine.fitting.class_heat import ClassHeat
from pc_engine.fitting.cluster_likelihood import FittedLikelihood, count_clusters, fit_cluster_likelihood
from pc_engine.fitting.counter_report import CombinedReport, CounterReport
from pc_engine.fitting.folds import Split, stratified_folds
from pc_engine.fitting.linear_svm import fit_one_vs_rest
from pc_engine.fitting.open_count import FittedOpenCount, fit_open_count
from pc_engine.fitting.recall import LEAST_IMAGES, mean_recall
from pc_engine.fitting.recoupling import Recoupling, fit_recoupling, held_out_coupling
from pc_engine.fitting.reduction import ReducedRows, reduce_features
from pc_engine.shown_text import number_of

#: Values of the SVM's C that cross-validation chooses from.
DEFAULT_C_GRID = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
# So much of `LEAST_IMAGES` a label, of which no label gives more than its own, are enough to couple scores unless that
# is worse.
_ENOUGH = 0.75


@dataclass(frozen=True, eq=False)
class CountedImages:
    """What counters are fitted on: n images of which the counts are known.

    Attributes
    ----------
    features
        Tap name to rows, (n, D_tap) float32, raw or already L2-normalised: each row is normalised in the fit
        (normalising twice changes nothing), as :meth:`CountSVM.scores` does. The order of the taps is the order of the
        features.
    counts
        True number of objects of each image, (n,) integers. A count above an open-ended label ("4+") has that label.
    groups
        Of each image, (n,): images of one group are in one fold. A label that the others of a fold would lack then, as
        all of its images are of one group, has its images parted. None where each stands for itself.
    map_widths
        Width of a map, by the names of those taps whose rows are maps: what they show is learnt for its mirror image,
        too (see :mod:`pc_engine.fitting.reduction`). None, or a tap left out, learns the rows as they are.
    """

    features: Mapping[str, np.ndarray]
    counts: np.ndarray
    groups: Sequence[Hashable] | None = None
    map_widths: Mapping[str, int] | None = None


@dataclass(frozen=True, eq=False)
class FittedSvms:
    """One SVM a label, at the C that cross-validation chose, and what else of a counter is fitted from.

    Attributes
    ----------
    features, labels
        Names of the taps, in their order, and the count labels.
    counts, truth
        Of each image its true number of objects and the index of its label, (n,).
    splits, parted, grid, c
        As the folds were, the labels whose groups they part, what each C was worth in them, and the chosen one; see
        `CounterReport`.
    scores
        Of each image by SVMs that did not see it, (n, L).
    reduced, weights, bias
        The images' rows (n, r), and the SVMs of all images on them, (L, r) and (L,).
    """

    features: tuple[str, ...]
    labels: tuple[str, ...]
    counts: np.ndarray
    truth: np.ndarray
    splits: Sequence[Split]
    parted: tuple[str, ...]
    grid: Mapping[float, tuple[float, float]]
    c: float
    scores: np.ndarray
    reduced: ReducedRows
    weights: np.ndarray
    bias: np.ndarray


@dataclass(frozen=True)
class CounterFit:
    """What a counter is fitted with beside its SVMs; see `fit_counter`.

    Attributes
    ----------
    aim
        Which accuracy its coupling is fitted for, and it and the clusters are judged by.
    coupling
        Whether the labels' scores may be coupled.
    clusters, beyond
        Whether mode combined may weigh clusters in, and learn the number of objects under an open-ended label.
    """

    aim: Aim = Aim.MEAN
    coupling: bool = True
    clusters: bool = True
    beyond: bool = True


#: Everything that helps.
DEFAULT_FIT = CounterFit()


def fit_svms(
    images: CountedImages,
    *,
    labels: Sequence[str] = DEFAULT_LABELS,
    c_grid: Sequence[float] = DEFAULT_C_GRID,
    folds: int = 5,
    seed: int = 0,
    reduce: Callable[[Mapping[str, np.ndarray], Mapping[str, int] | None], ReducedRows] = reduce_features,
    progress: Callable[[int, int], None] | None = None,
) -> FittedSvms:
    """Fit linear one-vs-rest SVMs that tell the count label of an image from its features (paper 3.1).

    This is nearly all of the work of fitting a counter; `fit_counter` does the rest.

    Parameters
    ----------
    images
        What to fit them on.
    labels
        The count labels; each needs at least 2 images.
    c_grid
        Values of C to choose from, by the mean recall over labels in cross-validation; the smaller of equals wins.
    folds
        Stratified folds. A label with fewer images lowers the number of folds to its number of images.
    seed
        Of the fold assignment and the solver's order: the same input gives the same SVMs.
    reduce
        What makes rows of features and the widths of their maps.
    progress
        Called as ``progress(done, total)`` after every fit.

    Returns
    -------
    FittedSvms
        Fitted on all images with the chosen C, and what the cross-validation saw.

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
    """
    labels = tuple(labels)
    truth = _label_indices(images.features, images.counts, labels)
    if not c_grid or min(c_grid) <= 0:
        raise DataError(f"The values of C to choose from are {list(c_grid)}: give at least one, all above 0.")
    candidates = sorted({float(c) for c in c_grid})
    splits, parted = _splits(truth, folds, seed, images.groups)
    reduced = reduce(images.features, images.map_widths)
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
    if progress is not None:
        progress(total, total)
    return FittedSvms(
        features=tuple(images.features),
        labels=labels,
        counts=images.counts,
        truth=truth,
        splits=splits,
        parted=tuple(labels[label] for label in sorted(parted)),
        grid=grid,
        c=best,
        scores=held_out_scores[best],
        reduced=reduced,
        weights=weights,
        bias=bias,
    )


def fit_counter(
    svms: FittedSvms,
    fit: CounterFit = DEFAULT_FIT,
    *,
    heat: ClassHeat | None = None,
    compare_aims: bool = False,
) -> tuple[CountSVM, CounterReport]:
    """Make a counter of SVMs, with what is fitted beside them on the same images.

    Parameters
    ----------
    svms
        As `fit_svms` returned them.
    fit
        What is fitted, and for which accuracy.
    heat
        What p2c sees of the images, from which mode combined is to learn how far clusters are to be believed; None
        leaves it the SVMs alone.
    compare_aims
        Whether the report is to say what the other aim is worth, which takes about as long as all the rest.

    Returns
    -------
    tuple
        The counter, and the report of the cross-validation.

    Notes
    -----
    The labels' scores are coupled (`pc_engine.fitting.recoupling`) and the clusters weighed in
    (`pc_engine.fitting.cluster_likelihood`) unless held-out images are told better without, by two standard errors of
    the difference. Some hundred images cannot show less, while over many sets of images both gain. Where many labels
    have fewer than `LEAST_IMAGES` a coupling may be chance: held-out images have to gain by it there, by one standard
    error.
    The number of objects under an open-ended label (`pc_engine.fitting.open_count`) is learnt where its error on
    held-out images is less than that of clusters.

    The report's figures are taken at the C they helped to choose, so they flatter by the little that a choice among
    a handful of values can. Those of coupled scores are by SVMs that did not see the image, but by a coupling fitted on
    scores of SVMs of which most did (`pc_engine.fitting.recoupling.held_out_coupling`). ``pc-engine evaluate`` on other
    images, or with ``--folds``, which fits all of it without the image, is the unbiased figure.
    """
    labels, truth, aim = svms.labels, svms.truth, fit.aim
    scores, weights, bias, coupled = svms.scores, svms.weights, svms.bias, False
    if fit.coupling:
        scores, coupling = _coupled(svms, aim)
        if coupling is not None:
            weights, bias = coupling.matrix @ weights, coupling(bias)
        coupled = coupling is not None
    witness = None
    if fit.clusters and heat is not None:
        witness = fit_cluster_likelihood(scores, truth, labels, heat, svms.splits, coupled=coupled, aim=aim)
    beyond = None
    if fit.beyond and heat is not None and is_open(labels[-1]):
        beyond = _fit_beyond(svms, heat, scores, witness)
    counter = CountSVM(
        features=svms.features,
        labels=labels,
        weights={name: matrix.astype(np.float32) for name, matrix in svms.reduced.expand(weights).items()},
        bias=bias.astype(np.float32),
        clusters=None if witness is None else witness.likelihood,
        beyond=None if beyond is None else beyond.model,
    )
    combined = None if witness is None else CombinedReport(witness.weight, _confusion(truth, witness.scores))
    report = CounterReport(
        labels=labels,
        n=len(truth),
        c=svms.c,
        folds=len(svms.splits),
        parted=svms.parted,
        confusion=_confusion(truth, scores),
        grid=svms.grid,
        aim=aim,
        other_aim=_accuracies_by(svms, aim.other) if compare_aims else None,
        coupled=coupled,
        combined=combined,
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
            f"All {n_images.sum()} images show {shown} object{'' if shown == '1' else 's'}: add images with other "
            "counts."
        )
    images = dict.fromkeys(labels, 0)
    for value, n in zip(values, n_images, strict=True):
        images[count_label(int(value), labels)] += int(n)
    scarce = [f"{label} ({number_of(n, 'image')})" for label, n in images.items() if n < 2]
    if scarce:
        raise DataError(
            f"Too few of the {n_images.sum()} images show the count {' or '.join(scarce)}: give at least 2 of each "
            f"count, or leave out those that have it."
        )


def _coupled(svms: FittedSvms, aim: Aim) -> tuple[np.ndarray, Recoupling | None]:
    """Return scores (n, L) of held-out images, and the coupling that makes them; None where they are the SVMs' own."""
    scores, truth = svms.scores, svms.truth
    # Features that hardly vary give the SVMs of each fold a level of their own, which a coupling would take for a sign.
    level = (svms.reduced.rows @ svms.weights.T + svms.bias).mean(axis=0)
    if (np.abs(level - scores.mean(axis=0)) > scores.std(axis=0)).any():
        return scores, None
    coupled = held_out_coupling(scores, truth, svms.splits, aim)
    gain, error = aim.gain(truth, coupled.argmax(axis=1), scores.argmax(axis=1))
    enough = np.minimum(np.bincount(truth), LEAST_IMAGES).mean() >= _ENOUGH * LEAST_IMAGES
    if gain <= (-SURE_ERRORS * error if enough else error):
        return scores, None
    return coupled, fit_recoupling(scores, truth, aim)


def _fit_beyond(
    svms: FittedSvms, heat: ClassHeat, scores: np.ndarray, witness: FittedLikelihood | None
) -> FittedOpenCount | None:
    """Fit the number of objects under the open-ended label, for images that get it by all that tells their counts."""
    floor = last_count(svms.labels)
    told, peaks = (scores, None) if witness is None else (witness.scores, witness.likelihood.peaks)
    asked = told.argmax(axis=1) == len(svms.labels) - 1
    before = np.maximum(count_clusters(heat, peaks), floor)
    return fit_open_count(svms.reduced, svms.counts, floor, asked, before, svms.splits)


def _accuracies_by(svms: FittedSvms, aim: Aim) -> tuple[float, float]:
    """Return the mean and the overall accuracy that coupling for an aim gives."""
    predicted = _coupled(svms, aim)[0].argmax(axis=1)
    return mean_recall(svms.truth, predicted), float((predicted == svms.truth).mean())


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
    return label_indices(counts, labels)


def _splits(
    truth: np.ndarray, folds: int, seed: int, groups: Sequence[Hashable] | None
) -> tuple[list[Split], set[int]]:
    """Return folds whose others show every label, and the labels whose groups had to be parted for that."""
    if folds < 2:
        raise DataError(f"Cross-validation with {number_of(folds, 'fold')} is not possible: ask for at least 2.")
    images = np.bincount(truth)
    folds = min(folds, int(images.min()))
    if groups is None:
        return stratified_folds(truth, folds, seed), set()
    label_of = truth.tolist()
    groups_of: dict[int, set[Hashable]] = {}
    for label, group in zip(label_of, groups, strict=True):
        groups_of.setdefault(label, set()).add(group)
    parted = {label for label, its_groups in groups_of.items() if len(its_groups) == 1}
    while True:
        kept = [
            ("alone", place) if label in parted else ("group", group)
            for place, (label, group) in enumerate(zip(label_of, groups, strict=True))
        ]
        lacking: set[int] = set()
        for n in range(min(folds, len({*kept})), 1, -1):
            splits = stratified_folds(truth, n, seed, kept)
            lacking = {label for others, _ in splits for label in groups_of.keys() - {*truth[others].tolist()}}
            if not lacking:
                return splits, parted
        # Few groups, which share labels: those that the last try could not tell from the others are parted, too.
        parted |= lacking
