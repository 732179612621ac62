from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pc_engine.datasets import Box, LabelledImage, clip_to_frame
from pc_engine.datasets.records import box_around, counted_class, dominant_class, find_image, image_of_boxes

coordinate = st.integers(-30, 60)
boxes = st.lists(
    st.tuples(coordinate, coordinate, st.integers(1, 40), st.integers(1, 40)).map(
        lambda values: Box(values[0], values[1], values[0] + values[2], values[1] + values[3], "cat")
    ),
    max_size=5,
)


def test_boxes_are_cut_to_the_frame_and_counted() -> None:
    inside, across, around = Box(1, 2, 3, 4), Box(-3, 2, 5, 60, "cat"), Box(-1, -1, 21, 11)
    beside, touching = Box(20.5, 0, 30, 5), Box(-5, 0, 0, 5)
    kept, cut, outside = clip_to_frame([inside, across, around, beside, touching], 20, 10)
    assert kept == (inside, Box(0, 2, 5, 10, "cat"), Box(0, 0, 20, 10))
    assert (cut, outside) == (2, 2)


@given(boxes)
def test_what_is_cut_lies_within_and_stays_when_cut_again(some: list[Box]) -> None:
    kept, cut, outside = clip_to_frame(some, 20, 10)
    assert len(kept) == len(some) - outside
    assert cut <= len(kept)
    assert all(0 <= box.x0 < box.x1 <= 20 and 0 <= box.y0 < box.y1 <= 10 for box in kept)
    assert clip_to_frame(kept, 20, 10) == (kept, 0, 0)


@pytest.mark.parametrize(
    ("class_name", "counted"), [("cat", (0, 2)), ("dog", (1,)), (None, (1,)), ("bird", ()), ("", ())]
)
def test_counted_boxes_are_those_of_the_class(class_name: str | None, counted: tuple[int, ...]) -> None:
    some = (Box(0, 0, 2, 2, "cat"), Box(0, 0, 9, 9, "dog"), Box(5, 5, 6, 6, "cat"))
    image = LabelledImage(Path("a.png"), 1, class_name, boxes=some)
    assert image.counted_boxes == tuple(some[i] for i in counted)


def test_the_dominant_class_has_the_largest_area_wherever_its_boxes_lie() -> None:
    corner, far = Box(0, 0, 5, 4, "dog"), (Box(90, 0, 93, 3, "cat"), Box(0, 90, 3, 93, "cat"))
    assert (corner.area, far[0].area, far[1].area) == (20, 9, 9)
    assert dominant_class((*far, corner)) == ("dog", 1)
    assert dominant_class((*far, corner, Box(50, 50, 52, 52, "cat"))) == ("cat", 3)
    assert dominant_class(()) == (None, 0)


def test_boxes_without_classes_are_all_counted() -> None:
    some = (Box(0, 0, 2, 2), Box(0, 0, 9, 9))
    assert LabelledImage(Path("a.png"), 2, "cat", boxes=some).counted_boxes == some
    assert LabelledImage(Path("a.png"), 0).counted_boxes == ()


def test_the_dominant_class_is_counted_where_no_region_may_hold_more_of_it() -> None:
    some = (Box(0, 0, 2, 2, "cat"), Box(0, 0, 9, 9, "dog"), Box(5, 5, 6, 6, "cat"))
    for uncounted, count in (((), 1), (("cat",), 1), (("dog",), None)):
        image = image_of_boxes(Path("a.png"), some, uncounted=uncounted)
        assert (image.class_name, image.count, image.boxes) == ("dog", count, some)
    assert [image_of_boxes(Path("a.png"), (), uncounted=classes).count for classes in ((), ("cat",))] == [0, None]


def test_the_counted_class_has_the_largest_area_or_else_the_most_objects() -> None:
    names = ["cat", "dog", "dog", None]
    assert counted_class(names, [Box(0, 0, 9 - k, 9, name) for k, name in enumerate(names)]) == ("dog", 2)
    assert counted_class(names, [Box(0, 0, 9 // (k + 1), 9, name) for k, name in enumerate(names)]) == ("cat", 1)
    assert counted_class(names, []) == ("dog", 2)
    assert counted_class([], []) == (None, 0)


def test_a_box_around_points_has_an_area() -> None:
    assert box_around([(3, 1), (1, 2), (2, 5)], "cat") == Box(1, 1, 3, 5, "cat")
    assert [box_around(points, "cat") for points in ([], [(1, 2)], [(1, 2), (5, 2)])] == [None] * 3


def test_an_image_is_found_in_the_first_folder_and_without_its_suffix(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first / "c.PNG", second / "c.png", second / "sub/a.jpg", first / "d.e.jpg", first / "d.e.tif"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (first / "c").mkdir()
    folders = [first, second]
    assert find_image(folders, "c.png") == second / "c.png"
    assert find_image(folders, "sub\\a.jpg") == second / "sub/a.jpg"
    assert find_image(folders, "d.e") == first / "d.e.jpg"
    assert find_image(folders, "c") in (first / "c.PNG", second / "c.png")
    assert [find_image(folders, name) for name in ("", "a.jpg", "sub", "c.jpg", "x" * 5000)] == [None] * 5
