"""Counters for data that is to judge them: each image's counter is fitted without it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pc_engine.counter import DEFAULT_LABELS, CountSVM, count_label
from pc_engine.errors import DataError, UsageError


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A counter, its C, and the places of the images that took no part in fitting it, (m,)."""

    places: np.ndarray
    counter: CountSVM
    c: float


def held_out_counters(
    features: Mapping[str, np.ndarray],
    counts: np.ndarray,
    folds: int,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    groups: Sequence[Hashable] | None = None,
) -> list[HeldOut]:
    """Split images into folds of like label shares, and fit for each fold a counter on the others.

    Parameters
    ----------
    features
        Tap name to rows, (n, D) float32.
    counts
        True counts, (n,) integers.
    folds
        Number of folds; fewer images of a label leave some folds without it.
    seed
        Of the assignment and the solver.
    progress
        Called as ``progress(done, folds)``.
    groups
        Of each image, (n,): images of one group are held out together. None where each stands for itself.

    Returns
    -------
    list of HeldOut
        One a fold; every image is held out once. Each C is chosen by a cross-validation among the images that the
        counter is fitted on, so that nothing about the held-out ones enters. A label with fewer than 2 images there is
        not learnt.

    Raises
    ------
    UsageError
        If there are fewer than 2 folds, or more than images or groups.
    DataError
        If fewer than 2 labels can be learnt.
    """
    from pc_engine.fitting.counter import fit_counter

    if not 2 <= folds <= len(counts):
        raise UsageError(
            f"{folds} folds of {len(counts)} images were asked for: ask for 2 or more, up to one an image."
        )
    truth = np.array([DEFAULT_LABELS.index(count_label(int(count))) for count in counts])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a label with fewer images than folds, which is allowed
        splits = _splits(truth, folds, seed, groups)
    found = []
    for fold, (others, held_out) in enumerate(splits):
        progress(fold, folds)
        labels, others = _learnable(truth, others)
        counter, report = fit_counter(
            {name: rows[others] for name, rows in features.items()}, counts[others], labels=labels, seed=seed
        )
        found.append(HeldOut(held_out, counter, report.c))
    progress(folds, folds)
    return found


def _splits(
    truth: np.ndarray, folds: int, seed: int, groups: Sequence[Hashable] | None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each fold the places of the others and of those held out."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if groups is None:
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(truth, truth))
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    if folds > len(numbers):
        raise UsageError(
            f"{folds} folds were asked for, but the images are of {len(numbers)} groups, which are held out whole: ask "
            f"for {len(numbers)} folds or fewer."
        )
    group_of = [numbers[group] for group in groups]
    return list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(truth, truth, group_of))


def _learnable(truth: np.ndarray, places: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the labels with 2 images or more among ``places``, and the places of their images."""
    images = np.bincount(truth[places], minlength=len(DEFAULT_LABELS))
    learnable = np.flatnonzero(images >= 2)
    if len(learnable) < 2:
        raise DataError(
            "Only one count label has 2 images or more in a fold's training images, and a counter tells labels apart: "
            "evaluate on images of several counts."
        )
    return tuple(DEFAULT_LABELS[i] for i in learnable), places[np.isin(truth[places], learnable)]
