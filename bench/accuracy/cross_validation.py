"""Counters for data that is to judge them: each image's counter is fitted without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pc_engine.bench.accuracy.raw_features import RawCounter, reduce_raw
from pc_engine.errors import DataError, UsageError
from pc_engine.fitted.counter import CountSVM, label_indices
from pc_engine.fitting.class_heat import ClassHeat
from pc_engine.fitting.counter import DEFAULT_FIT, CountedImages, CounterFit, fit_counter, fit_svms
from pc_engine.fitting.counter_report import CounterReport
from pc_engine.fitting.folds import stratified_folds
from pc_engine.fitting.reduction import reduce_features


@dataclass(frozen=True)
class FoldFit:
    """What the counter of a fold is fitted with.

    Attributes
    ----------
    features
        Names of the taps it reads; None for all of the model's.
    mirrored
        Whether what maps show is learnt for their mirror images, too.
    normalised
        Whether it reads taps that are L2-normalised image by image.
    beside
        What is fitted beside its SVMs, and for which accuracy.
    """

    features: tuple[str, ...] | None = None
    mirrored: bool = True
    normalised: bool = True
    beside: CounterFit = DEFAULT_FIT


#: Everything that helps.
DEFAULT_FOLD_FIT = FoldFit()


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A counter, how it was fitted, and the places of the images that took no part in that, (m,)."""

    places: np.ndarray
    counter: CountSVM
    report: CounterReport


def held_out_counters(
    images: CountedImages,
    folds: int,
    labels: Sequence[str],
    seed: int,
    *,
    heat: ClassHeat | None = None,
    fits: Sequence[FoldFit] = (DEFAULT_FOLD_FIT,),
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[FoldFit, list[HeldOut]]:
    """Split images into folds of like label shares, and fit for each fold counters on the others, one a way to fit.

    Parameters
    ----------
    images
        Those that are to be judged, n; images of one group are held out together.
    folds
        Number of folds; fewer images of a label leave some folds without it.
    labels
        The count labels; every count has one.
    seed
        Of the assignment and the solver.
    heat
        What p2c sees of the images, for mode combined; see `fit_counter`.
    fits
        What the counters are fitted with. Those that differ in what is beside the SVMs share these.
    progress
        Called as ``progress(done, total)`` before every fit of SVMs, and at the end.

    Returns
    -------
    dict
        By what it was fitted with, one `HeldOut` a fold; every image is held out once. Each C is chosen by a
        cross-validation among the images that the counter is fitted on, so that nothing about the held-out ones enters.
        A label with fewer than 2 images there is not learnt.

    Raises
    ------
    UsageError
        If there are fewer than 2 folds, or more than images, groups, or images of each label.
    DataError
        If fewer than 2 labels can be learnt.
    """
    counts, groups = images.counts, images.groups
    if not 2 <= folds <= len(counts):
        raise UsageError(
            f"{folds} folds of {len(counts)} images were asked for: ask for 2 or more, up to one per image."
        )
    labels = tuple(labels)
    truth = label_indices(counts, labels)
    found: dict[FoldFit, list[HeldOut]] = {fit: [] for fit in fits}
    of_svms: dict[tuple[tuple[str, ...], bool, bool], list[FoldFit]] = {}
    for fit in found:
        names = fit.features or tuple(images.features)
        of_svms.setdefault((names, fit.mirrored, fit.normalised), []).append(fit)
    done, total = 0, folds * len(of_svms)
    for others, held_out in stratified_folds(truth, folds, seed, groups):
        learnt, others = _learnable(truth, others, labels)
        seen = None if heat is None else heat.of(others)
        for (names, mirrored, normalised), alike in of_svms.items():
            progress(done, total)
            fitted_on = CountedImages(
                {name: images.features[name][others] for name in names},
                counts[others],
                groups=None if groups is None else [groups[place] for place in others],
                map_widths=images.map_widths if mirrored else None,
            )
            reduce = reduce_features if normalised else reduce_raw
            svms = fit_svms(fitted_on, labels=learnt, seed=seed, reduce=reduce)
            for fit in alike:
                counter, report = fit_counter(svms, fit.beside, heat=seen)
                read = counter if normalised else RawCounter.of(counter)
                found[fit].append(HeldOut(held_out, read, report))
            done += 1
    progress(total, total)
    return found


def _learnable(truth: np.ndarray, places: np.ndarray, labels: tuple[str, ...]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the labels with 2 images or more among ``places``, and the places of their images."""
    images = np.bincount(truth[places], minlength=len(labels))
    learnable = np.flatnonzero(images >= 2)
    if len(learnable) < 2:
        raise DataError(
            "Fewer than two count labels have 2 images or more in a fold's training images, and a counter tells labels "
            "apart: evaluate on more images, of several counts."
        )
    return tuple(labels[i] for i in learnable), places[np.isin(truth[places], learnable)]
