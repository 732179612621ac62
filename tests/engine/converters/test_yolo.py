from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pc_engine.converters import yolo
from pc_engine.datasets import Box, read_labelled
from pc_engine.errors import UsageError
from pc_engine.pointers import BoxPointer, EllipsePointer

yaml = pytest.importorskip("yaml", reason="PyYAML reads data.yaml here")


def test_boxes_are_shares_of_the_picture(two_modes, save, tmp_path) -> None:
    conversion = save(two_modes.boxes, "yolo", tmp_path / "set")
    labels = tmp_path / "set/labels"
    assert (labels / "a.txt").read_text().split() == [
        *("0", "0.1210938", "0.2213542", "0.2421875", "0.4010417"),
        *("0", "0.7343750", "0.8125000", "0.5312500", "0.3750000"),
    ]
    assert (labels / "b/a.txt").read_text() == ""
    assert (labels / "b/c.txt").read_text() == "2 0.5000000 0.6000000 0.5000000 0.4000000\n"
    assert yaml.safe_load((tmp_path / "set/data.yaml").read_text()) == {
        "train": "images.txt",
        "val": "images.txt",
        "nc": 3,
        "names": {0: "goldfish, Carassius auratus", 1: "crane", 2: 'bell "cote" & <co>'},
    }
    assert (tmp_path / "set/images.txt").read_text() == "./images/a.jpg\n./images/b/a.jpg\n./images/b/c.png\n"
    assert (conversion.images, conversion.pointers) == (3, 3)


def test_ellipses_are_poses_of_one_point(two_modes, save, tmp_path) -> None:
    save(two_modes.ellipses, "yolo", tmp_path / "set")
    rows = np.loadtxt(tmp_path / "set/labels/a.txt")
    assert rows[:, 0].tolist() == [0, 0]
    assert rows[0, 1:5] * [64, 48, 64, 48] == pytest.approx([20.25, 10.5, 10, 8], abs=0.01)
    assert rows[0, 5:] == pytest.approx([20.25 / 64, 10.5 / 48, 2], abs=1e-4)
    assert ((rows[:, 1:] >= 0) & (rows[:, 1:] <= [1, 1, 1, 1, 1, 1, 2])).all()
    data = yaml.safe_load((tmp_path / "set/data.yaml").read_text())
    assert (data["kpt_shape"], data["flip_idx"], data["names"]) == ([1, 3], [0], {0: "object"})


def test_what_was_converted_can_be_read(make_row, save, draw_photos, tmp_path) -> None:
    ellipse, box = EllipsePointer(32, 24, 16, 12, 1.0), BoxPointer(0, 0, 32, 36, 1.0)
    rows = [make_row(str(tmp_path / "photos/a.png"), ellipse, ellipse), make_row(str(tmp_path / "photos/b.png"), box)]
    draw_photos(tmp_path, rows)
    save(rows, "yolo", tmp_path / "set")
    labelled = read_labelled(f"yolo:{tmp_path / 'set/data.yaml'}")
    assert labelled.skipped == ()
    assert [len(image.boxes) for image in labelled.images] == [2, 1]
    assert labelled.images[0].boxes[0] == Box(*map(pytest.approx, (16, 12, 48, 36)), "object")


def test_among_poses_a_box_has_a_point_that_is_absent(two_modes, save, tmp_path) -> None:
    rows = [two_modes.ellipses[1], two_modes.boxes[2], {**two_modes.ellipses[0], "path": "photos/x.jpg"}]
    save(rows, "yolo", tmp_path / "set")
    assert (tmp_path / "set/labels/b/c.txt").read_text().split()[-3:] == ["0", "0", "0"]


def test_images_lead_to_the_photos(make_row, save, draw_photos, tmp_path) -> None:
    rows = [make_row(str(tmp_path / "photos/a.png")), make_row(str(tmp_path / "photos/b/a.png"))]
    draw_photos(tmp_path, rows)
    save(rows, "yolo", tmp_path / "set")
    for line in (tmp_path / "set/images.txt").read_text().splitlines():
        with Image.open(tmp_path / "set" / line) as photo:
            assert photo.size == (64, 48)
    (tmp_path / "set/labels.cache").touch()  # as training leaves it
    save(rows, "yolo", tmp_path / "set", fresh=True)
    assert sorted(os.listdir(tmp_path / "photos")) == ["a.png", "b"]
    assert sorted(os.listdir(tmp_path / "set")) == ["conversion.json", "data.yaml", "images", "images.txt", "labels"]


@pytest.mark.parametrize("folder", ["photos", "."])
def test_the_photos_are_found_from_another_folder(make_row, save, draw_photos, tmp_path, monkeypatch, folder) -> None:
    rows = [make_row(f"{folder}/a.png"), make_row(f"{folder}/b/a.png")]
    draw_photos(tmp_path, rows)
    (tmp_path / "other/photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "other")
    conversion = save(rows, "yolo", tmp_path / "set", run=tmp_path / "run")
    assert conversion.remark == ""
    assert os.path.samefile(tmp_path / "set/images", tmp_path / folder)


def test_images_that_the_list_does_not_lead_to_are_said(make_row, save, draw_photos, tmp_path) -> None:
    rows = [make_row(str(tmp_path / "photos/a.png")), make_row(str(tmp_path / "photos/b/a.png"))]
    draw_photos(tmp_path, rows[:1])
    conversion = save(rows, "yolo", tmp_path / "set")
    assert conversion.remark.startswith("1 of 2 images of the list do not exist: say where the photos are")
    assert conversion.to_dict()["remark"] == conversion.remark


def test_the_photos_are_found_where_they_lie_now(make_row, save, draw_photos, write_rows, tmp_path) -> None:
    rows = [make_row("/mnt/photos/a.png"), make_row("/mnt/photos/b/a.png")]
    draw_photos(tmp_path, [make_row("now/a.png"), make_row("now/b/a.png")])
    settings = {"run": write_rows(tmp_path / "run", rows), "photos": tmp_path / "now"}
    conversion = save(rows, "yolo", tmp_path / "set", **settings)
    assert conversion.remark == ""
    assert os.path.samefile(tmp_path / "set/images", tmp_path / "now")
    with pytest.raises(UsageError, match="--photos is for yolo"):
        save(rows, "coco", tmp_path / "run.json", **settings)


def test_formats_that_many_trainers_leave_out_are_said(make_row, save, draw_photos, tmp_path) -> None:
    rows = [make_row(str(tmp_path / "photos" / name)) for name in ("a.PNG", "b.gif", "c.tiff", "d.webp")]
    draw_photos(tmp_path, rows)
    conversion = save(rows, "yolo", tmp_path / "set")
    assert conversion.images == 4
    assert conversion.remark.startswith(
        "1 of 4 images have file endings that many trainers skip, such as those of HEIC, AVIF and GIF: convert"
    )
    (tmp_path / "photos/a.PNG").unlink()
    remark = save(rows, "yolo", tmp_path / "set", fresh=True).remark
    assert remark.count("1 of 4 images") == 2  # one is not there


def test_where_no_link_can_be_made_it_is_not_said_that_the_photos_are_gone(
    make_row, save, draw_photos, tmp_path, monkeypatch
) -> None:
    rows = [make_row(str(tmp_path / "photos/a.png")), make_row(str(tmp_path / "photos/b.png"))]
    draw_photos(tmp_path, rows)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    conversion = save(rows, "yolo", tmp_path / "set")
    assert conversion.images == 2
    assert conversion.remark.startswith(f"No link can be made to {tmp_path / 'photos'} (A required privilege is not")
    assert "not there" not in conversion.remark


def test_images_that_are_elsewhere_have_no_link(make_row, save, tmp_path) -> None:
    conversion = save([make_row("s3://bucket/photos/a.jpg")], "yolo", tmp_path / "set")
    assert "1 of 1 images" in conversion.remark
    assert not (tmp_path / "set/images").is_symlink()
    assert (tmp_path / "set/images.txt").read_text() == "./images/a.jpg\n"


def test_images_whose_labels_would_be_looked_for_elsewhere_are_left_out(make_row, save, tmp_path) -> None:
    names = ["train/images/a.jpg", "images/b/c.jpg", "train/images.jpg", "train/d.jpg"]
    conversion = save([make_row(f"photos/images/{name}") for name in names], "yolo", tmp_path / "set")
    ((reason, number),) = conversion.left_out.items()
    assert (conversion.images, number) == (2, 2)
    assert "run and convert that folder on its own" in reason
    for line in (tmp_path / "set/images.txt").read_text().splitlines():
        before, _, after = (tmp_path / "set" / line).as_posix().rpartition("/images/")
        assert (tmp_path / before / "labels" / after).with_suffix(".txt").is_file()


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file systems there hold no such names")
def test_names_that_are_not_utf_8_are_left_out(make_row, save, tmp_path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).touch()
    (tmp_path / "caf\\xe8.jpg").touch()
    rows = [make_row(f"{tmp_path}/caf\\x{byte}.jpg") for byte in ("e9", "e8")]
    conversion = save(rows, "yolo", tmp_path / "set")
    ((reason, number),) = conversion.left_out.items()
    assert (conversion.images, number, conversion.remark) == (1, 1, "")
    assert "is not UTF-8" in reason


@pytest.mark.parametrize("to", ["yolo", "voc"])
def test_images_that_share_a_label_file_are_left_out_but_for_the_first(make_row, save, tmp_path, to) -> None:
    names = ["a.jpg", "a.png", "b/a.jpg", "a.jpg", "a.jpg.png"]
    conversion = save([make_row(f"photos/{name}") for name in names], to, tmp_path / "set")
    ((reason, number),) = conversion.left_out.items()
    assert (conversion.images, number) == (3, 2)
    assert "another image has it" in reason


@pytest.mark.parametrize("to", ["yolo", "voc"])
def test_names_that_no_label_file_can_have_are_left_out(make_row, save, tmp_path, to) -> None:
    names = ["x" * 253 + ".jpg", "line\nbreak.jpg", "a\u2028b.jpg", "last.jpg\n", "fine.jpg"]
    conversion = save([make_row(f"photos/{name}") for name in names], to, tmp_path / "set")
    assert conversion.images == 1
    assert sorted(conversion.left_out.values()) == [1, 3]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_supervision_reads_the_boxes_that_were_written(
    data, random_rows, save, draw_photos, corners, label, tmp_path_factory
) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision reads YOLO data sets here")
    folder = tmp_path_factory.mktemp("yolo")
    rows = data.draw(random_rows("box", longest=2000))
    photos = draw_photos(folder, rows)
    save(rows, "yolo", folder / "set")
    dataset = supervision.DetectionDataset.from_yolo(
        images_directory_path=str(photos),
        annotations_directory_path=str(folder / "set/labels"),
        data_yaml_path=str(folder / "set/data.yaml"),
    )
    for row in rows:
        found = dataset.annotations[str(folder / row["path"])]
        assert found.xyxy.shape == corners(row).shape
        assert np.abs(found.xyxy - corners(row)).max(initial=0) < 0.5
        assert {dataset.classes[k] for k in found.class_id} <= {label(row, rows)}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_points_and_boxes_of_poses_come_back(data, random_rows, save, corners, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("yolo")
    rows = data.draw(random_rows("ellipse"))
    save(rows, "yolo", folder / "set")
    for number, row in enumerate(rows):
        lines = (folder / f"set/labels/{number}.txt").read_text().splitlines()
        numbers = np.array([line.split() for line in lines], float).reshape(-1, 8)
        if not any(row["pointers"] for row in rows):
            continue
        size = np.array([row["width"], row["height"]])
        centres, sides, points = (numbers[:, k : k + 2] * size for k in (1, 3, 5))
        boxes = np.hstack([centres - sides / 2, centres + sides / 2])
        assert np.abs(boxes - corners(row)).max(initial=0) < 0.5
        expected = np.array([(p["x"], p["y"]) for p in row["pointers"]]).reshape(-1, 2)
        assert np.abs(points - expected).max(initial=0) < 0.5


@pytest.mark.parametrize(
    "name", ["a\x7fb", "a\ufffeb", "a\uffffb", "a\x85b", "a\u2028b", "\ufeffa", 'a"\\b', "a\n# b", "写真 📷"]
)
def test_any_name_of_a_class_comes_back(make_row, save, tmp_path, name) -> None:
    save([make_row("photos/a.jpg", class_id=7, class_name=name)], "yolo", tmp_path / "set")
    assert yaml.safe_load((tmp_path / "set/data.yaml").read_text())["names"] == {0: name}


def test_the_names_at_the_top_are_those_that_are_declared(two_modes, save, tmp_path) -> None:
    save(two_modes.boxes, "yolo", tmp_path / "set")
    assert set(os.listdir(tmp_path / "set")) - {"conversion.json"} <= set(yolo.FORMAT.makes)
