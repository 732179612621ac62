from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pc_engine.datasets import read_labelled
from pc_engine.pointers import BoxPointer
from pc_engine.runs.corrections import number_of_class


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
        "count_found": "2",
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
    (written,) = (row["path"] for row in read(tmp_path / "set/counts.csv"))
    assert Path(written) == Path(name)
    assert not written.startswith(("=", "+", "-", "@"))


@pytest.mark.parametrize("begins", ["=", "+", "-", "@", "\t", "\r"])
def test_no_text_is_a_formula_for_a_spreadsheet(make_row, save, tmp_path, begins) -> None:
    box = BoxPointer(1, 2, 3, 4, 1.0)
    row = {**make_row(f"{begins}1+1.jpg", box, class_id=3), "class_name": f"{begins}cat", "model": f"{begins}net"}
    save([row], "csv", tmp_path / "set")
    (counts,), (pointer,) = read(tmp_path / "set/counts.csv"), read(tmp_path / "set/pointers.csv")
    assert counts["path"] == pointer["path"] == f"./{begins}1+1.jpg"
    assert counts["class"] == pointer["class"] == f"'{begins}cat"
    assert counts["model"] == f"'{begins}net"


def test_an_image_that_is_named_as_a_formula_is_found_again(make_row, save, draw_photos, tmp_path, monkeypatch) -> None:
    rows = [make_row("=1+1.png")]
    draw_photos(tmp_path, rows)
    save(rows, "csv", tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    (image,) = read_labelled(str(tmp_path / "set/counts.csv")).images
    assert image.path.samefile(tmp_path / "=1+1.png")


def test_of_a_reviewed_image_stands_what_the_run_had_found(make_row, save, tmp_path) -> None:
    corrected = {"count": 5, "count_label": "4+", "reviewed": True, "count_found": 3, "count_label_found": "3"}
    named = {"class_id": number_of_class("my cat"), "class_name": "my cat", "class_score": None}
    save([{**make_row("a.jpg", class_id=3), **corrected, **named}], "csv", tmp_path / "set")
    (row,) = read(tmp_path / "set/counts.csv")
    assert (row["count"], row["count_found"], row["reviewed"]) == ("5", "3", "yes")
    assert (row["class"], row["class_id"]) == ("my cat", "")


def test_a_counter_can_be_fitted_to_the_table(make_row, save, draw_photos, tmp_path) -> None:
    rows = [make_row(str(tmp_path / f"photos/{name}"), class_id=3) for name in ("a.png", "b.png")]
    draw_photos(tmp_path, rows)
    save(rows, "csv", tmp_path / "set")
    labelled = read_labelled(str(tmp_path / "set/counts.csv"))
    assert [(str(image.path), image.count, image.class_name) for image in labelled.images] == [
        (row["path"], 0, "goldfish, Carassius auratus") for row in rows
    ]
    assert labelled.by_run == 2
