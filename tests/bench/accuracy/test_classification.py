from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pc_engine.bench.accuracy.classification import class_accuracy, true_classes
from pc_engine.bench.accuracy.truth import Truth
from pc_engine.datasets import LabelledImage
from pc_engine.datasets.imagenet import imagenet_class_names
from pc_engine.manifest import Manifest, NetworkInput, Tap
from pc_engine.result import Result

RED, GREEN, UNKNOWN = 0, 1, -1


def _row(class_id: int | None) -> Result:
    return Result("a.png", "ok", None, 8, 8, "p2c", "tiny", count=1, class_id=class_id)


def _image(count: int, class_name: str = "red", class_id: int | None = None) -> LabelledImage:
    return LabelledImage(Path("a.png"), count=count, class_name=class_name, class_id=class_id)


def test_classes_are_compared_by_count_where_there_are_objects() -> None:
    judged = [
        (_image(1), _row(RED), RED),
        (_image(1), _row(GREEN), RED),
        (_image(2), _row(GREEN), GREEN),
        (_image(6), _row(GREEN), GREEN),
        # No objects, a class that the network does not know, and a row without a class.
        (_image(0), _row(GREEN), RED),
        (_image(1), _row(GREEN), UNKNOWN),
        (_image(1), _row(None), RED),
    ]
    images, rows, class_ids = zip(*judged, strict=True)
    found = class_accuracy(Truth(images), rows, class_ids)
    assert found["class_accuracy"] == pytest.approx(3 / 4)
    assert found["class_images"] == 4
    assert found["class_accuracy_by_count"] == {"1": 0.5, "2": 1, "4+": 1}
    low, high = found["class_accuracy_interval"]
    assert 0 <= low < 3 / 4 < high == 1


def test_the_interval_has_a_width_where_all_classes_are_right_or_wrong() -> None:
    for class_id, interval in ((RED, (1 - 0.4345, 1)), (GREEN, (0, 0.4345))):
        found = class_accuracy(Truth([_image(1)] * 5), [_row(class_id)] * 5, [RED] * 5)
        assert found["class_accuracy_interval"] == pytest.approx(interval, abs=1e-4)


def test_without_classes_there_is_no_figure() -> None:
    found = class_accuracy(Truth([_image(1)]), [_row(None)], [RED])
    assert found == {
        "class_accuracy": None,
        "class_accuracy_interval": None,
        "class_images": 0,
        "class_accuracy_by_count": {},
    }


def test_true_classes_are_found_as_signatures_are_fitted() -> None:
    """By names, synonyms and WordNet ids; ImageNet has two classes named "crane", of which numbers tell."""
    names = imagenet_class_names()
    taps = {"conv_last": Tap("c", (3, 2, 2)), "logits": Tap("l", (1000,))}
    manifest = Manifest("net", NetworkInput("image", 32, 32), taps, (), classes=names)
    told = [("n01440764", None), ("tench", 0), (names[0], None), ("crane", 134), ("crane", 517), ("unicorn", None)]
    images = [_image(1, name, number) for name, number in told]
    assert true_classes(images, manifest) == [0, 0, 0, 134, 517, UNKNOWN]
    assert true_classes([_image(1, "unicorn")], manifest) == [UNKNOWN]
    # The numbers of labels without names are their own; those of a network without names are its logits.
    assert true_classes([_image(1, "7"), _image(1, "tench")], manifest) == [UNKNOWN, 0]
    assert true_classes([_image(1, "7")], replace(manifest, classes=())) == [7]
