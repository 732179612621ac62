from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from PIL import Image

from pc_engine.datasets import Box, LabelledImage, read_labelled
from pc_engine.errors import DataError


def thing(*corners: object, name: str = "cat", difficult: object = 0, more: str = "") -> str:
    box = "".join(
        f"<{side}>{corner}</{side}>" for side, corner in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    said = f"<name>{name}</name><difficult>{difficult}</difficult>"
    return f"<object>{said}{more}<bndbox>{box}</bndbox></object>"


def annotation(*things: str, filename: str | None = "a.jpg", path: str = "") -> str:
    """An XML file as labelImg writes it, with a size that is none."""
    name = "" if filename is None else f"<filename>{escape(filename)}</filename>"
    size = "<size><width>0</width><height/></size>"
    return f"<annotation><folder>VOC</folder>{name}<path>{escape(path)}</path>{size}{''.join(things)}</annotation>"


def place(root: Path, **files: str | None) -> Path:
    """Write the XML files of a data set, and pictures where the text is None, by paths with ``__`` for ``/``."""
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_xml", ".xml").replace("_jpg", ".jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            Image.new("RGB", (200, 100)).save(path)
        else:
            path.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Return ``read(**texts)``: what is read of the XML files of images, of which there are ``a.jpg`` and ``b.jpg``."""
    place(tmp_path, JPEGImages__a_jpg=None, JPEGImages__b_jpg=None)

    def read(**texts: str) -> Any:
        return read_labelled(
            f"voc:{place(tmp_path, **{f'Annotations__{name}_xml': text for name, text in texts.items()})}"
        )

    return read


def test_pixels_are_numbered_from_one_and_the_dominant_class_is_counted(read: Any, tmp_path: Path) -> None:
    things = (thing(1, 1, 200, 50, name="dog"), thing(11, 21, 12, 30), thing(2.5, 3, 2.5, 3, name="\n cat\t"))
    labelled = read(a=annotation(*things), b=annotation(filename="b.jpg"))
    boxes = (Box(0, 0, 200, 50, "dog"), Box(10, 20, 12, 30, "cat"), Box(1.5, 2, 2.5, 3, "cat"))
    assert labelled.images == (
        LabelledImage(tmp_path / "JPEGImages/a.jpg", 1, "dog", boxes=boxes),
        LabelledImage(tmp_path / "JPEGImages/b.jpg", 0),
    )
    assert (labelled.name, labelled.skipped) == (tmp_path.name, ())
    # Before the subfolders, which would be classes.
    assert read_labelled(str(tmp_path)) == labelled


def test_a_difficult_object_of_the_dominant_class_leaves_the_count_open(read: Any, tmp_path: Path) -> None:
    hard = thing(1, 1, 9, 9, difficult=" 1 ")
    for things, count, name, n_boxes in (
        ((thing(1, 1, 50, 50), hard), None, "cat", 1),
        ((thing(1, 1, 50, 50, name="dog"), hard), 1, "dog", 1),
        ((hard,), None, None, 0),
    ):
        (image,) = read(a=annotation(*things)).images
        assert (image.count, image.class_name, len(image.boxes)) == (count, name, n_boxes)
        assert image.crowds == (Box(0, 0, 9, 9, "cat"),)


def test_parts_and_points_of_objects_are_left_aside(read: Any) -> None:
    part = "<part><name>head</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    (image,) = read(a=annotation(thing(1, 1, 50, 50, more=f"{part}<point><x>3</x><y>4</y></point>"))).images
    assert (image.count, image.boxes) == (1, (Box(0, 0, 50, 50, "cat"),))


@pytest.mark.parametrize(
    ("xml", "photo"),
    [
        ("Annotations/a", "JPEGImages/a"),
        ("Annotations/sub/a", "JPEGImages/sub/a"),
        ("annotations/a", "images/a"),  # the raccoons
        ("annotations/xmls/a", "images/a"),  # the pets of Oxford
        ("Annotations/CLS-LOC/a", "Data/CLS-LOC/a"),  # ImageNet
        ("annotations/a", "img/a"),
        ("Annotations/a", "a"),
        ("Annotations/a", "Annotations/a"),
        ("VOC2007/Annotations/a", "VOC2007/JPEGImages/a"),  # above the folders of several years
        ("a", "a"),  # labelImg
        ("train/a", "train/a"),
    ],
)
def test_images_are_found_where_people_keep_them(tmp_path: Path, xml: str, photo: str) -> None:
    place(tmp_path, **{f"{xml}_xml": annotation(thing(1, 2, 3, 4)), f"{photo}_jpg": None})
    labelled = read_labelled(f"voc:{tmp_path}")
    assert [(image.path, image.count) for image in labelled.images] == [(tmp_path / f"{photo}.jpg", 1)]
    assert labelled.skipped == ()


def test_the_folder_of_the_xml_files_may_be_the_current_one(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = read(a=annotation(thing(1, 2, 3, 4))).images
    monkeypatch.chdir(tmp_path / "Annotations")
    assert read_labelled("voc:.").images == images


def test_xml_files_beside_annotations_are_something_else(read: Any, tmp_path: Path) -> None:
    place(tmp_path, settings_xml="<settings/>", a_xml=annotation(thing(1, 2, 3, 4)))
    labelled = read(a=annotation())
    assert [image.count for image in labelled.images] == [0]
    assert labelled.skipped == ()


@pytest.mark.parametrize("xml", ["Annotations/sub/a", "sub/a"])
def test_images_may_lie_elsewhere(tmp_path: Path, xml: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place(tmp_path / "set", **{f"{xml}_xml": annotation(thing(1, 2, 3, 4))})
    place(tmp_path / "other@place", sub__a_jpg=None, a_jpg=None)
    with pytest.raises(DataError, match=r"if the images are elsewhere: 'voc:.*set@IMAGES_DIR'"):
        read_labelled(f"voc:{tmp_path / 'set'}")
    (image,) = read_labelled(f"voc:{tmp_path / 'set'}@{tmp_path / 'other@place'}").images
    assert image.path == tmp_path / "other@place/sub/a.jpg"
    # Where a run, or labelImg on this machine, had it.
    monkeypatch.chdir(tmp_path)
    for path in (str(image.path), "other@place/sub/a.jpg"):
        place(tmp_path / "set", **{f"{xml}_xml": annotation(thing(1, 2, 3, 4), path=path)})
        assert [image.path for image in read_labelled("voc:set").images] == [Path(path)]


@pytest.mark.parametrize("filename", [None, "", "a", "gone.jpg", "/home/someone/gone.png", "a.png", "b\\a.jpg"])
def test_an_image_without_a_name_that_is_there_is_called_as_its_file(read: Any, filename: str | None) -> None:
    (image,) = read(a=annotation(filename=filename)).images
    assert image.path.name == "a.jpg"


def test_an_image_of_another_name_than_its_file_is_found_unless_both_are_there(read: Any) -> None:
    labelled = read(c=annotation(filename="b.jpg"), a=annotation(filename="b.jpg"))
    assert [image.path.name for image in labelled.images] == ["b.jpg"]
    ((item, reason),) = labelled.skipped
    assert Path(item).name == "a.xml"
    assert reason == "it says that it is of b.jpg, but a.jpg has its name: rename one of the two"


def test_a_file_that_cannot_be_used_costs_no_other(read: Any, tmp_path: Path) -> None:
    bad = {
        "its xmin is 'left', expected a number": annotation(thing("left", 2, 3, 4)),
        "its ymax is 'inf', expected a number": annotation(thing(1, 2, 3, "inf")),
        "its ymin is '', expected a number": annotation(thing(1, "", 3, 4)),
        "an object of it has no bndbox": annotation("<object><name>cat</name></object>"),
        "its root element is <html>, expected <annotation>": "<html/>",
        "it is a CVAT file: name it as cvat:FILE": "<annotations/>",
        "it has a <!DOCTYPE>, which may expand to more than any memory holds: remove it": "<!DOCTYPE a><a/>",
        "mismatched tag: line 1, column 17": "<annotation><a></b>",
        "no element found: line 1, column 0": "",
    }
    (tmp_path / "Annotations/.Trash-1000/files/dir.xml").mkdir(parents=True)
    (tmp_path / "Annotations/.Trash-1000/files/old.xml").touch()
    (tmp_path / "Annotations/d.xml").symlink_to("nowhere")
    (tmp_path / "Annotations/._a.xml").write_bytes(b"\0\5\x16\7")
    labelled = read(
        a=annotation(thing(1, 2, 3, 4)),
        b=annotation(thing(3, 1, 2, 1), thing(9, 1, 2, 3), filename="b.jpg"),
        **{f"c{k}": text for k, text in enumerate(bad.values())},
        z=annotation(filename="z.jpg"),
    )
    assert [(image.path.name, image.count, len(image.boxes)) for image in labelled.images] == [
        *(("a.jpg", 1, 1), ("b.jpg", 0, 0))
    ]
    assert sum("enclose no area" in reason for _, reason in labelled.skipped) == 2
    others = [reason for item, reason in labelled.skipped if not item.startswith("a box of")]
    assert others[: len(bad)] == list(bad)
    assert others[len(bad)] == "it is not a file"
    assert others[len(bad) + 1].startswith("there is no such file (if the images are elsewhere")


def test_another_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no folder .*none: name that of a Pascal VOC data set, as voc:DIR"):
        read_labelled(f"voc:{tmp_path / 'none'}")
    with pytest.raises(DataError, match=r"holds no XML files: name the folder that Annotations/ lies in, as voc:DIR"):
        read_labelled(f"voc:{tmp_path}")
    place(tmp_path, annotations__instances_json="{}", cat__a_jpg=None)
    # Those of COCO are no reason not to take subfolders for classes.
    assert [image.class_name for image in read_labelled(str(tmp_path)).images] == ["cat"]


@pytest.fixture
def split_in_two(tmp_path: Path) -> Path:
    """Four images, and lists of some of them."""
    names = ("a", "b", "c d", "e")
    texts = {f"Annotations__{name}_xml": annotation(thing(1, 1, 9, 9), filename=f"{name}.jpg") for name in names}
    place(tmp_path, **texts, **{f"JPEGImages__{name}_jpg": None for name in names})
    lists = {"train": "c d\n\na\na\nlost\n", "val": "\ufeffb.jpg\r\n", "cat_train": "a  1\nc d -1\n"}
    for name, text in lists.items():
        (tmp_path / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"ImageSets/Main/{name}.txt").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("split", "names"),
    [("#train", ["c d", "a"]), ("#val", ["b"]), ("#cat_train", ["a", "c d"]), ("", ["a", "b", "c d", "e"])],
)
def test_a_split_is_the_images_that_it_lists(split_in_two: Path, split: str, names: list[str]) -> None:
    labelled = read_labelled(f"voc:{split_in_two}{split}")
    assert [image.path.stem for image in labelled.images] == names
    lost = ("lost", "train.txt names it, but there is no XML file for it")
    assert labelled.skipped == ((lost,) if split == "#train" else ())


def test_the_images_of_a_split_may_lie_elsewhere(split_in_two: Path, tmp_path: Path) -> None:
    (split_in_two / "JPEGImages").rename(tmp_path / "photos@home")
    labelled = read_labelled(f"voc:{split_in_two}#val@{tmp_path / 'photos@home'}")
    assert [image.path for image in labelled.images] == [tmp_path / "photos@home/b.jpg"]


@pytest.mark.parametrize(
    ("split", "known"),
    [("test", "write #train, #val, or nothing for all images"), ("", "write #train, #val")],
)
def test_an_unknown_split_lists_the_known_ones(split_in_two: Path, split: str, known: str) -> None:
    with pytest.raises(DataError, match=rf"The split '{split}' of voc:.* is not known: {known}"):
        read_labelled(f"voc:{split_in_two}#{split}")


def test_without_lists_there_is_no_split(split_in_two: Path) -> None:
    for file in (split_in_two / "ImageSets/Main").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"there are no lists in .*Main, or nothing for all images"):
        read_labelled(f"voc:{split_in_two}#train")


def test_a_list_that_is_no_text_says_so(split_in_two: Path) -> None:
    (split_in_two / "ImageSets/Main/train.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"train\.txt cannot be read .*save it as UTF-8"):
        read_labelled(f"voc:{split_in_two}#train")


def test_a_folder_may_have_a_number_sign_of_its_own(split_in_two: Path) -> None:
    (split_in_two / "set #1").mkdir()
    for name in ("Annotations", "JPEGImages", "ImageSets"):
        (split_in_two / name).rename(split_in_two / "set #1" / name)
    assert len(read_labelled(f"voc:{split_in_two / 'set #1'}").images) == 4
    assert len(read_labelled(f"voc:{split_in_two / 'set #1'}#val").images) == 1


def test_what_looks_like_a_flag_may_be_of_the_name(tmp_path: Path) -> None:
    names = ("photo", "photo 1", "photo 0", "v2.1")
    place(tmp_path, **{f"Annotations__{name}_xml": annotation(filename=f"{name}.jpg") for name in names})
    place(tmp_path, **{f"JPEGImages__{name}_jpg": None for name in names})
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    for lines, found in {
        "photo 1\nphoto": ["photo 1", "photo"],
        "photo 0": ["photo 0"],
        "photo -1\nphoto.jpg": ["photo"],
        "v2.1.jpg  1": ["v2.1"],
        "photo\nphoto.v2": ["photo"],
    }.items():
        (tmp_path / "ImageSets/Main/train.txt").write_text(lines)
        assert [image.path.stem for image in read_labelled(f"voc:{tmp_path}#train").images] == found


@pytest.mark.parametrize("name", ["nix/set#1", "a#b/c", "nix"])
def test_an_absent_folder_is_named_as_it_was_typed(name: str) -> None:
    with pytest.raises(DataError, match=f"There is no folder {name}: name that of"):
        read_labelled(f"voc:{name}")
