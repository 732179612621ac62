from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pc_engine.datasets import Box, read_labelled
from pc_engine.errors import DataError

NAMES = "names: [cat, dog]\n"


def place(
    root: Path, labels: dict[str, str | None], images: str = "images", size: tuple[int, int] = (200, 100)
) -> Path:
    """Write pictures of ``size`` below ``images`` and their label files, where there are any."""
    for name, text in labels.items():
        image = root / images / name
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(image)
        if text is not None:
            # As for an own folder of labels in the place of that of the images.
            folder = Path(*("labels" if part == "images" else part for part in Path(images).parts))
            label = (root / folder / name).with_suffix(".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(text)
    return root / "data.yaml"


def test_shares_become_pixels_and_the_dominant_class_is_counted(tmp_path: Path) -> None:
    path = place(
        tmp_path,
        {
            "a.png": "1 0.5 0.5 0.1 0.2\n1 0.25 0.5 0.5 0.5\n0 0.9 0.9 0.1 0.1\n",
            "b.png": "",
            "c.png": None,
            "d.png": "0 0.05 0.5 0.2 0.4\n",
        },
    )
    path.write_text(NAMES)
    labelled = read_labelled(f"yolo:{path}")
    a, b, c, d = labelled.images
    assert (a.class_name, a.count, len(a.boxes)) == ("dog", 2, 3)
    assert a.boxes[0] == Box(pytest.approx(90), pytest.approx(40), pytest.approx(110), pytest.approx(60), "dog")
    assert a.counted_boxes == a.boxes[:2]
    assert [(image.count, image.boxes) for image in (b, c)] == [(0, ()), (0, ())]
    assert d.boxes[0].x0 == pytest.approx(-10)  # as labelled: what reaches out is cut and counted by who uses it
    assert labelled.skipped == ()


def test_outlines_are_taken_by_their_bounding_box_and_predictions_lose_their_confidence(tmp_path: Path) -> None:
    path = place(tmp_path, {"a.png": "0 0.1 0.2 0.5 0.1 0.3 0.6\n1 0.5 0.5 0.02 0.02 0.9\n"})
    path.write_text("names: {0: cat, 1: dog}\n")
    (image,) = read_labelled(f"yolo:{path}").images
    outline, small = image.boxes
    assert outline == Box(pytest.approx(20), pytest.approx(10), pytest.approx(100), pytest.approx(60), "cat")
    assert small.class_name == "dog"


@pytest.mark.parametrize(
    ("shape", "keypoints"), [([12, 2], "0.5 0.4 " * 12), ([24, 3], "0.5 0.4 2 " * 24), ([1, 3], "0.5 0.4 2 ")]
)
def test_poses_are_taken_by_their_boxes(tmp_path: Path, shape: list[int], keypoints: str) -> None:
    box = "0 0.5 0.5 0.1 0.2 "
    path = place(
        tmp_path, {"a.png": f"{box}{keypoints}\n{box}{keypoints}0.9\n{box}\n", "b.png": f"{box}{keypoints}2 2\n"}
    )
    path.write_text(f"{NAMES}kpt_shape: {shape}\n")
    labelled = read_labelled(f"yolo:{path}")
    (image,) = labelled.images
    assert image.boxes == 3 * (Box(*map(pytest.approx, (90, 40, 110, 60)), "cat"),)
    ((name, reason),) = labelled.skipped
    assert Path(name).name == "b.png"
    assert f"expected a class and a box, and {len(keypoints.split())} values of keypoints" in reason


@pytest.mark.parametrize(
    ("config", "images"),
    [
        ("", "images"),
        ("train: images/train\nval: images/val\n", "images/train"),
        ("path: .\ntrain: images\n", "images"),
        ("path: sub\ntrain: images/train\n", "sub/images/train"),
        ("train: ../train/images\n", "train/images"),
        ("train: [images/one, images/two]\n", "images/two"),
    ],
)
def test_images_are_found_where_exporters_put_them(tmp_path: Path, config: str, images: str) -> None:
    for folder in ("images/val", "images/one", "images/two"):
        (tmp_path / folder).mkdir(parents=True)
    path = place(tmp_path, {"a.png": "0 0.5 0.5 0.1 0.1\n"}, images)
    path.write_text(config + NAMES)
    (image,) = read_labelled(f"yolo:{path}").images
    assert (image.class_name, image.count) == ("cat", 1)


def test_copies_that_systems_keep_are_no_images_without_objects(tmp_path: Path) -> None:
    path = place(tmp_path, {"a.png": "0 0.5 0.5 0.1 0.1\n", ".thumbnails/a.png": None, "@eaDir/a.png/S.png": None})
    (tmp_path / "images/._a.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "images/b.nef").write_bytes(b"a camera's, which is not read")
    path.write_text(NAMES)
    (image,) = read_labelled(f"yolo:{path}").images
    assert (image.path, image.count) == (tmp_path / "images/a.png", 1)


def test_splits_and_lists_of_images(tmp_path: Path) -> None:
    path = place(tmp_path, {f"{name}.png": "0 0.5 0.5 0.1 0.1\n" for name in "abc"})
    (tmp_path / "train.txt").write_text("./images/a.png\nimages/b.png\n\n")
    (tmp_path / "val.txt").write_text("images/c.png\nimages/gone.png\n")
    path.write_text(f"train: train.txt\nval: val.txt\n{NAMES}")
    assert [image.path.name for image in read_labelled(f"yolo:{path}#train").images] == ["a.png", "b.png"]
    labelled = read_labelled(f"yolo:{path}#val")
    assert [image.path.name for image in labelled.images] == ["c.png"]
    assert [reason for _, reason in labelled.skipped] == ["there is no such file"]
    assert len(read_labelled(f"yolo:{path}").images) == 3
    with pytest.raises(DataError, match="names no 'test' images"):
        read_labelled(f"yolo:{path}#test")
    with pytest.raises(DataError, match=r"The split 'valid' .* is not known: write #train, #val, #test"):
        read_labelled(f"yolo:{path}#valid")


def test_a_split_that_has_no_folder_is_noted(tmp_path: Path) -> None:
    path = place(tmp_path, {"a.png": "0 0.5 0.5 0.1 0.1\n"}, "train/images")
    # As Roboflow exports sets without images to test on.
    path.write_text(f"train: ../train/images\ntest: ../test/images\n{NAMES}")
    labelled = read_labelled(f"yolo:{path}")
    assert [image.count for image in labelled.images] == [1]
    assert labelled.skipped == (("../test/images", "there is no such folder or list of images"),)
    with pytest.raises(DataError, match=r"The images '../test/images' .* are not below"):
        read_labelled(f"yolo:{path}#test")


def test_images_none_of_which_has_a_file_of_labels_do_not_show_nothing(tmp_path: Path) -> None:
    path = place(tmp_path, {"a.png": None, "b.png": None}, "photos")
    path.write_text(f"train: photos\n{NAMES}")
    with pytest.raises(DataError, match=r"None of the 2 images .* has a file of labels: .*/photos/a\.txt"):
        read_labelled(f"yolo:{path}")


def test_labels_as_windows_writes_them(tmp_path: Path) -> None:
    path = place(tmp_path, {"a.png": "\ufeff0 0.5 0.5 0.1 0.1\r\n", "b.png": "", "c.png": ""})
    (tmp_path / "labels" / "b.txt").write_bytes(b"\xff\xfe0\x00")
    (tmp_path / "train.txt").write_text("\ufeffimages/a.png\nimages/b.png\n")
    path.write_text(f"train: train.txt\n{NAMES}")
    labelled = read_labelled(f"yolo:{path}")
    assert [image.count for image in labelled.images] == [1]
    assert [reason for _, reason in labelled.skipped] == ["b.txt is not UTF-8 text"]


def test_a_turned_photo_has_the_size_it_is_shown_at(tmp_path: Path) -> None:
    path = place(tmp_path, {"a.png": "0 0.5 0.5 1 1\n"})
    path.write_text(NAMES)
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("jpg", "tif"):
        (tmp_path / "images" / "a.png").rename(tmp_path / "images" / "moved")
        Image.new("RGB", (200, 100)).save(tmp_path / "images" / f"a.{suffix}", exif=exif)
        (image,) = read_labelled(f"yolo:{path}").images
        assert image.boxes == (Box(0, 0, 100, 200, "cat"),)
        (tmp_path / "images" / f"a.{suffix}").unlink()
        (tmp_path / "images" / "moved").rename(tmp_path / "images" / "a.png")


def test_bad_lines_and_pictures_are_skipped_with_their_reason(tmp_path: Path) -> None:
    bad = (
        "-1 0.5 0.5 0.1 0.1\n",
        "0.7 0.5 0.5 0.1 0.1\n",
        "0 0.5 0.5 0.1\n",
        "cat 0.5 0.5 0.1 0.1\n",
        "0 0.5 nan 0.1 0.1\n",
        "0 0.5 0.5 0.1 0.1 0.9 0.3 0.2\n",
    )
    path = place(tmp_path, {"a.png": "0 0.5 0.5 0.1 0.1\n", **{f"bad{i}.png": text for i, text in enumerate(bad)}})
    path.write_text(NAMES)
    place(tmp_path, {"broken.png": "0 0.5 0.5 0.1 0.1\n", "flat.png": "0 0.5 0.5 0 0.1\n"})
    (tmp_path / "images" / "broken.png").write_bytes(b"no picture")
    labelled = read_labelled(f"yolo:{path}")
    assert [(image.path.name, image.count) for image in labelled.images] == [("a.png", 1), ("flat.png", 0)]
    reasons = [reason for _, reason in labelled.skipped]
    assert sum("expected a class and a box or an outline" in reason for reason in reasons) == len(bad)
    assert sum("size of the image cannot be read" in reason for reason in reasons) == 1
    assert sum("enclose no area" in reason for reason in reasons) == 1


def test_a_file_of_another_encoding_is_to_be_saved_in_utf_8(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [caf\xe9]", encoding="latin-1")
    with pytest.raises(DataError, match=r"data\.yaml cannot be read as YAML in UTF-8: save it in that encoding\.$"):
        read_labelled(f"yolo:{tmp_path}/data.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("names: [cat\n", r"cannot be read as YAML: expected ',' or ']', but got '<stream end>', in line 2\.$"),
        ("\0", r"cannot be read as YAML: unacceptable character #x0000: special characters are not allowed\.$"),
        ("just words", "holds no names and values"),
        ("names: {cat: 0}\n", "'names' of"),
        ("kpt_shape: 17\n", "'kpt_shape' of .* is 17: write the keypoints and their dimensions"),
        ("kpt_shape: [17, 0]\n", "'kpt_shape' of"),
        ("kpt_shape: [.inf, 3]\n", "'kpt_shape' of"),
        ("train: elsewhere\n", "'elsewhere' .* are not below .*: correct it\\."),
        ("train: other.bin\n", "is neither a folder nor a list of images"),
        ("names: [cat]\n", "'images' .* are not below"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "other.bin").write_bytes(b"\xff\xfe\x00\x80")
    path = tmp_path / "data.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=expected):
        read_labelled(f"yolo:{path}")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        read_labelled(f"yolo:{tmp_path / 'data.yaml'}")
