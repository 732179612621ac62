"""Folds of like label shares, which keep groups of images together."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from pc_engine.errors import UsageError
from pc_engine.shown_text import number_of

#: The places of the other images, and of those held out.
Split = tuple[np.ndarray, np.ndarray]

# Share of the images above which their groups are few exceptions.
_MOSTLY_ALONE = 0.9


def stratified_folds(truth: np.ndarray, folds: int, seed: int, groups: Sequence[Hashable] | None = None) -> list[Split]:
    """Split images into folds of like label shares.

    Parameters
    ----------
    truth
        Label index of each image, (n,). A label with fewer images than folds is missing from some; not all may be.
    folds
        Number of folds.
    seed
        Of the assignment.
    groups
        Of each image, (n,): images of one group are held out together. None where each stands for itself. Where hardly
        any two are of one group, as with a few photos that lie there twice, folds are those of None, but for these.

    Raises
    ------
    UsageError
        If there are fewer groups than folds, or fewer images of each label.
    """
    most = int(np.bincount(truth).max())
    if folds > most:
        fewer = f"ask for {most} folds or fewer, or " if most > 1 else ""
        raise UsageError(
            f"{folds} folds were asked for, but no count label has more than "
            f"{number_of(most, 'image')}: {fewer}add images."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a label with fewer images than folds, which is allowed
        if groups is None:
            return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(truth, truth))
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        if folds > len(numbers):
            raise UsageError(
                f"{folds} folds were asked for, but the images form {len(numbers)} groups, which are held out whole: "
                f"ask for {len(numbers)} folds or fewer."
            )
        group_of = np.array([numbers[group] for group in groups])
        if len(numbers) > _MOSTLY_ALONE * len(groups):
            moved = _with_their_first(
                StratifiedKFold(folds, shuffle=True, random_state=seed).split(truth, truth), group_of
            )
            if all(len(held_out) for _, held_out in moved):
                return moved
        return list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(truth, truth, group_of))


def _with_their_first(splits: Iterable[Split], group_of: np.ndarray) -> list[Split]:
    """Return folds in which each image is where the first of its group, (n,) numbers, is."""
    fold_of = np.empty(len(group_of), np.int64)
    for number, (_, held_out) in enumerate(splits):
        fold_of[held_out] = number
    _, first, group = np.unique(group_of, return_index=True, return_inverse=True)
    fold_of = fold_of[first[group]]
    return [(np.flatnonzero(fold_of != k), np.flatnonzero(fold_of == k)) for k in range(number + 1)]


def as_groups(groups: Sequence[Hashable | None], digests: Sequence[int] = ()) -> list[Hashable] | None:
    """Return groups for `stratified_folds`: an image without one is its own; None where none has one.

    Files of one digest are one group, where they name none: a photo that lies there twice would be learnt by heart in
    one fold and asked about in another. Where some of them name one, they are in the first that is named. Copies that
    name different ones stay there: one picture that all groups show would make a single one of them.
    """
    if digests:
        times = Counter(digests)
        named: dict[int, Hashable] = {}
        for group, digest in zip(groups, digests, strict=True):
            if group is not None:
                named.setdefault(digest, group)
        groups = [
            named.get(digest, ("same file", digest)) if group is None and times[digest] > 1 else group
            for group, digest in zip(groups, digests, strict=True)
        ]
    if all(group is None for group in groups):
        return None
    return [place if group is None else group for place, group in enumerate(groups)]
