from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pc_engine.bench.accuracy.failure_analysis import (
    AXES,
    FEWEST_SHOWN,
    bin_name,
    failure_analysis,
    object_scale,
    object_spacing,
)
from pc_engine.bench.accuracy.pointing import pointing_accuracy
from pc_engine.bench.accuracy.truth import Truth
from pc_engine.datasets import Box, LabelledImage
from pc_engine.pointers import BoxPointer
from pc_engine.result import Result, error_result


def test_scale_is_the_side_of_a_square_of_the_same_share() -> None:
    assert object_scale([Box(0, 0, 50, 50)], 100, 100) == pytest.approx(0.5)
    assert object_scale([Box(0, 0, 50, 50), Box(0, 0, 10, 40)], 200, 50) == pytest.approx((0.5 + 0.2) / 2)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([(0, 0, 10, 10), (15, 0, 25, 10)], 0.5),
        ([(0, 0, 10, 10), (13, 14, 23, 24)], 0.5),  # a diagonal of 3 and 4
        ([(0, 0, 10, 10), (10, 0, 20, 10)], 0.0),
        ([(0, 0, 10, 10), (2, 2, 8, 8)], 0.0),
        ([(0, 0, 10, 10), (12, 0, 42, 30)], 0.1),  # sizes 10 and 30
        ([(0, 0, 10, 10), (90, 0, 99, 10), (0, 12, 10, 22)], 0.2),  # the closest two
        ([(0, 0, 10, 10)], math.nan),
    ],
)
def test_spacing_is_the_smallest_gap_over_the_size(boxes: list[tuple[int, ...]], expected: float) -> None:
    found = object_spacing([Box(*corners) for corners in boxes])
    assert found == pytest.approx(expected, nan_ok=True)


def pair(boxes: list[Box], found: int, *, pointed: int = 0, class_name: str = "dog") -> tuple[LabelledImage, Result]:
    """An image of 100 x 100 with these boxes, and a row that counts ``found``, with ``pointed`` boxes hit."""
    image = LabelledImage(Path("a.png"), len(boxes), class_name, boxes=tuple(boxes))
    pointers = tuple(
        BoxPointer(box.x0, box.y0, box.x1, box.y1, 1.0) if place < pointed else BoxPointer(90, 90, 99, 99, 1.0)
        for place, box in enumerate([*boxes, *[Box(90, 90, 99, 99)] * found][:found])
    )
    return image, Result("a.png", "ok", None, 100, 100, "p2c", "tiny", found, str(found), pointers=pointers)


def analyse(pairs: list[tuple[LabelledImage, Result]], frequencies: list[float | None] | None = None) -> dict[str, Any]:
    images, rows = [image for image, _ in pairs], [row for _, row in pairs]
    known = frequencies or [None] * len(images)
    truth = Truth(images)
    report = failure_analysis(truth, rows, pointing_accuracy(truth, rows), known)
    assert json.loads(json.dumps(report)) == report
    return report


def squares(side: float, *starts: float) -> list[Box]:
    return [Box(start, 0, start + side, side, "dog") for start in starts]


def test_bins_are_as_worked_out_by_hand() -> None:
    one_small, one_large = squares(12, 0), squares(70, 0)
    two_close, two_apart = squares(12, 0, 13), squares(12, 0, 40)
    report = analyse(
        [
            pair(one_small, 1, pointed=1),
            pair(one_small, 2),
            pair(one_large, 3),
            pair(one_large, 1, pointed=1),
            pair(one_large, 4),
            pair(two_close, 1),
            pair(two_apart, 2, pointed=1),
            pair([], 1),  # nothing to be judged by
            (LabelledImage(Path("b.png"), 1), error_result("b.png", "broken", mode="p2c", model="tiny")),
        ]
    )
    small, large = report["scale"]["bins"]
    # One object, two rights of five; two objects, one right of two.
    assert bins(small) == (0.1, 0.15, 4, 2)
    assert bins(large) == (0.6, 0.8, 3, 1)
    assert (small["right"], small["too_low"], small["too_high"]) == (2 / 4, 1 / 4, 1 / 4)
    assert (large["right"], large["too_low"], large["too_high"]) == (1 / 3, 0, 2 / 3)
    assert small["right_expected"] == pytest.approx((2 * 2 / 5 + 2 * 1 / 2) / 4)
    assert large["right_expected"] == pytest.approx(2 / 5)
    assert large["too_high_expected"] == pytest.approx(3 / 5)
    # One pointer of one, and one of two.
    assert small["pointing"] == pytest.approx(2 / 3)
    assert small["pointing_expected"] == pytest.approx((1 * 1 + 2 * 1 / 2) / 3)
    assert small["pointing_interval"] is None  # of 2 images
    close, apart = report["spacing"]["bins"]
    assert bins(close) == (0.0, 0.1, 1, 0)
    assert bins(apart) == (2.0, None, 1, 1)
    assert (close["right"], close["too_low"], close["right_expected"], close["pointing"]) == (0, 1, 1 / 2, None)
    assert report["class_frequency"]["bins"] == report["classes"] == []


def bins(entry: dict[str, Any]) -> tuple[Any, ...]:
    return entry["above"], entry["up_to"], entry["images"], entry["pointing_images"]


def test_the_expected_add_up_to_the_found() -> None:
    rng = np.random.default_rng(0)
    pairs = [
        pair(squares(float(rng.integers(5, 24)), *(25.0 * np.arange(rng.integers(1, 5)))), int(rng.integers(1, 6)))
        for _ in range(60)
    ]
    report = analyse(pairs)
    for axis in ("scale", "spacing"):
        entries = report[axis]["bins"]
        for name in ("right", "too_low", "too_high"):
            found = sum(entry["images"] * entry[name] for entry in entries)
            assert found == pytest.approx(sum(entry["images"] * entry[f"{name}_expected"] for entry in entries))
        for entry in entries:
            assert entry["right"] + entry["too_low"] + entry["too_high"] == pytest.approx(1)
            low, high = entry["right_interval"]
            assert 0 <= low <= entry["right"] <= high <= 1
            assert high - low > 0.05  # also where all are right


def test_images_whose_boxes_do_not_fit_their_count_have_no_scale_but_a_class() -> None:
    image, row = pair(squares(20, 0, 40), 2)
    odd = (LabelledImage(image.path, 1, "dog", boxes=image.boxes), row)
    unboxed = (LabelledImage(image.path, 1, "dog"), row)
    report = analyse([odd, unboxed], [0.0, 0.03])
    assert report["scale"]["bins"] == report["spacing"]["bins"] == []
    assert [bins(entry) for entry in report["class_frequency"]["bins"]] == [(None, 0.0, 1, 0), (0.02, 0.05, 1, 0)]


def test_classes_are_listed_by_how_common_they_are() -> None:
    dogs = [pair(squares(20, 0), 1, pointed=1) for _ in range(FEWEST_SHOWN + 2)]
    cats = [pair(squares(20, 0), 2, class_name="cat") for _ in range(FEWEST_SHOWN)]
    rare = [pair(squares(20, 0), 2, class_name="cow")]
    report = analyse([*cats, *dogs, *rare], [0.1] * FEWEST_SHOWN + [0.2] * FEWEST_SHOWN + [0.3, 0.3, 0.5])
    dog, cat = report["classes"]
    assert (dog["class"], dog["images"], dog["right"]) == ("dog", FEWEST_SHOWN + 2, 1)
    assert (cat["class"], cat["images"], cat["right"], cat["frequency"]) == ("cat", FEWEST_SHOWN, 0, pytest.approx(0.1))
    assert dog["frequency"] == pytest.approx((0.2 * FEWEST_SHOWN + 0.6) / (FEWEST_SHOWN + 2))
    # All pointers are right, of as many images.
    assert dog["pointing_interval"] == dog["right_interval"] == [pytest.approx(12 / (12 + 1.959964**2)), 1]


def test_bins_have_names() -> None:
    scale, spacing, frequency = (
        [bin_name(axis.name, {"above": above, "up_to": up_to}) for above, up_to in axis.bins] for axis in AXES
    )
    assert scale[:2] == ["to 0.05", "0.05-0.1"]
    assert (spacing[0], spacing[1], spacing[-1]) == ("0", "0-0.1", "above 2")
    assert frequency[1:3] == ["0-0.5", "0.5-1"]


def test_spacing_is_judged_among_images_of_like_scale() -> None:
    """Far apart for their size, but small: what is wrong with small objects is not their spacing's."""
    large = [pair(squares(18, 0, gap), 2) for gap in (19, 19, 19, 50, 50, 50)]
    small = [pair(squares(6, 0, gap), 1) for gap in (7, 60, 60)]
    close, far = analyse([*large, *small])["spacing"]["bins"][0], analyse([*large, *small])["spacing"]["bins"][-1]
    assert (close["up_to"], close["right"], close["right_expected"]) == (0.1, 1, 1)
    assert (far["up_to"], far["right"], far["right_expected"]) == (None, 0, 0)
