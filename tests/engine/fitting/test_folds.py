from __future__ import annotations

import numpy as np
import pytest

from pc_engine.errors import UsageError
from pc_engine.fitting.folds import as_groups, stratified_folds


def test_each_image_is_held_out_once_and_shares_are_alike() -> None:
    truth = np.repeat([0, 1], [30, 15])
    folds = stratified_folds(truth, 3, 0)
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(45))
    for others, held_out in folds:
        assert sorted([*others, *held_out]) == list(range(45))
        assert np.bincount(truth[held_out]).tolist() == [10, 5]


def test_groups_stay_together_and_have_to_suffice() -> None:
    truth, groups = np.tile([0, 1], 20), [place // 8 for place in range(40)]
    folds = stratified_folds(truth, 5, 0, groups)
    assert sorted({groups[place] for place in held_out}.pop() for _, held_out in folds) == [0, 1, 2, 3, 4]
    with pytest.raises(UsageError, match="6 folds were asked for, but the images form 5 groups"):
        stratified_folds(truth, 6, 0, groups)


def test_a_scarce_label_is_no_warning() -> None:
    assert len(stratified_folds(np.array([0] * 9 + [1]), 3, 0)) == 3


@pytest.mark.parametrize("groups", [None, list(range(9))])
def test_some_label_has_an_image_for_each_fold(groups: list[int] | None) -> None:
    truth = np.repeat([0, 1, 2], 3)
    assert len(stratified_folds(truth, 3, 0, groups)) == 3
    with pytest.raises(UsageError, match=r"more than 3 images: ask for 3 folds or fewer, or add images"):
        stratified_folds(truth, 4, 0, groups)
    with pytest.raises(UsageError, match=r"more than 1 image: add images"):
        stratified_folds(np.arange(5), 2, 0)


def test_an_image_without_a_group_is_its_own() -> None:
    assert as_groups([None, None]) is None
    assert as_groups(["a", None, "a"]) == ["a", 1, "a"]


def test_files_that_are_the_same_are_one_group() -> None:
    assert as_groups([None] * 3, [7, 8, 9]) is None
    first, other, again = as_groups([None] * 3, [7, 8, 7]) or ()
    assert first == again != other


def test_a_copy_without_a_group_is_in_that_of_the_other() -> None:
    assert as_groups(["a", None], [7, 7]) == ["a", "a"]
    assert as_groups([None, "a", "b", None], [7, 7, 7, 8]) == ["a", "a", "b", 3]


def test_a_picture_that_all_groups_show_makes_no_single_one_of_them() -> None:
    groups = [place // 2 for place in range(10)]
    assert as_groups(groups, [7, 1, 7, 2, 7, 3, 7, 4, 7, 5]) == groups


def test_a_few_copies_move_to_their_first_and_all_else_stays() -> None:
    truth, groups = np.tile([0, 1, 2], 20), list(range(60))
    groups[40], groups[51] = 3, 7
    alone, together = (stratified_folds(truth, 5, 2, some) for some in (None, groups))
    fold_of, with_first = np.empty(60, int), np.empty(60, int)
    for number, ((_, held_out), (others, kept)) in enumerate(zip(alone, together, strict=True)):
        fold_of[held_out], with_first[kept] = number, number
        assert sorted([*others, *kept]) == list(range(60))
    assert (with_first[40], with_first[51]) == (fold_of[3], fold_of[7])
    assert set(np.flatnonzero(with_first != fold_of)) <= {40, 51}
