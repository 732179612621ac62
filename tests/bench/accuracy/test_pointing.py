from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest

from pc_engine.bench.accuracy import pointing
from pc_engine.bench.accuracy.pointing import RATIOS, PointingAccuracy, match_pointers, pointing_gain
from pc_engine.bench.accuracy.truth import Truth
from pc_engine.datasets import Box, LabelledImage
from pc_engine.pointers import BoxPointer, EllipsePointer, Pointer
from pc_engine.result import Result, error_result

overlaps = arrays(
    np.float64, st.tuples(st.integers(0, 5), st.integers(0, 5)), elements=st.integers(0, 20).map(lambda k: k / 20)
)


def pointing_accuracy(images: list[LabelledImage], rows: list[Result], seed: int = 0) -> PointingAccuracy:
    return pointing.pointing_accuracy(Truth(images, seed=seed), rows)


def walk(overlap: np.ndarray, ratio: float) -> list[int]:
    """The paper's words: through the boxes, each taking away a pointer that overlaps it by more than the ratio."""
    free = list(range(len(overlap)))
    taken = []
    for box in range(overlap.shape[1]):
        exceeding = [pointer for pointer in free if overlap[pointer, box] > ratio]
        best = max(exceeding, key=lambda pointer: overlap[pointer, box], default=-1)
        taken.append(best)
        if exceeding:
            free.remove(best)
    return taken


@given(overlaps)
def test_every_box_takes_away_the_pointer_that_overlaps_it_most(overlap: np.ndarray) -> None:
    taken = match_pointers(overlap, RATIOS)
    assert [list(row) for row in taken] == [walk(overlap, ratio) for ratio in RATIOS]


@given(overlaps)
def test_matches_are_no_more_than_boxes_or_pointers_and_fall_with_the_ratio(overlap: np.ndarray) -> None:
    taken = match_pointers(overlap, RATIOS)
    for row in taken:
        pointers = row[row >= 0].tolist()
        assert len(set(pointers)) == len(pointers) <= min(overlap.shape)
    matched = (taken >= 0).sum(axis=1)
    assert (np.diff(matched) <= 0).all()
    assert matched[-1] == 0  # nothing exceeds a ratio of 1


def test_the_overlap_has_to_exceed_the_ratio() -> None:
    overlap = np.array([[0.5]])
    assert match_pointers(overlap, (0.49, 0.5, 0.51)).tolist() == [[0], [-1], [-1]]


def image(count: int | None, *boxes: tuple[float, ...], class_name: str | None = None) -> LabelledImage:
    return LabelledImage(Path("a.png"), count, class_name, boxes=tuple(Box(*box) for box in boxes))


def row(*pointers: Pointer, count: int | None = None) -> Result:
    found = len(pointers) if count is None else count
    return Result("a.png", "ok", None, 100, 50, "c2p", "tiny", found, str(found), pointers=pointers)


def box(x0: float, y0: float, x1: float, y1: float) -> BoxPointer:
    return BoxPointer(x0, y0, x1, y1, 1.0)


def test_figures_by_hand() -> None:
    images = [
        image(1, (0, 0, 10, 10)),  # contained whole; 25 of 100: an IoU of .25
        image(1, (0, 0, 10, 10)),  # 30 of its 50 inside: .6; IoU 30 / (50 + 100 - 30) = .25
        image(2, (0, 0, 10, 10), (20, 0, 30, 10)),  # one is contained, one lies elsewhere
        image(3, (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)),  # counted right, but one pointer is missing
        image(7, *((10 * k, 0, 10 * k + 10, 10) for k in range(7))),  # "4+" found: four pointers, right as a label
        image(2, (0, 0, 10, 10), (20, 0, 30, 10)),  # a wrong count
        image(0),
    ]
    quarter = box(0, 0, 5, 5)
    rows = [
        row(quarter),
        row(box(7, 0, 12, 10)),
        row(quarter, box(80, 40, 90, 50)),
        row(box(0, 0, 10, 10), box(20, 0, 30, 10), count=3),
        row(*(box(10 * k, 0, 10 * k + 10, 10) for k in range(4)), count=4),
        row(quarter),
        row(),
    ]
    report = pointing_accuracy(images, rows).to_dict()
    assert json.loads(json.dumps(report)) == report
    assert report["pointing_images"] == {"1": 2, "2": 1, "3": 1, "4+": 1}
    half, most = report["pointing"]["0.5"], report["pointing"]["0.8"]
    # Two of two, one of two, two of the three that a count of 3 stands for, four of four.
    assert half == pytest.approx({"1": 1, "2": 1 / 2, "3": 2 / 3, "mean": (1 + 1 / 2 + 2 / 3) / 3, "4+": 1})
    assert most == pytest.approx({"1": 1 / 2, "2": 1 / 2, "3": 2 / 3, "mean": (1 / 2 + 1 / 2 + 2 / 3) / 3, "4+": 1})
    assert report["pointing_iou"]["0.5"] == pytest.approx({"1": 0, "2": 0, "3": 2 / 3, "mean": 2 / 9, "4+": 1})
    due = 1 + 1 + 2 + 3 + 4
    assert report["iou"] == pytest.approx((0.25 + 0.25 + 0.25 + 2 + 4) / due)
    areas = [25, 50, 25, 100, *[100] * 6]
    assert report["mean_pointer_area"] == pytest.approx(np.mean(areas) / (100 * 50))
    curve = report["pointing_curve"]
    assert curve["ratio"] == list(RATIOS)
    contained = dict(zip(curve["ratio"], curve["containment"], strict=True))
    assert contained[0.55] == pytest.approx((1 + 1 + 1 + 2 + 4) / due)
    assert contained[0.95] == pytest.approx((1 + 0 + 1 + 2 + 4) / due)
    assert contained[1.0] == 0
    united = dict(zip(curve["ratio"], curve["intersection_over_union"], strict=True))
    assert united[0.2] == pytest.approx((1 + 1 + 1 + 2 + 4) / due)
    assert united[0.25] == pytest.approx((0 + 0 + 0 + 2 + 4) / due)
    assert report["boxes"] == {
        "judged": 5, "wrong_count": 1, "no_boxes": 0, "disagree": 0, "clipped": 0, "outside": 0
    }  # fmt: skip


def test_ellipses_are_measured_as_ellipses() -> None:
    # A circle of radius 5 around the corner of its box: a quarter inside, where its bounding box would say the same;
    # and one whose bounding box sticks out at corners that the circle does not reach.
    report = pointing_accuracy([image(1, (0, 0, 10, 10))], [row(EllipsePointer(10, 10, 5, 5, 1))]).to_dict()
    contained = dict(zip(RATIOS, report["pointing_curve"]["containment"], strict=True))
    assert (contained[0.2], contained[0.25]) == (1, 0)
    assert report["mean_pointer_area"] == pytest.approx(25 * math.pi / 5000)
    # Left of x = 8 the circle around (5, 5) has all but a cap: acos(.6) 25 - 3 * 4 of its 25 pi.
    cap = (25 * math.acos(0.6) - 12) / (25 * math.pi)
    assert 1 - cap > 0.85 > (8 - 0) / 10
    report = pointing_accuracy([image(1, (0, 0, 8, 10))], [row(EllipsePointer(5, 5, 5, 5, 1))]).to_dict()
    contained = dict(zip(RATIOS, report["pointing_curve"]["containment"], strict=True))
    assert contained[0.85] == 1
    assert report["iou"] == pytest.approx(25 * math.pi * (1 - cap) / (80 + 25 * math.pi * cap))


def test_what_cannot_be_judged_is_counted() -> None:
    pointer = box(0, 0, 5, 5)
    images = [
        image(1),  # no boxes
        image(2, (0, 0, 9, 9)),  # one box for a count of 2
        image(1, (-5, -5, 10, 10)),  # reaches out, and is cut to 10 x 10
        image(2, (0, 0, 9, 9), (100, 0, 120, 9)),  # one box lies beside the picture
        image(1, (0, 0, 9, 9)),
        image(None, (0, 0, 9, 9)),
    ]
    rows = [row(pointer), row(pointer, pointer), row(pointer), row(pointer, pointer)]
    unreadable = error_result("a.png", "It is damaged.", mode="c2p", model="tiny")
    report = pointing_accuracy(images, [*rows, unreadable, row(pointer)]).to_dict()
    assert report["boxes"] == {
        "judged": 1, "wrong_count": 0, "no_boxes": 1, "disagree": 2, "clipped": 1, "outside": 1
    }  # fmt: skip
    assert report["iou"] == pytest.approx(25 / 100)


def test_only_boxes_of_the_counted_class_matter() -> None:
    boxes = ((0, 0, 10, 10, "cat"), (20, 0, 60, 40, "dog"), (60, 0, 90, 40, "dog"))
    pointers = (box(21, 1, 25, 5), box(61, 1, 65, 5))
    for class_name in ("dog", None):  # without a name the class of the largest summed area is counted
        report = pointing_accuracy([image(2, *boxes, class_name=class_name)], [row(*pointers)]).to_dict()
        assert report["pointing"]["0.8"]["2"] == 1
    report = pointing_accuracy([image(1, *boxes, class_name="cat")], [row(pointers[0])]).to_dict()
    assert report["pointing"]["0.5"]["1"] == 0


def test_without_any_boxes_there_are_no_figures() -> None:
    report = pointing_accuracy([image(1), image(0)], [row(box(0, 0, 5, 5)), row()]).to_dict()
    assert json.loads(json.dumps(report)) == report
    assert set(report["pointing"]["0.5"].values()) == {None}
    assert (report["iou"], report["iou_interval"], report["mean_pointer_area_interval"]) == (None, None, None)
    assert set(report["pointing_curve"]["containment"]) == {None}


def test_intervals_hold_the_figures_and_repeat() -> None:
    rng = np.random.default_rng(0)
    images = [image(1, (0, 0, 10, 10))] * 80 + [image(2, (0, 0, 10, 10), (30, 0, 40, 10))] * 40
    rows = []
    for labelled in images:
        moved = rng.uniform(0, 12, len(labelled.boxes))
        rows.append(row(*(box(b.x0 + m, 0, b.x0 + m + 5, 5) for b, m in zip(labelled.boxes, moved, strict=True))))
    report, again = (pointing_accuracy(images, rows, seed=4).to_dict() for _ in range(2))
    assert report == again
    low, high = report["iou_interval"]
    assert low < report["iou"] < high
    assert report["mean_pointer_area_interval"] is None  # all are equal, but for the last bits of their sums
    for label in ("1", "2", "mean"):
        low, high = report["pointing_interval"]["0.5"][label]
        assert 0 < low < report["pointing"]["0.5"][label] < high < 1
    # A share p of n images with one pointer each has a standard deviation of sqrt(p (1 - p) / n).
    p, (low, high) = report["pointing"]["0.5"]["1"], report["pointing_interval"]["0.5"]["1"]
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(p * (1 - p) / 80), rel=0.2)
    assert report["pointing_interval"]["0.5"]["3"] is None


def test_intervals_have_a_width_where_all_pointers_are_right_or_none_is() -> None:
    """Of two pointers each, so that the images are half as many."""
    two = image(2, (0, 0, 10, 10), (30, 0, 40, 10))
    right = row(box(0, 0, 5, 5), box(30, 0, 35, 5))
    report = pointing_accuracy([two] * 8, [right] * 8).to_dict()
    expected = [pytest.approx(8 / (8 + 1.959964**2), abs=1e-6), 1]
    assert report["pointing_interval"]["0.8"] == {"1": None, "2": expected, "3": None, "4+": None, "mean": expected}
    assert report["pointing_iou_interval"]["0.5"]["2"] == [0, pytest.approx(1 - expected[0].expected, abs=1e-6)]
    # An overlap of 1/4 each varies no more than being right in a quarter of the images.
    assert report["iou"] == 1 / 4
    assert report["iou_interval"] == pytest.approx(binomtest(2, 8).proportion_ci(method="wilson"))
    curve = report["pointing_curve"]["containment_interval"]
    assert curve[:-1] == [expected] * 19
    assert curve[-1] == [0, 0]  # which nothing exceeds


def test_a_single_image_has_no_interval() -> None:
    one = pointing_accuracy([image(1, (0, 0, 10, 10))], [row(box(0, 0, 5, 5))]).to_dict()
    assert one["pointing"]["0.5"]["1"] == 1
    assert set(one["pointing_interval"]["0.5"].values()) == {None}
    assert one["iou_interval"] is None
    assert set(one["pointing_curve"]["containment_interval"][:-1]) == {None}
    # Of two images there is a mean over their labels, though neither says anything of its own.
    images = [image(1, (0, 0, 10, 10)), image(2, (0, 0, 10, 10), (30, 0, 40, 10))]
    two = pointing_accuracy(images, [row(box(0, 0, 5, 5)), row(box(0, 0, 5, 5), box(30, 0, 35, 5))]).to_dict()
    intervals = two["pointing_interval"]["0.5"]
    assert (intervals["1"], intervals["2"]) == (None, None)
    low, high = intervals["mean"]
    assert 0.3 < low < 0.5 < high == 1


def test_gains_are_over_the_images_that_both_count_right() -> None:
    images = [image(1, (0, 0, 10, 10))] * 6
    good, bad = row(box(0, 0, 5, 5)), row(box(8, 0, 18, 5))
    wrong = row(box(0, 0, 5, 5), box(5, 5, 9, 9))
    ours = pointing_accuracy(images, [good, good, good, bad, wrong, wrong])
    theirs = pointing_accuracy(images, [good, bad, bad, good, bad, wrong])
    gain = pointing_gain(ours, theirs)
    assert gain["images"] == 4
    # Of the four that both are asked about, three against two.
    assert gain["0.5"]["gain"] == pytest.approx(1 / 4)
    assert gain["0.5"]["interval"][0] < 1 / 4 < gain["0.5"]["interval"][1]
    back = pointing_gain(theirs, ours)
    assert back["0.5"]["gain"] == -gain["0.5"]["gain"]
    same = pointing_gain(ours, ours)
    assert same["images"] == 4
    # In none of four images did one gain, and in none did it lose.
    assert same["0.8"]["gain"] == 0
    assert same["0.8"]["interval"] == pytest.approx([-0.4899, 0.4899], abs=1e-4)
    assert pointing_gain(ours.among(np.array([1])), theirs)["0.5"] == {"gain": 1.0, "interval": None}


def test_where_both_take_as_many_of_an_images_pointers_neither_gains() -> None:
    half = pointing_accuracy(
        [image(2, (0, 0, 10, 10), (30, 0, 40, 10))] * 4, [row(box(0, 0, 5, 5), box(60, 0, 65, 5))] * 4
    )
    gain = pointing_gain(half, half)["0.5"]
    assert gain["gain"] == 0
    assert gain["interval"] == pytest.approx([-0.4899, 0.4899], abs=1e-4)  # as of four images of one pointer


def test_without_an_image_that_both_count_right_there_is_no_gain() -> None:
    images = [image(1, (0, 0, 10, 10))] * 2
    good, wrong = row(box(0, 0, 5, 5)), row(box(0, 0, 5, 5), box(5, 5, 9, 9))
    assert pointing_gain(pointing_accuracy(images, [good, wrong]), pointing_accuracy(images, [wrong, good])) == {
        "images": 0
    }
