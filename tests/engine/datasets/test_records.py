from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pc_engine.datasets import Box, LabelledImage, clip_to_frame

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


def test_boxes_without_classes_are_all_counted() -> None:
    some = (Box(0, 0, 2, 2), Box(0, 0, 9, 9))
    assert LabelledImage(Path("a.png"), 2, "cat", boxes=some).counted_boxes == some
    assert LabelledImage(Path("a.png"), 0).counted_boxes == ()
