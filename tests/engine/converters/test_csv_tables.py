from __future__ import annotations

import csv

import pytest

from pc_engine.datasets import read_labelled


def read(path):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_image_has_a_line_with_its_count(two_modes, save, tmp_path) -> None:
    conversion = save(two_modes.boxes, "csv", tmp_path / "set")
    counts = read(tmp_path / "set/counts.csv")
    assert [(row["path"], row["status"], row["count"], row["pointers"], row["reviewed"]) for row in counts] == [
        ("photos/a.jpg", "ok", "2", "2", "no"),
        ("photos/b/a.jpg", "ok", "0", "0", "no"),
        ("photos/b/c.png", "ok", "1", "1", "no"),
        ("photos/broken.jpg", "error", "", "0", "no"),
    ]
    assert counts[0] == {
        "path": "photos/a.jpg",
        "status": "ok",
        "count": "2",
        "count_label": "2",
        "class_id": "3",
        "class": "goldfish, Carassius auratus",
        "class_score": "0.75",
        "pointers": "2",
        "reviewed": "no",
        "width": "64",
        "height": "48",
        "mode": "p2c",
        "model": "tiny",
        "error": "",
    }
    assert counts[3]["error"] == "It is broken."
    assert (conversion.images, conversion.pointers, conversion.left_out) == (4, 3, {})


def test_every_pointer_has_a_line_in_pixels(two_modes, save, tmp_path) -> None:
    save([two_modes.ellipses[0], two_modes.boxes[2]], "csv", tmp_path / "set")
    ellipse, beyond, box = read(tmp_path / "set/pointers.csv")
    assert ellipse == {
        "path": "photos/a.jpg",
        "number": "1",
        "kind": "ellipse",
        "class": "object",
        "score": "0.75",
        "x": "20.25",
        "y": "10.5",
        "x0": "15.25",
        "y0": "6.5",
        "x1": "25.25",
        "y1": "14.5",
        "rx": "5.0",
        "ry": "4.0",
    }
    assert (beyond["number"], beyond["x1"]) == ("2", "80.0")
    assert (box["x"], box["y"], box["x0"], box["y1"], box["rx"], box["ry"]) == ("2.0", "3.0", "1.0", "4.0", "", "")


@pytest.mark.parametrize("name", ['comma, "quoted".jpg', "line\nbreak\r.jpg", "写真;\t.jpg", "=1+1.jpg"])
def test_odd_names_come_back(make_row, save, tmp_path, name) -> None:
    save([make_row(name)], "csv", tmp_path / "set")
    assert [row["path"] for row in read(tmp_path / "set/counts.csv")] == [name]


def test_a_counter_can_be_fitted_to_the_table(make_row, save, draw_photos, tmp_path) -> None:
    rows = [make_row(str(tmp_path / f"photos/{name}"), class_id=3) for name in ("a.png", "b.png")]
    draw_photos(tmp_path, rows)
    save(rows, "csv", tmp_path / "set")
    labelled = read_labelled(str(tmp_path / "set/counts.csv"))
    assert [(str(image.path), image.count, image.class_name) for image in labelled.images] == [
        (row["path"], 0, "goldfish, Carassius auratus") for row in rows
    ]
    assert labelled.by_run == 2
