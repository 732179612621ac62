from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from pc_engine.bench.collages.parts import CollageParts, Cut, _largest_free_square, collage_parts
from pc_engine.datasets import Box, LabelledImage, LabelledSet
from pc_engine.errors import DataError

SIZE = (320, 240)


def photo(path: Path, *boxes: Box, crowds: tuple[Box, ...] = ()) -> LabelledImage:
    Image.new("RGB", SIZE).save(path)
    return LabelledImage(path, boxes=boxes, crowds=crowds)


def cut(images: list[LabelledImage], *, groups: int = 1, per_class: int = 1, **least: float) -> list[CollageParts]:
    least = {"object_side": 40, "ground_side": 40, **least}
    parts, unreadable = collage_parts(
        [LabelledSet("photos", tuple(images))], groups=groups, per_class=per_class, seed=3, **least
    )
    assert unreadable == []
    return parts


def corners(parts: CollageParts) -> dict[str | None, list[tuple[int, ...]]]:
    return {name: [piece.corners for piece in cuts] for name, cuts in parts.objects.items()}


def test_objects_that_show_another_of_their_class_are_left(tmp_path: Path) -> None:
    # 12 of the first box's 100 columns are the second's, and 12 of its 60.
    overlapping = (Box(0, 0, 100, 80, "dog"), Box(88, 0, 148, 80, "dog"))
    # 8 of 100, which may be, and 8 of 60, which may not.
    touching = (Box(0, 100, 100, 180, "dog"), Box(92, 100, 152, 180, "dog"))
    # A cat hides less than half of the first dog, and all of itself is dog.
    hiding = (Box(160, 0, 260, 100, "dog"), Box(160, 0, 200, 100, "cat"))
    (parts,) = cut([photo(tmp_path / "a.png", *overlapping, *touching, *hiding)])
    assert corners(parts) == {"dog": [(0, 100, 100, 180), (160, 0, 260, 100)]}


def test_objects_in_a_crowd_of_their_class_are_left(tmp_path: Path) -> None:
    boxes = (Box(0, 0, 100, 100, "dog"), Box(200, 0, 300, 100, "cat"), Box(200, 140, 300, 240, "dog"))
    # Dogs over 12 columns of the first dog and 40 of the cat; the region ends with the frame below the last dog.
    crowds = (Box(88, 0, 240, 100, "dog"), Box(200, 232, 300, 400, "dog"))
    (parts,) = cut([photo(tmp_path / "a.png", *boxes, crowds=crowds)])
    assert corners(parts) == {"cat": [(200, 0, 300, 100)], "dog": [(200, 140, 300, 240)]}


def test_what_is_small_or_a_sliver_is_left_and_boxes_end_with_the_frame(tmp_path: Path) -> None:
    boxes = (
        Box(0, 0, 39, 39, "dog"),
        Box(0, 100, 150, 130, "dog"),  # 5 times as long as wide
        Box(250, 150, 400, 300, "dog"),
        Box(400, 0, 500, 100, "dog"),  # outside
    )
    (parts,) = cut([photo(tmp_path / "a.png", *boxes)])
    assert corners(parts) == {"dog": [(250, 150, 320, 240)]}


def test_a_ground_touches_no_box_and_no_crowd(tmp_path: Path) -> None:
    dog = Box(0, 0, 101, 101, "dog")
    crowd = Box(240, 0, 320, 240, "dog")
    (parts,) = cut([photo(tmp_path / "a.png", dog, crowds=(crowd,))])
    # Cells of 8 pixels: columns 13 to 29 are free over the whole height, and all columns from row 13.
    (ground,) = parts.grounds
    assert ground.size == (136, 136)
    assert ground.corners[0] >= 104 or ground.corners[1] >= 104
    assert ground.corners[2] <= 240
    (parts,) = cut([photo(tmp_path / "a.png", dog), photo(tmp_path / "b.png", dog, crowds=(crowd,))], ground_side=150)
    assert [piece.photo.name for piece in parts.grounds] == ["a.png"]
    anywhere = Box(0, 0, np.inf, np.inf, "cat")  # as of a crowd without a box
    (parts,) = cut([photo(tmp_path / "a.png", dog), photo(tmp_path / "b.png", dog, crowds=(anywhere,))])
    assert [piece.photo.name for piece in parts.grounds] == ["a.png"]


def test_a_photo_with_objects_that_no_box_marks_gives_no_ground(tmp_path: Path) -> None:
    dog = Box(0, 0, 60, 60, "dog")
    labels = {
        "empty": LabelledImage(tmp_path / "empty", 0),
        "boxed": LabelledImage(tmp_path / "boxed", 1, boxes=(dog,)),
        "crowd": LabelledImage(tmp_path / "crowd", crowds=(dog,)),
        "another": LabelledImage(tmp_path / "another", 1, boxes=(dog, Box(70, 0, 130, 60, "cat"))),
        "counted": LabelledImage(tmp_path / "counted", 2),
        "classed": LabelledImage(tmp_path / "classed", class_name="dog"),
        "unlabelled": LabelledImage(tmp_path / "unlabelled"),
        "one without a box": LabelledImage(tmp_path / "one without a box", 2, boxes=(dog,)),
    }
    for image in labels.values():
        Image.new("RGB", SIZE).save(image.path, "png")
    (parts,) = cut(list(labels.values()))
    assert {piece.photo.name for piece in parts.grounds} == {"empty", "boxed", "crowd", "another"}


def test_classes_with_too_few_objects_take_no_part(tmp_path: Path) -> None:
    dog, cat = Box(0, 0, 60, 60, "dog"), Box(100, 100, 160, 160, "cat")
    images = [photo(tmp_path / "a.png", dog, cat), photo(tmp_path / "b.png", dog)]
    assert {name: len(found) for name, found in corners(cut(images, per_class=2)[0]).items()} == {"dog": 2}
    # All together where no class has as many, or none is named.
    assert {name: len(found) for name, found in corners(cut(images, per_class=3)[0]).items()} == {None: 3}
    plain = [photo(tmp_path / "c.png", Box(0, 0, 60, 60), Box(100, 100, 160, 160))]
    assert {name: len(found) for name, found in corners(cut(plain, per_class=1)[0]).items()} == {None: 2}


def test_where_any_class_counts_objects_that_show_another_of_any_are_left(tmp_path: Path) -> None:
    # The cat hides 40 of the dog's 100 columns.
    boxes = (Box(0, 0, 100, 100, "dog"), Box(60, 0, 160, 100, "cat"), Box(200, 100, 260, 160, "bird"))
    images = [photo(tmp_path / "a.png", *boxes)]
    assert corners(cut(images)[0]) == {
        "bird": [(200, 100, 260, 160)],
        "cat": [(60, 0, 160, 100)],
        "dog": [(0, 0, 100, 100)],
    }
    images.append(photo(tmp_path / "b.png", Box(0, 0, 60, 60, "fish")))
    (parts,) = cut(images, per_class=2)
    assert sorted(corners(parts)[None]) == [(0, 0, 60, 60), (200, 100, 260, 160)]


def test_groups_share_no_photo(tmp_path: Path) -> None:
    images = [photo(tmp_path / f"{k}.png", Box(0, 0, 60, 60, "dog"), Box(70, 0, 130, 60, "dog")) for k in range(12)]
    groups = cut([*images, *images], groups=3)
    photos = [{piece.photo for piece in (*group.objects["dog"], *group.grounds)} for group in groups]
    assert [len(of_group) for of_group in photos] == [4, 4, 4]
    assert len(set.union(*photos)) == 12
    # A photo that is named twice is cut up once.
    assert [len(group.objects["dog"]) for group in groups] == [8, 8, 8]


def test_too_few_parts_are_said(tmp_path: Path) -> None:
    images = [photo(tmp_path / "a.png", Box(0, 0, 60, 60, "dog"))]
    with pytest.raises(DataError, match=r"has 1 boxed objects .* too few for collages of 2"):
        cut(images, per_class=2)
    with pytest.raises(DataError, match="no square of 400 pixels"):
        cut(images, ground_side=400)
    with pytest.raises(DataError, match="has 0 boxed objects"):
        cut(images, groups=2)


def test_labels_without_boxes_are_said_to_have_none_and_no_photo_is_read(tmp_path: Path) -> None:
    images = [LabelledImage(tmp_path / f"{k}.png", count=k) for k in range(5)]
    with pytest.raises(
        DataError, match="The labels of these 5 photos have no boxes to cut objects out with: name others"
    ):
        cut(images)


def test_a_photo_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "b.png"
    broken.write_bytes(b"no picture")
    images = (photo(tmp_path / "a.png", Box(0, 0, 60, 60)), LabelledImage(broken, boxes=(Box(0, 0, 60, 60),)))
    (parts,), ((path, why),) = collage_parts(
        [LabelledSet("photos", images)], groups=1, per_class=1, object_side=40, ground_side=40, seed=0
    )
    assert corners(parts) == {None: [(0, 0, 60, 60)]}
    assert path == str(broken)
    assert "not an image" in why


def test_a_cut_is_read_from_the_picture_as_displayed(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20))
    picture.paste((255, 0, 0), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the upper left corner becomes the upper right one
    picture.save(tmp_path / "a.png", exif=exif)
    assert Cut(tmp_path / "a.png", (10, 0, 20, 10)).read().getcolors() == [(100, (255, 0, 0))]


@given(arrays(np.bool_, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_no_free_square_is_larger(taken: np.ndarray) -> None:
    column, row, side = _largest_free_square(taken)
    assert not taken[row : row + side, column : column + side].any()
    rows, columns = taken.shape
    larger = side + 1
    for y in range(rows - larger + 1):
        for x in range(columns - larger + 1):
            assert taken[y : y + larger, x : x + larger].any()
    assert row + side <= rows
    assert column + side <= columns
