from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest
from PIL import Image

from pc_engine.datasets import Box, LabelledImage, read_labelled
from pc_engine.errors import DataError

META = "<version>1.1</version><meta><task><id>3</id><labels><label><name>cat</name></label></labels></task></meta>"


def shape(kind: str, label: str = "cat", **values: object) -> str:
    attributes = {"label": label, "source": "manual", "occluded": 0, **values}
    said = " ".join(f"{name}={quoteattr(str(value))}" for name, value in attributes.items())
    return f'<{kind} {said}><attribute name="score">0.5</attribute></{kind}>'


def box(x0: float, y0: float, x1: float, y1: float, label: str = "cat", **values: object) -> str:
    return shape("box", label, xtl=x0, ytl=y0, xbr=x1, ybr=y1, **values)


CORNERS = ("xtl1", "xbl1", "xtr1", "xbr1", "xtl2", "xbl2", "xtr2", "xbr2")
CUBOID = {name: 3 + 57 * (name == "xbr2") for name in CORNERS} | {
    f"y{name[1:]}": 50 - 48 * (name == "xtl1") for name in CORNERS
}
PARTS = "".join(
    shape("points", part, points=point, outside=outside)
    for part, point, outside in (("eye", "10,20", 0), ("nose", "30,60", 0), ("ear", "90,90", 1))
)


def image(*shapes: str, name: str = "a.jpg", more: str = "") -> str:
    return f'<image id="0" name={quoteattr(name)} width="200" height="100" {more}>{"".join(shapes)}</image>'


def place(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (200, 100)).save(path)
    return path


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Return ``read(*images)``: what is read of them, beside a folder of images that holds ``a.jpg``."""
    place(tmp_path / "images/a.jpg")

    def read(*images: str) -> Any:
        (tmp_path / "annotations.xml").write_text(f"<annotations>{META}{''.join(images)}</annotations>")
        return read_labelled(f"cvat:{tmp_path / 'annotations.xml'}")

    return read


def test_shapes_are_objects_and_the_label_of_the_largest_area_is_counted(read: Any, tmp_path: Path) -> None:
    labelled = read(
        image(*(box(k, 0, k + 9, 9, "dog") for k in range(3)), box(1.25, 2, 90, 40), box(5, 6, 70, 80, occluded=1))
    )
    dogs = (Box(k, 0, k + 9, 9, "dog") for k in range(3))
    boxes = (*dogs, Box(1.25, 2, 90, 40, "cat"), Box(5, 6, 70, 80, "cat"))
    assert labelled.images == (LabelledImage(tmp_path / "images/a.jpg", 2, "cat", boxes=boxes),)
    assert (labelled.name, labelled.skipped) == ("annotations", ())
    assert read_labelled(str(tmp_path / "annotations.xml")) == labelled


@pytest.mark.parametrize(
    ("text", "corners"),
    [
        (box(10, 20, 30, 60, rotation=90), (0, 30, 40, 50)),  # about its middle
        (box(10, 20, 30, 40, rotation="45.00"), (5.8578644, 15.8578644, 34.1421356, 44.1421356)),
        (shape("polygon", points="10.0,10;20,50.5;15,5"), (10, 5, 20, 50.5)),
        (shape("polyline", points="10,10;20,50"), (10, 10, 20, 50)),
        (shape("ellipse", cx=50, cy=40, rx=20, ry=10), (30, 30, 70, 50)),
        (shape("ellipse", cx=50, cy=40, rx=20, ry=10, rotation=90), (40, 20, 60, 60)),
        (shape("mask", rle="0, 3, 2", left=4, top=5, width=6, height=7), (4, 5, 10, 12)),
        (shape("cuboid", **CUBOID), (3, 2, 60, 50)),
        (shape("skeleton").replace("<attr", f"{PARTS}<attr"), (10, 20, 30, 60)),
    ],
)
def test_every_shape_has_the_box_around_it(read: Any, text: str, corners: tuple[float, ...]) -> None:
    (found,) = read(image(text)).images
    assert (found.count, found.class_name) == (1, "cat")
    assert found.boxes == (Box(*map(pytest.approx, corners), "cat"),)


def test_points_are_objects_without_boxes(read: Any) -> None:
    (found,) = read(image(box(1, 2, 3, 4), shape("points", points="5.5,6"), shape("points", points="7,8"))).images
    assert (found.count, found.class_name, found.boxes) == (3, "cat", ())
    (found,) = read(image(shape("polyline", points="5,6;9,6"))).images  # nor has a level line
    assert (found.count, found.boxes) == (1, ())


def test_several_points_of_one_shape_are_one_object_or_several(read: Any) -> None:
    ((item, reason),) = read(image(), image(shape("points", points="1,2;3,4;5,6"), name="b.jpg")).skipped
    assert item == "b.jpg"
    assert reason == "3 points of it are one shape, and may be one object or 3: give each object its own"


def test_without_shapes_there_is_no_object_and_a_tag_is_a_class(read: Any, tmp_path: Path) -> None:
    for name in ("b.jpg", "c.jpg", "d.jpg"):
        place(tmp_path / "images" / name)
    tags = [shape("tag", name) for name in ("dog", "cat")]
    labelled = read(
        image(), image(tags[0], name="b.jpg"), image(*tags, name="c.jpg"), image(tags[0], box(1, 2, 3, 4), name="d.jpg")
    )
    assert [(found.path.name, found.count, found.class_name) for found in labelled.images] == [
        *(("a.jpg", 0, None), ("b.jpg", None, "dog"), ("d.jpg", 1, "cat"))
    ]
    assert labelled.skipped == (("c.jpg", "it has several tags, and no shapes"),)


@pytest.mark.parametrize(
    ("where", "name", "more"),
    [
        ("images/sub/b.jpg", "sub/b.jpg", ""),
        ("images/sub/b.jpg", "sub\\b.jpg", ""),
        ("b.jpg", "b.jpg", ""),
        ("images/Train/b.jpg", "b.jpg", 'subset="Train" task_id="3"'),  # of a project
        ("images/frame_000001.PNG", "frame_000001", ""),  # of a video
        ("images/a.b.jpg", "a.b", ""),
        ("images/a&b <写>.jpg", "a&b <写>.jpg", ""),
    ],
)
def test_images_are_found_where_cvat_puts_them(read: Any, tmp_path: Path, where: str, name: str, more: str) -> None:
    place(tmp_path / where)
    (found,) = read(image(name=name, more=more)).images
    assert found.path == tmp_path / where


def test_images_may_lie_elsewhere(read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = place(tmp_path / "other@place/sub/b.jpg")
    with pytest.raises(DataError, match=r"if the images are elsewhere: 'cvat:.*annotations.xml@IMAGES_DIR'"):
        read(image(name="sub/b.jpg"))
    labelled = read_labelled(f"cvat:{tmp_path / 'annotations.xml'}@{tmp_path / 'other@place'}")
    assert [found.path for found in labelled.images] == [photo]
    monkeypatch.chdir(tmp_path / "other@place")
    assert [found.path for found in read(image(name="sub/b.jpg")).images] == [Path("sub/b.jpg")]


def test_an_image_that_cannot_be_used_costs_no_other(read: Any) -> None:
    bad = {
        "its box's xtl is 'left', expected a number": box("left", 2, 3, 4),  # type: ignore[arg-type]
        "its box's ybr is 'nan', expected a number": box(1, 2, 3, float("nan")),
        "its box's xbr is '1e+300', expected a number": box(1, 2, 1e300, 4),
        "its box's rotation is 'inf', expected a number": box(1, 2, 3, 4, rotation="inf"),
        "its ellipse's cx is None, expected a number": shape("ellipse"),
        "its mask's width is None, expected a number": shape("mask", left=1, top=2),
        "a point of it is '', expected x,y": shape("polygon"),
        "a point of it is '4', expected x,y": shape("polygon", points="1,2;4"),
        "its point's y is '2,3', expected a number": shape("polygon", points="1,2,3"),
    }
    texts = [image(text, name=f"{k}.jpg") for k, text in enumerate(bad.values())]
    labelled = read(*texts, image(), image(name="gone.jpg"), "<image id='7'/>", image())
    assert [found.path.name for found in labelled.images] == ["a.jpg"]
    assert [reason for _, reason in labelled.skipped[:-3]] == list(bad)
    (gone, why), no_name, again = labelled.skipped[-3:]
    assert (Path(gone).name, why[:21]) == ("gone.jpg", "there is no such file")
    assert no_name == ("image 7", "it has no name")
    assert again[1] == "it is listed again with the same labels"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations></annotations>", "gives no labelled image: it lists none"),
        (
            "<annotations><track id='0' label='cat'/></annotations>",
            "tracks, as 'CVAT for video' .* 'CVAT for images 1.1'",
        ),
        (
            "<annotation><object/></annotation>",
            "it is Pascal VOC's file of one image: .* voc:DIR",
        ),
        ("<html/>", "cannot be read as XML: its root element is <html>, expected <annotations>"),
        ("<annotations><image>", "cannot be read as XML: no element found"),
        ("<!DOCTYPE annotations><annotations/>", "cannot be read as XML: it has a <!DOCTYPE>"),
        ("{}", "cannot be read as XML: not well-formed"),
    ],
)
def test_another_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "file.xml").write_text(text)
    for spec in (f"cvat:{tmp_path / 'file.xml'}", str(tmp_path / "file.xml")):
        with pytest.raises(DataError, match=message):
            read_labelled(spec)


def test_an_absent_file_and_an_archive_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.xml", tmp_path):
        with pytest.raises(
            DataError,
            match=r"There is no file .*: name a file that CVAT exported as 'CVAT for images 1.1'",
        ):
            read_labelled(f"cvat:{path}")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("annotations.xml", "<annotations/>")
    with pytest.raises(DataError, match=r"is an archive: unpack it, and name the annotations\.xml in it"):
        read_labelled(f"cvat:{tmp_path / 'set.zip'}")
