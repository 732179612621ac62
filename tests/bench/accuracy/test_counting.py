from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pc_engine.bench.accuracy import counting
from pc_engine.bench.accuracy.counting import PUBLISHED
from pc_engine.bench.accuracy.resampling import wilson_interval
from pc_engine.errors import DataError
from pc_engine.fitted.counter import DEFAULT_LABELS, labels_up_to

accuracy_gain, chance_accuracy, count_accuracy = (
    partial(function, labels=DEFAULT_LABELS, seed=0)
    for function in (counting.accuracy_gain, counting.chance_accuracy, counting.count_accuracy)
)


def test_accuracy_is_the_diagonal_of_the_confusion_by_true_label() -> None:
    true = [0, 0, 1, 1, 1, 1, 2, 5, 9]
    predicted = [0, 1, 1, 1, 1, 3, 3, 4, 3]
    measured = count_accuracy(true, predicted)
    assert measured.n == 9
    assert measured.accuracy == pytest.approx(
        {"0": 1 / 2, "1": 3 / 4, "2": 0, "4+": 1 / 2, "mean": (0.5 + 0.75 + 0 + 0.5) / 4, "overall": 5 / 9}
    )
    expected = np.zeros((5, 5), int)
    for row, column, n in ((0, 0, 1), (0, 1, 1), (1, 1, 3), (1, 3, 1), (2, 3, 1), (4, 4, 1), (4, 3, 1)):
        expected[row, column] = n
    np.testing.assert_array_equal(measured.confusion, expected)
    # Counts themselves, not labels: 0 for 4 against 5 would hide that "4+" is open.
    assert measured.mean_absolute_error == pytest.approx((1 + 2 + 1 + 1 + 6) / 9)


def test_all_right_and_all_wrong() -> None:
    right = count_accuracy([0, 1, 2, 3, 7], [0, 1, 2, 3, 4])
    assert set(right.accuracy.values()) == {1.0}
    wrong = count_accuracy([0, 0, 1], [1, 1, 0])
    assert set(wrong.accuracy.values()) == {0.0}
    assert (wrong.accuracy.keys(), wrong.mean_absolute_error) == ({"0": 0, "1": 0, "mean": 0, "overall": 0}.keys(), 1)


def test_intervals_have_a_width_where_all_are_right_or_wrong() -> None:
    measured = count_accuracy([1] * 5 + [2] * 5, [1] * 5 + [1] * 5)
    low, high = wilson_interval(1, 5) or (0, 0)
    assert measured.intervals["1"] == (low, high) == (pytest.approx(0.5655, abs=1e-4), 1)
    assert measured.intervals["2"] == wilson_interval(0, 5) == (0, pytest.approx(0.4345, abs=1e-4))
    # The mean is further from either by less than a half: both labels need not err at once.
    assert measured.intervals["mean"] == pytest.approx((0.5 - (1 - low) / 2, 0.5 + (1 - low) / 2))
    right = count_accuracy([0, 1, 2, 3, 7] * 2, [0, 1, 2, 3, 4] * 2)
    assert right.intervals["overall"] == wilson_interval(1, 10)
    low, _ = wilson_interval(1, 2) or (0, 0)
    assert right.intervals["mean"] == pytest.approx((1 - (1 - low) / 5**0.5, 1))
    assert right.to_dict()["mean_absolute_error_interval"] is not None  # 4 for 7
    assert count_accuracy([1, 2], [1, 2]).to_dict()["mean_absolute_error_interval"] is None
    # Many labels of one image each: hardly a resample holds them all.
    labels = labels_up_to(20)
    many = count_accuracy(range(21), range(21), labels=labels)
    assert many.intervals.keys() == many.accuracy.keys()
    assert many.intervals["mean"] == (pytest.approx(1 - (1 - (wilson_interval(1, 1) or (0,))[0]) / 21**0.5), 1)


def test_a_single_image_is_a_share_of_one_but_no_gain() -> None:
    measured = count_accuracy([1], [1])
    assert measured.intervals["1"] == measured.intervals["overall"] == wilson_interval(1, 1)
    assert measured.intervals["mean"] == pytest.approx(wilson_interval(1, 1))
    assert measured.error_interval is None
    gain = accuracy_gain([1], [1], [2])
    assert gain["mean"] == gain["overall"] == {"gain": 1.0, "interval": None}
    chance = chance_accuracy([1])["count_accuracy_interval"]
    assert chance == {"1": list(wilson_interval(1, 1) or ()), "mean": [1, 1], "overall": None}


def test_other_labels() -> None:
    measured = count_accuracy([1, 2, 2], [1, 2, 1], labels=("1", "2"))
    assert measured.accuracy["2"] == 0.5
    assert measured.confusion.shape == (2, 2)


def test_a_count_without_a_label_is_an_error_that_names_the_labels() -> None:
    with pytest.raises(DataError, match="A count of 3 fits none of the labels 1, 2"):
        count_accuracy([1, 3], [1, 2], labels=("1", "2"))


def test_no_image_and_lists_of_different_length() -> None:
    with pytest.raises(DataError, match="no image with a known count"):
        count_accuracy([], [])
    with pytest.raises(ValueError, match="shorter"):
        count_accuracy([1, 2], [1])


def test_intervals_hold_the_accuracy_narrow_with_n_and_repeat() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for n in (50, 800):
        true = rng.integers(0, 5, n)
        predicted = np.where(rng.random(n) < 0.7, true, rng.integers(0, 5, n))
        measured = count_accuracy(true, predicted)
        assert measured.intervals.keys() == measured.accuracy.keys()
        for name, (low, high) in measured.intervals.items():
            assert 0 <= low <= measured.accuracy[name] <= high <= 1
        assert measured.intervals == count_accuracy(true, predicted).intervals
        widths.append(np.subtract(*measured.intervals["overall"][::-1]))
    assert widths[1] < widths[0] / 2
    # A share p of n images has a standard deviation of sqrt(p (1 - p) / n).
    p = measured.accuracy["overall"]
    assert widths[1] == pytest.approx(2 * 1.96 * (p * (1 - p) / 800) ** 0.5, rel=0.15)


def test_a_rare_label_does_not_move_the_mean_when_a_resample_lacks_it() -> None:
    # One image of label 3, counted wrong: without it the mean would be 1.
    measured = count_accuracy([1] * 30 + [2] * 30 + [3], [1] * 30 + [2] * 30 + [1])
    assert measured.accuracy["mean"] == pytest.approx(2 / 3)
    # What one image says of a label leaves the mean wide open above, those of 30 do not below.
    low, high = measured.intervals["mean"]
    assert (low, high) == (pytest.approx(2 / 3, abs=0.06), pytest.approx(2 / 3 + 0.7935 / 3, abs=1e-3))


def test_chance_is_the_share_of_each_label() -> None:
    report = chance_accuracy([0, 1, 1, 1, 5, 9, 4, 4])
    assert json.loads(json.dumps(report)) == report
    shares = {"0": 1 / 8, "1": 3 / 8, "4+": 1 / 2}
    overall = sum(share**2 for share in shares.values())
    assert report["count_accuracy"] == pytest.approx({**shares, "mean": 1 / 3, "overall": overall})
    assert report["count_accuracy_interval"]["mean"] == pytest.approx([1 / 3, 1 / 3])
    low, high = report["count_accuracy_interval"]["4+"]
    assert low < 1 / 2 < high
    # Guessing many times by the same shares comes to the same.
    rng = np.random.default_rng(0)
    true = np.repeat([0, 1, 4], [10_000, 30_000, 40_000])
    guessed = rng.choice([0, 1, 4], p=list(shares.values()), size=len(true))
    assert [float((guessed[true == k] == k).mean()) for k in (0, 1, 4)] == pytest.approx(
        list(shares.values()), abs=0.02
    )
    assert float((guessed == true).mean()) == pytest.approx(overall, abs=0.01)
    with pytest.raises(DataError, match="no image"):
        chance_accuracy([])


def test_the_report_is_ready_for_json() -> None:
    report = count_accuracy([0, 1, 4], [0, 2, 9]).to_dict()
    assert json.loads(json.dumps(report)) == report
    assert report["n"] == 3
    assert report["count_accuracy"] == {"0": 1.0, "1": 0.0, "4+": 1.0, "mean": 2 / 3, "overall": 2 / 3}
    assert report["confusion"]["labels"] == list(DEFAULT_LABELS)
    assert np.sum(report["confusion"]["rows_true"]) == 3
    assert set(report["count_accuracy_interval"]) == set(report["count_accuracy"])


def test_the_published_table_agrees_with_its_own_means() -> None:
    assert set(PUBLISHED) == {"Chance", "SalCount", "Zhang et al.", "C2P (paper)", "P2C (paper)"}
    for values in PUBLISHED.values():
        *by_label, mean = values
        assert len(by_label) == len(DEFAULT_LABELS)
        if mean is not None:
            assert mean == pytest.approx(np.mean([value for value in by_label if value is not None]), abs=0.7)


@settings(max_examples=15)
@given(pairs=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=30))
def test_accuracies_are_shares_whatever_was_counted(pairs: list[tuple[int, int]]) -> None:
    measured = count_accuracy(*zip(*pairs, strict=True))
    assert measured.n == len(pairs)
    assert all(0 <= value <= 1 for value in measured.accuracy.values())
    assert measured.accuracy["overall"] == pytest.approx(np.mean([min(a, 4) == min(b, 4) for a, b in pairs]))
    assert measured.intervals.keys() == measured.accuracy.keys()


def test_a_gain_is_the_difference_of_two_accuracies() -> None:
    true, ours, theirs = [0, 1, 1, 2, 7], [0, 1, 0, 2, 4], [0, 1, 1, 3, 1]
    gain = accuracy_gain(true, ours, theirs)
    one, other = count_accuracy(true, ours).accuracy, count_accuracy(true, theirs).accuracy
    for name in ("mean", "overall"):
        assert gain[name]["gain"] == pytest.approx(one[name] - other[name])
        low, high = gain[name]["interval"]
        assert low <= gain[name]["gain"] <= high


def test_who_agrees_on_all_images_may_differ_on_others() -> None:
    counts = [0, 1, 2, 3, 4] * 4
    gain = accuracy_gain(counts, counts[::-1], counts[::-1])
    assert gain["mean"]["gain"] == gain["overall"]["gain"] == 0
    # In none of 20 images did one gain, and in none did it lose.
    _, most = wilson_interval(0, 20) or (0, 0)
    assert gain["overall"]["interval"] == pytest.approx([-most, most])
    _, most = wilson_interval(0, 4) or (0, 0)
    assert gain["mean"]["interval"] == pytest.approx([-most / 5**0.5, most / 5**0.5])


def test_a_gain_on_every_image_is_not_certain() -> None:
    gain = accuracy_gain([1] * 10, [1] * 10, [2] * 10)
    low, _ = wilson_interval(1, 10) or (0, 0)
    # All of them gained, of which some may be chance, and none lost, which others may.
    expected = {"gain": 1.0, "interval": [pytest.approx(1 - 2**0.5 * (1 - low)), 1]}
    assert gain["mean"] == gain["overall"] == expected
    loss = accuracy_gain([1] * 10, [2] * 10, [1] * 10)["mean"]["interval"]
    assert loss == [-1, pytest.approx(-expected["interval"][0].expected)]


def test_what_is_hard_for_both_does_not_widen_a_gain() -> None:
    rng = np.random.default_rng(3)
    true = rng.integers(0, 5, 400)
    hard = rng.random(400) < 0.5
    theirs = np.where(hard, (true + 1) % 5, true)
    ours = theirs.copy()
    ours[np.flatnonzero(hard)[:8]] = true[np.flatnonzero(hard)[:8]]
    low, high = accuracy_gain(true.tolist(), ours.tolist(), theirs.tolist())["overall"]["interval"]
    alone = count_accuracy(true.tolist(), ours.tolist()).intervals["overall"]
    assert 0 < low < 0.02 < high < low + 0.5 * (alone[1] - alone[0])
