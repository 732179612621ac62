from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pc_engine.datasets import Box, LabelledImage, read_labelled
from pc_engine.errors import DataError

COW = {"c": "cow", "b": [0, 0, 9, 9]}


def write(folder: Path, entries: list[Any], **head: Any) -> None:
    for entry in entries:
        if isinstance(entry, dict) and "file" in entry and entry["file"] != "lost.jpg":
            (folder / str(entry["file"])).parent.mkdir(parents=True, exist_ok=True)
            (folder / str(entry["file"])).touch()
    (folder / "labels.json").write_text(json.dumps({**head, "images": entries}), encoding="utf-8")


def test_counts_classes_and_boxes_are_read(tmp_path: Path) -> None:
    boxes = [{"c": "apple", "b": [1, 2, 3, 4]}, {"c": "apple", "b": [0, 0, 50, 50], "crowd": 1}]
    write(tmp_path, [{"file": "img/a.jpg", "dominant": "apple", "count": 7, "boxes": boxes}], set="fruit")
    labelled = read_labelled(str(tmp_path))
    expected = LabelledImage(
        tmp_path / "img/a.jpg",
        7,
        "apple",
        boxes=(Box(1, 2, 4, 6, "apple"),),
        crowds=(Box(0, 0, 50, 50, "apple"),),
    )
    assert (labelled.name, labelled.images, labelled.skipped) == ("fruit", (expected,), ())
    assert read_labelled(f"lego:{tmp_path}") == labelled
    assert read_labelled(str(tmp_path / "labels.json")) == labelled


def test_groups_are_read(tmp_path: Path) -> None:
    write(tmp_path, [{"file": "a.png", "count": 1, "group": 0}, {"file": "b.png", "count": 1}])
    assert [image.group for image in read_labelled(str(tmp_path)).images] == ["0", None]


def test_an_empty_scene_counts_zero_and_has_no_class(tmp_path: Path) -> None:
    write(tmp_path, [{"file": "a.png", "dominant": None, "class_id": -1, "count": 0, "boxes": []}])
    (image,) = read_labelled(str(tmp_path)).images
    assert (image.count, image.class_name, image.class_id) == (0, None, None)


def test_boxes_alone_give_the_dominant_class_by_area_and_its_count(tmp_path: Path) -> None:
    small = {"c": "ant", "b": [0, 0, 2, 2]}
    write(tmp_path, [{"file": "a.png", "boxes": [small, small, small, COW]}])
    (image,) = read_labelled(str(tmp_path)).images
    assert (image.class_name, image.count) == ("cow", 1)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"dominant": "ant"}, ("ant", 3)),
        ({"dominant": "bee"}, ("bee", None)),
        ({"count": 2}, ("cow", 2)),
        ({"count": 0}, (None, 0)),  # boxes of what is not counted
        ({"dominant": "ant", "count": 5}, ("ant", 5)),
        ({"dominant": "ant", "boxes": []}, ("ant", None)),
        ({"dominant": "ant", "boxes": [{"b": [0, 0, 2, 2]}]}, ("ant", 1)),
        ({"boxes": [COW, {**COW, "crowd": 1}]}, ("cow", None)),
        ({"boxes": [COW, {**COW, "c": "ant", "crowd": 1}]}, ("cow", 1)),
        ({"boxes": [{**COW, "crowd": 1}]}, (None, None)),
        ({"dominant": "ant", "boxes": [COW, {**COW, "c": "ant"}, {**COW, "c": "ant", "crowd": 1}]}, ("ant", None)),
        ({"dominant": "ant", "boxes": [COW, {**COW, "c": "ant"}, {**COW, "crowd": 1}]}, ("ant", 1)),
        ({"count": 2, "boxes": [COW, {**COW, "crowd": 1}]}, ("cow", 2)),
    ],
)
def test_what_is_left_out_is_told_by_the_boxes(tmp_path: Path, said: dict[str, Any], expected: Any) -> None:
    small = {"c": "ant", "b": [0, 0, 2, 2]}
    write(tmp_path, [{"file": "a.png", "boxes": [small, small, small, COW], **said}])
    (image,) = read_labelled(str(tmp_path)).images
    assert (image.class_name, image.count) == expected


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"file": "lost.jpg", "count": 1}, "there is no such file"),
        ({"count": 1}, "not an object with a 'file'"),
        ("a.jpg", "not an object with a 'file'"),
        ({"file": "b.jpg", "count": "many"}, "its count is 'many', expected a whole number"),
        ({"file": "b.jpg", "count": -1}, "its count is -1"),
        ({"file": "b.jpg", "count": 1.5}, "its count is 1.5"),
        ({"file": "b.jpg", "count": 1, "boxes": [{"c": "x", "b": [1, 2]}]}, r"its box \[1, 2\] is not"),
        ({"file": "b.jpg", "count": 1, "boxes": [{"c": "x", "b": [1, 2, None, 3]}]}, "is not \\[x, y"),
        ({"file": "b.jpg", "count": 1, "boxes": [{"c": "x", "b": [1, 2, float("nan"), 3]}]}, "is not finite"),
        ({"file": "b.jpg", "count": 1, "boxes": "none"}, "its 'boxes' is not a list"),
    ],
)
def test_a_bad_entry_is_skipped_with_its_reason(tmp_path: Path, entry: Any, reason: str) -> None:
    write(tmp_path, [entry, {"file": "good.jpg", "count": 2}])
    labelled = read_labelled(str(tmp_path))
    assert [image.path.name for image in labelled.images] == ["good.jpg"]
    ((_, found),) = labelled.skipped
    assert re.search(reason, found)


def test_a_box_without_area_is_left_out_and_noted(tmp_path: Path) -> None:
    boxes = [{"c": "cell", "b": [5, 5, 0, 0]}, {"c": "cell", "b": [5, 5, 2, 2]}]
    write(tmp_path, [{"file": "a.png", "dominant": "cell", "count": 2, "boxes": boxes}])
    labelled = read_labelled(str(tmp_path))
    assert labelled.images[0].boxes == (Box(5, 5, 7, 7, "cell"),)
    assert labelled.skipped[0][0] == "a box of a.png"


def test_a_set_without_a_usable_image_names_the_first_reason(tmp_path: Path) -> None:
    write(tmp_path, [{"file": "lost.jpg", "count": 1}])
    with pytest.raises(
        DataError, match=r"each of its 1 entries was skipped, the first, .*lost.jpg, because there is no"
    ):
        read_labelled(str(tmp_path))
    write(tmp_path, [])
    with pytest.raises(DataError, match="gives no labelled image: it lists none"):
        read_labelled(str(tmp_path))


def test_a_refusal_shows_a_form_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('{"pictures": []}', encoding="utf-8")
    with pytest.raises(DataError, match=r"it is not a labels\.json: write it as \{") as refused:
        read_labelled(str(tmp_path))
    form = str(refused.value).partition("write it as ")[2].rstrip(".")
    form = form.replace("x, y, width, height", "1, 2, 3, 4").replace(", ...", "")
    write(tmp_path, json.loads(form)["images"])
    (image,) = read_labelled(str(tmp_path)).images
    assert (image.count, image.boxes) == (1, (Box(1, 2, 4, 6, "apple"),))


@pytest.mark.parametrize("content", ["{", "\x00", '{"pictures": []}', "3"])
def test_a_file_of_another_form_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"labels\.json (cannot be read as JSON|has no list 'images')"):
        read_labelled(str(tmp_path))
