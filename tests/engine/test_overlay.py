from __future__ import annotations

import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pc_engine.errors import PcEngineError
from pc_engine.overlay import draw_overlay, write_overlay
from pc_engine.pointers import BoxPointer, EllipsePointer, Pointer
from pc_engine.result import Result, error_result


def result_with(*pointers: Pointer, path: str = "a.png", size: tuple[int, int] = (320, 240)) -> Result:
    return Result(path, "ok", None, *size, "c2p", "tiny", len(pointers), str(len(pointers)), pointers=pointers)


def changed(result: Result, picture: Image.Image) -> np.ndarray:
    """Where drawing changed the picture, which is not larger than the overlay's limit."""
    drawn = draw_overlay(result, picture)
    assert drawn.size == picture.size
    assert drawn.mode == "RGB"
    return (np.asarray(drawn) != np.asarray(picture)).any(axis=2)


@pytest.fixture
def grey() -> Image.Image:
    return Image.new("RGB", (320, 240), (128, 128, 128))


def test_a_box_is_drawn_along_its_edges_and_leaves_the_rest(grey: Image.Image) -> None:
    drawn = changed(result_with(BoxPointer(100, 120, 200, 220, 1.0)), grey)
    for x, y in ((100, 170), (199, 170), (150, 121), (150, 219)):
        assert drawn[y, x]
    assert not drawn[140:200, 120:180].any()
    assert not drawn[100:, :90].any()


def test_an_ellipse_is_drawn_along_its_contour(grey: Image.Image) -> None:
    drawn = changed(result_with(EllipsePointer(200, 150, 60, 30, 1.0)), grey)
    for x, y in ((141, 150), (259, 150), (200, 121), (200, 179)):
        assert drawn[y, x]
    assert not drawn[150, 160:240].any()
    assert not drawn[122, 142]  # the corner of its box


def test_the_count_is_shown_in_a_corner(grey: Image.Image) -> None:
    none, some = (draw_overlay(replace(result_with(), count=count), grey) for count in (0, 7))
    assert (np.asarray(none)[:30, :20] != 128).any()
    assert none.tobytes() != some.tobytes()


def test_pointers_have_colours_of_their_own_and_the_photo_is_not_touched(grey: Image.Image) -> None:
    boxes = [BoxPointer(60 + 40 * k, 100, 90 + 40 * k, 130, 0.2) for k in range(5)]
    drawn = draw_overlay(result_with(*boxes), grey)
    colours = {drawn.getpixel((int(box.x0) + 15, 100)) for box in boxes}
    assert len(colours) == 5
    assert grey.getextrema() == ((128, 128),) * 3


@pytest.mark.parametrize(
    ("size", "expected"), [((2560, 1280), (1280, 640)), ((100, 50), (100, 50)), ((4, 5000), (1, 1280))]
)
def test_large_photos_are_scaled_and_pointers_with_them(size: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, (128, 128, 128))
    width, height = size
    box = BoxPointer(width / 2, height / 2, width * 0.75, height * 0.75, 1.0)
    drawn = draw_overlay(result_with(box, size=size), picture)
    assert drawn.size == expected
    edge = drawn.getpixel((expected[0] // 2, int(expected[1] * 0.6)))
    assert edge != (128, 128, 128)


@pytest.mark.parametrize(
    "pointer",
    [
        BoxPointer(-5, -5, 0, 0, 1),
        BoxPointer(0, 0, 0, 0, 1),
        EllipsePointer(0, 0, 0, 0, 1),
        EllipsePointer(1, 1, 9, 9, 1),
    ],
)
def test_tiny_pointers_and_pictures_are_drawn(pointer: Pointer) -> None:
    assert draw_overlay(result_with(pointer, size=(3, 2)), Image.new("RGB", (3, 2))).size == (3, 2)


def test_an_overlay_is_written_for_a_photo_as_displayed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40), "navy").save(tmp_path / "photo.jpg", exif=exif)
    result = result_with(BoxPointer(5, 30, 35, 55, 1), path=str(tmp_path / "photo.jpg"), size=(40, 60))
    path = write_overlay(result, tmp_path / "new/overlays")
    assert path is not None
    assert path.parent == tmp_path / "new/overlays"
    assert re.fullmatch(r"photo-[0-9a-f]{12}\.jpg", path.name)
    with Image.open(path) as written:
        assert written.size == (40, 60)


def test_an_overlay_is_written_for_an_image_of_a_shard(tmp_path: Path) -> None:
    content = BytesIO()
    Image.new("RGB", (60, 40), "navy").save(content, "PNG")
    pq.write_table(pa.table({"image": [content.getvalue()]}), tmp_path / "train.parquet")
    result = result_with(BoxPointer(5, 5, 35, 35, 1), path=f"{tmp_path}/train.parquet#0", size=(60, 40))
    path = write_overlay(result, tmp_path / "out")
    assert path is not None
    assert path.is_file()
    assert re.fullmatch(r"train-0-[0-9a-f]{12}\.jpg", path.name)


def test_a_photo_has_one_picture_however_often_it_is_drawn_and_no_other_photo_has_it(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "same.png")
    paths = [
        write_overlay(result_with(path=str(tmp_path / folder / "same.png"), size=(8, 8)), tmp_path / "out")
        for folder in ("a", "b", "a")
    ]
    assert paths[0] == paths[2] != paths[1]
    assert sorted((tmp_path / "out").iterdir()) == sorted(path for path in paths[:2] if path is not None)


def test_an_error_row_and_a_photo_that_is_gone_have_none(tmp_path: Path) -> None:
    assert write_overlay(error_result("a.png", "Broken.", mode="c2p", model="tiny"), tmp_path / "out") is None
    assert write_overlay(result_with(path=str(tmp_path / "gone.png")), tmp_path / "out") is None
    (tmp_path / "changed.png").write_text("no image any more")
    assert write_overlay(result_with(path=str(tmp_path / "changed.png")), tmp_path / "out") is None
    Image.new("RGB", (8, 8)).save(tmp_path / "another.png")  # whose pointers would be anybody's
    assert write_overlay(result_with(path=str(tmp_path / "another.png")), tmp_path / "out") is None
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["📷" * 62 + ".png", "ä" * 120 + ".png", "caf\udce9.png", "no suffix"])
def test_long_and_odd_names_give_a_name_that_a_file_can_have(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / name, "PNG")
    path = write_overlay(result_with(path=str(tmp_path / name), size=(8, 8)), tmp_path / "out")
    assert path is not None
    assert path.is_file()
    path.name.encode("utf-8")


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(PcEngineError, match="cannot be written"):
        write_overlay(result_with(path=str(tmp_path / "a.png"), size=(8, 8)), tmp_path / "a.png")
