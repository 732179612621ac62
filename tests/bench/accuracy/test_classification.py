from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from pc_engine.bench.accuracy import classification
from pc_engine.datasets import LabelledImage
from pc_engine.fitted.counter import DEFAULT_LABELS
from pc_engine.result import Result

class_accuracy = partial(classification.class_accuracy, labels=DEFAULT_LABELS, seed=0)


def _row(class_name: str | None) -> Result:
    return Result("a.png", "ok", None, 8, 8, "p2c", "tiny", count=1, class_name=class_name)


def _image(count: int, class_name: str) -> LabelledImage:
    return LabelledImage(Path("a.png"), count=count, class_name=class_name)


def test_classes_are_compared_by_count_where_there_are_objects() -> None:
    judged = [
        (_image(1, "red"), _row("red")),
        (_image(1, "red"), _row("green")),
        (_image(2, "green"), _row("green")),
        (_image(6, "green"), _row("green")),
        # No objects, a class that the network does not know, and a row without a class.
        (_image(0, "red"), _row("green")),
        (_image(1, "blue"), _row("green")),
        (_image(1, "red"), _row(None)),
    ]
    found = class_accuracy(*zip(*judged, strict=True), classes=("red", "green"))
    assert found["class_accuracy"] == pytest.approx(3 / 4)
    assert found["class_images"] == 4
    assert found["class_accuracy_by_count"] == {"1": 0.5, "2": 1, "4+": 1}
    low, high = found["class_accuracy_interval"]
    assert 0 <= low < 3 / 4 < high == 1


def test_the_interval_has_a_width_where_all_classes_are_right_or_wrong() -> None:
    for class_name, interval in (("red", (1 - 0.4345, 1)), ("green", (0, 0.4345))):
        found = class_accuracy([_image(1, "red")] * 5, [_row(class_name)] * 5, classes=("red", "green"))
        assert found["class_accuracy_interval"] == pytest.approx(interval, abs=1e-4)


def test_without_classes_there_is_no_figure() -> None:
    found = class_accuracy([_image(1, "red")], [_row(None)], classes=("red",))
    assert found == {
        "class_accuracy": None,
        "class_accuracy_interval": None,
        "class_images": 0,
        "class_accuracy_by_count": {},
    }
