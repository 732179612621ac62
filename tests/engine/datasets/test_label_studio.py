from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pc_engine.converters import ConversionSettings, convert
from pc_engine.datasets import Box, LabelledImage, read_labelled
from pc_engine.errors import DataError
from pc_engine.pointers import BoxPointer, EllipsePointer
from pc_engine.result import Result

SIZE = {"original_width": 200, "original_height": 100}


def rectangle(x: float, y: float, width: float, height: float, label: str = "cat", **value: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": width, "height": height, "rectanglelabels": [label], **value}
    return {"type": "rectanglelabels", "value": value, **SIZE}


def point(label: str = "cat") -> dict[str, Any]:
    return {"type": "keypointlabels", "value": {"x": 1, "y": 2, "keypointlabels": [label]}, **SIZE}


def number(count: object) -> dict[str, Any]:
    return {"type": "number", "value": {"number": count}}


def task(*result: dict[str, Any], image: str = "a.jpg", before: Iterable[dict[str, Any]] = ()) -> dict[str, Any]:
    annotations = [{"result": list(result), "was_cancelled": False}]
    return {"id": 7, "data": {"image": image}, "annotations": annotations, "predictions": [{"result": list(before)}]}


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Any]:
    """Return ``read(*tasks)``: what is read of them, beside a picture ``a.jpg``."""
    Image.new("RGB", (200, 100)).save(tmp_path / "a.jpg")

    def read(*tasks: object) -> Any:
        (tmp_path / "tasks.json").write_text(json.dumps(tasks))
        return read_labelled(f"label-studio:{tmp_path / 'tasks.json'}")

    return read


def test_regions_are_boxes_in_pixels_and_their_number_is_the_count(read: Any, tmp_path: Path) -> None:
    labelled = read(task(rectangle(10, 20, 30, 40), rectangle(50, 50, 10, 10), rectangle(0, 0, 5, 5, "dog")))
    boxes = (Box(20, 20, 80, 60, "cat"), Box(100, 50, 120, 60, "cat"), Box(0, 0, 10, 5, "dog"))
    assert labelled.images == (LabelledImage(tmp_path / "a.jpg", 2, "cat", boxes=boxes),)
    assert labelled.skipped == ()
    assert read_labelled(str(tmp_path / "tasks.json")) == labelled


def test_other_shapes_have_the_box_around_them(read: Any) -> None:
    ellipse = {"x": 50, "y": 50, "radiusX": 10, "radiusY": 20, "ellipselabels": ["cat"]}
    polygon = {"points": [[10, 10], [20, 50], [15, 5]], "polygonlabels": ["cat"]}
    shapes = [
        {"type": f"{kind}labels", "value": value, **SIZE}
        for kind, value in (("ellipse", ellipse), ("polygon", polygon))
    ]
    (image,) = read(task(*shapes, rectangle(50, 50, 10, 10, rotation=90))).images
    assert image.count == 3
    assert [tuple(round(edge, 6) for edge in (b.x0, b.y0, b.x1, b.y1)) for b in image.boxes] == [
        *((80, 30, 120, 70), (20, 5, 40, 50)),
        (90, 50, 100, 70),  # 20 x 10 pixels, turned clockwise about its first corner
    ]
    (image,) = read(task(*shapes, point())).images
    assert (image.count, image.boxes) == (3, ())  # of which one has no box


def test_a_turned_rectangle_has_the_box_around_its_corners(read: Any) -> None:
    ((box,),) = (image.boxes for image in read(task(rectangle(50, 50, 10, 10, rotation=30))).images)
    cos, sin = math.cos(math.radians(30)), 0.5
    expected = (100 - 10 * sin, 50, 100 + 20 * cos, 50 + 20 * sin + 10 * cos)  # 20 x 10 pixels
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx(expected)


def test_the_label_of_the_largest_area_is_counted_and_of_points_that_of_most(read: Any) -> None:
    dogs = [rectangle(k, 0, 5, 5, "dog") for k in range(3)]
    (image,) = read(task(*dogs, rectangle(10, 10, 80, 80))).images
    assert (image.count, image.class_name) == (1, "cat")
    (image,) = read(task(*dogs, rectangle(10, 10, 80, 80), point())).images
    assert (image.count, image.class_name) == (3, "dog")


@pytest.mark.parametrize(
    ("kind", "value", "n_boxes"),
    [
        ("rectangle", {"x": 10, "y": 20, "width": 30, "height": 40}, 2),
        ("ellipse", {"x": 25, "y": 40, "radiusX": 15, "radiusY": 20}, 2),
        ("polygon", {"points": [[10, 20], [40, 20], [40, 60]]}, 2),
        ("keypoint", {"x": 25, "y": 40, "width": 1}, 0),
        ("brush", {"format": "rle", "rle": [0, 1]}, 0),
    ],
)
def test_shapes_may_have_their_labels_beside_them(read: Any, kind: str, value: dict[str, Any], n_boxes: int) -> None:
    """As <Rectangle> with <Labels> exports them, and with what is asked of each region."""
    result: list[Any] = []
    for identity in ("r1", "r2"):
        parts = {kind: {}, "labels": {"labels": ["cat"]}, "textarea": {"text": ["old"]}}
        result += [{"id": identity, "type": name, "value": {**value, **own}, **SIZE} for name, own in parts.items()]
    (image,) = read(task(*result)).images
    assert (image.count, image.class_name) == (2, "cat")
    assert image.boxes == (Box(20, 20, 80, 60, "cat"),) * n_boxes


def test_a_task_with_regions_that_are_not_read_is_no_image_without_objects(read: Any) -> None:
    vector = {"id": "r1", "type": "vectorlabels", "value": {"vertices": [], "vectorlabels": ["cat"]}, **SIZE}
    alone = {"id": "r1", "type": "labels", "value": {"x": 1, "y": 2, "labels": ["cat"]}}
    choice = {"id": "c", "type": "choices", "value": {"choices": ["sharp"]}}
    labelled = read(task(point(), vector), task(alone), task(choice))
    assert [image.count for image in labelled.images] == [0]
    assert [reason.partition(",")[0] for _, reason in labelled.skipped] == [
        "a region of it is of the type 'vectorlabels'",
        "a region of it is of the type 'labels'",
    ]


def test_what_is_said_of_a_picture_or_came_before_is_no_region(read: Any) -> None:
    sized = {**number(1), **SIZE}
    bitmask = {"id": "r1", "type": "bitmasklabels", "value": {"imageDataURL": "data:"}, **SIZE}
    labelled = read(task(sized, rectangle(10, 20, 30, 40), before=[bitmask]))
    assert [(image.count, image.class_name) for image in labelled.images] == [(1, "cat")]
    assert labelled.skipped == ()


def test_a_region_that_is_there_twice_is_one_object(read: Any) -> None:
    labelled_one = {**rectangle(10, 20, 30, 40), "id": "r1"}
    plain = {**labelled_one, "type": "rectangle", "value": {"x": 10, "y": 20, "width": 30, "height": 40}}
    for parts in ((plain, labelled_one), (labelled_one, plain)):
        (image,) = read(task(*parts)).images
        assert (image.count, image.class_name, image.boxes) == (1, "cat", (Box(20, 20, 80, 60, "cat"),))


def test_a_turned_ellipse_has_the_box_around_it(read: Any) -> None:
    value = {"x": 50, "y": 50, "radiusX": 15, "radiusY": 5, "rotation": 90, "ellipselabels": ["cat"]}
    ((box,),) = (found.boxes for found in read(task({"type": "ellipselabels", "value": value, **SIZE})).images)
    # Half axes of 30 and 5 pixels, of which the long one stands upright.
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((95, 20, 105, 80))


def test_parts_of_a_result_that_hold_nothing_are_left_out(read: Any) -> None:
    odd: list[Any] = [5, {"type": "number"}, {"type": "rectanglelabels", "value": [1]}]
    points = [[10, 10], 5, [20], ["x", 1], [20, 50], [1, 2, 3], [15, 5]]
    polygon = {"type": "polygonlabels", "value": {"points": points, "polygonlabels": ["cat"]}, **SIZE}
    (image,) = read(task(*odd, polygon)).images
    assert (image.count, image.boxes) == (1, (Box(20, 5, 40, 50, "cat"),))


@pytest.mark.parametrize(
    ("result", "before", "count", "n_boxes"),
    [
        ([number(0)], [], 0, 0),
        ([number(2), rectangle(1, 1, 5, 5), rectangle(9, 9, 5, 5)], [], 2, 2),
        ([number(3), rectangle(1, 1, 5, 5)], [number(1), rectangle(1, 1, 5, 5)], 3, 0),  # the number was corrected
        ([number(1), rectangle(1, 1, 5, 5), rectangle(9, 9, 5, 5)], [number(1), point()], 2, 2),  # an object was added
        ([number(1)], [number(1), point()], 0, 0),  # it was taken away
        ([], [number(1), point()], 0, 0),
    ],
)
def test_what_somebody_changed_holds(read: Any, result: list[Any], before: list[Any], count: int, n_boxes: int) -> None:
    (image,) = read(task(*result, before=before)).images
    assert (image.count, len(image.boxes)) == (count, n_boxes)


def test_a_number_and_regions_that_contradict_each_other_are_said(read: Any) -> None:
    good = task(point())
    for before in ([], [number(2), point()]):
        contradicted = task(number(5), point(), point(), point(), before=before)
        ((item, reason),) = read(good, contradicted).skipped
        assert (item, reason) == ("task 7", "its number is 5, but 3 objects are marked: make them agree")


def test_the_last_annotation_counts_and_none_that_was_cancelled(read: Any) -> None:
    annotations = [
        {"result": [point()], "updated_at": "2026-01-02"},
        {"result": [point()] * 3, "updated_at": "2026-01-01"},
        {"result": [point()] * 4, "updated_at": "2026-01-03", "was_cancelled": True},
    ]
    (image,) = read({**task(), "annotations": annotations}).images
    assert image.count == 1
    for date in ({}, {"updated_at": "2026-01-02"}):
        undated = [{"result": [point()] * n, **date} for n in (1, 2)]
        assert read({**task(), "annotations": undated}).images[0].count == 2
    labelled = read(task(point()), {**task(), "annotations": []}, {**task(), "annotations": annotations[2:]})
    assert labelled.skipped == (("task 7", "nobody has annotated it"),) * 2


@pytest.mark.parametrize(
    "image",
    [
        "a.jpg",
        "/data/local-files/?d=photos/a.jpg",
        "/data/local-files/?d=a%2Ejpg&x=1",
        "/data/upload/3/01ab23cd-a.jpg",
        "https://host/photos/a.jpg?key=1",
        "s3://bucket/a.jpg",
    ],
)
@pytest.mark.parametrize("elsewhere", [False, True])
def test_images_are_found_by_any_of_its_addresses(read: Any, tmp_path: Path, image: str, elsewhere: bool) -> None:
    read(task(point(), image=image))
    spec = f"label-studio:{tmp_path / 'tasks.json'}"
    if elsewhere:
        (tmp_path / "photos").mkdir()
        (tmp_path / "a.jpg").rename(tmp_path / "photos/a.jpg")
        (tmp_path / "sub").mkdir()
        spec = f"label-studio:{(tmp_path / 'tasks.json').rename(tmp_path / 'sub/tasks.json')}@{tmp_path / 'photos'}"
    (found,) = read_labelled(spec).images
    assert found.path.name == "a.jpg"
    assert found.path.is_file()


def test_an_image_that_is_missed_says_how_to_find_it(read: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"if the images are elsewhere: 'label-studio:.*tasks.json@IMAGES_DIR'"):
        read(task(point(), image="gone.jpg"))
    with pytest.raises(DataError, match="its data names no image"):
        read({**task(point()), "data": {"text": "a"}})
    for content in ("{}", "[]", "[1]"):
        (tmp_path / "tasks.json").write_text(content)
        with pytest.raises(DataError, match="is not a list of tasks: export as 'JSON' from Label Studio"):
            read_labelled(f"label-studio:{tmp_path / 'tasks.json'}")
    with pytest.raises(DataError, match="There is no file"):
        read_labelled(f"label-studio:{tmp_path / 'none.json'}")


@pytest.mark.parametrize("kind", ["ellipses", "boxes"])
def test_a_run_comes_back_as_it_was_corrected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """From rows to tasks, through a correction as Label Studio exports it, and back."""
    monkeypatch.chdir(tmp_path)
    pointers: tuple[Any, ...] = (EllipsePointer(20, 10, 5, 4, 0.7), EllipsePointer(60, 40, 5, 4, 0.3))
    if kind == "boxes":
        pointers = tuple(BoxPointer(*pointer.bounds, pointer.score) for pointer in pointers)
    rows = []
    for name in ("as-it-was.jpg", "number.jpg", "one-less.jpg"):
        Image.new("RGB", (200, 100)).save(tmp_path / name)
        rows.append(Result(name, "ok", None, 200, 100, "c2p", "tiny", 2, "2", pointers=pointers).to_dict())
    convert(lambda: iter(rows), "label-studio", tmp_path / "set", ConversionSettings())
    tasks = json.loads((tmp_path / "set/tasks.json").read_text())
    for made in tasks:
        made["annotations"] = [json.loads(json.dumps(made["predictions"][0]))]
    results = [made["annotations"][0]["result"] for made in tasks]
    results[1][0]["value"]["number"] = 3
    del results[2][-1]
    (tmp_path / "export.json").write_text(json.dumps(tasks))
    labelled = read_labelled("label-studio:export.json")
    assert [(image.path.name, image.count) for image in labelled.images] == [
        *(("as-it-was.jpg", 2), ("number.jpg", 3), ("one-less.jpg", 1))
    ]
    if kind == "boxes":
        assert [len(image.boxes) for image in labelled.images] == [2, 0, 1]
        assert labelled.images[0].boxes[0] == Box(*map(pytest.approx, pointers[0].bounds), "object")
