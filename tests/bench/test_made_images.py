from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pc_engine.bench.made_images import check_room, image_record, lay_out, write_images
from pc_engine.datasets import read_labelled
from pc_engine.errors import UsageError


def test_objects_shrink_with_their_gaps_until_they_find_room() -> None:
    tried: list[tuple[float, float]] = []

    def places_of(shape: float, gap: float) -> str | None:
        tried.append((shape, gap))
        return "here" if shape < 9 else None

    shape, place = lay_out(10.0, 5.0, lambda scale: scale, places_of)
    assert (shape, place) == (pytest.approx(8.836), "here")
    assert tried[-1] == pytest.approx((10 * 0.94**2, 5 * 0.94**2))
    assert len(tried) == 2 * 12 + 1


def test_what_is_counted_is_of_the_dominant_class() -> None:
    boxes = [("cat", (0, 0, 10, 10)), ("dog", (0, 0, 50, 50)), ("cat", (20, 20, 9, 11))]
    record = image_record(100, 100, boxes, "cat", class_id=7)
    assert (record["count"], record["count_ge1pct"], record["n_boxes"], record["n_classes"]) == (2, 1, 3, 2)
    assert record["class_id"] == 7
    assert image_record(100, 100, [], None)["count"] == 0


def test_a_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    said: list[int] = []

    def make(index: int) -> tuple[Image.Image, dict[str, object]]:
        boxes = [("cat", (index, 2, 10, 12))] * index
        return Image.new("RGB", (64, 48), (index, 0, 0)), image_record(64, 48, boxes, "cat" if index else None)

    labels = write_images(
        *(tmp_path / "made", 3, make), name="made", note="how", classes=["cat"], threads=2, progress=said.append
    )
    assert said == [1, 2, 3]
    assert json.loads(labels.read_text())["note"] == "how"
    images = read_labelled(str(tmp_path / "made")).images
    assert [image.path.name for image in images] == ["000000.png", "000001.png", "000002.png"]
    assert [image.count for image in images] == [0, 1, 2]
    with Image.open(images[2].path) as picture:
        assert picture.getpixel((0, 0)) == (2, 0, 0)


def test_more_objects_than_find_room_are_refused_with_the_most_that_do() -> None:
    check_room(28, 32)
    with pytest.raises(UsageError, match=r"29 objects do not fit .* of 32 pixels: lower --max-count to 28, or"):
        check_room(29, 32)
