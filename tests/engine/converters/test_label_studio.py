from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pc_engine.sources.stored_names import stored_name


def tasks_of(folder):
    return json.loads((folder / "tasks.json").read_text())


def test_ellipses_are_key_points_in_per_cent(two_modes, save, tmp_path) -> None:
    save(two_modes.ellipses, "label-studio", tmp_path / "set")
    first, second = tasks_of(tmp_path / "set")
    assert first["data"] == {"image": "/data/local-files/?d=a.jpg", "path": "photos/a.jpg"}
    (prediction,) = first["predictions"]
    assert prediction["model_version"] == "tiny c2p"
    assert "score" not in prediction  # a counter's decision values are no probabilities
    count, point, _ = prediction["result"]
    assert count == {"id": "count", "from_name": "count", "to_name": "image", "type": "number", "value": {"number": 2}}
    assert point == {
        "id": "pointer0",
        "from_name": "point",
        "to_name": "image",
        "type": "keypointlabels",
        "original_width": 64,
        "original_height": 48,
        "image_rotation": 0,
        "value": {"x": 31.64062, "y": 21.875, "width": 0.75, "keypointlabels": ["object"]},
        "score": 0.75,
    }
    assert [region["type"] for region in second["predictions"][0]["result"]] == ["number"]


def test_boxes_are_rectangles_with_their_class(two_modes, save, tmp_path) -> None:
    save(two_modes.boxes, "label-studio", tmp_path / "set")
    prediction = tasks_of(tmp_path / "set")[0]["predictions"][0]
    assert prediction["score"] == 0.75
    _, box, _ = prediction["result"]
    assert (box["type"], box["from_name"], box["score"]) == ("rectanglelabels", "box", 0.6)
    assert box["value"] == {
        "x": 0,
        "y": 2.08333,
        "width": 24.21875,
        "height": 40.10417,
        "rotation": 0,
        "rectanglelabels": ["goldfish, Carassius auratus"],
    }


def test_formats_that_browsers_do_not_show_are_said(make_row, save, tmp_path) -> None:
    rows = [make_row(f"photos/{name}") for name in ("a.jpg", "b.HEIC", "c.avif", "d.tif")]
    assert save(rows[:1], "label-studio", tmp_path / "one").remark == ""
    assert save(rows, "label-studio", tmp_path / "set").remark.startswith("2 of 4 photos are in formats that most")


def test_what_a_person_reviewed_has_a_version_of_its_own(make_row, save, tmp_path) -> None:
    save([make_row("a.jpg", reviewed=True)], "label-studio", tmp_path / "set")
    assert tasks_of(tmp_path / "set")[0]["predictions"][0]["model_version"] == "tiny c2p reviewed"


@pytest.mark.parametrize(
    ("path", "root", "url"),
    [
        ("photos/a.jpg", None, "/data/local-files/?d=a.jpg"),
        ("photos/a.jpg", "https://host/photos/", "https://host/photos/a.jpg"),
        ("photos/a.jpg", "https://host/photos", "https://host/photos/a.jpg"),
        ("photos/a.jpg", "/data/local-files/?d=", "/data/local-files/?d=a.jpg"),
        ("photos/a.jpg", "/data/local-files/?d=photos", "/data/local-files/?d=photos/a.jpg"),
        ("photos/a.jpg", "", "a.jpg"),
        ("s3://bucket/photos/a.jpg", None, "s3://bucket/photos/a.jpg"),
        ("s3://bucket/photos/a.jpg", "s3://copy/", "s3://copy/a.jpg"),
        ("tar://a.jpg::s3://bucket/0.tar", None, "/data/local-files/?d=a.jpg"),
    ],
)
def test_an_image_has_a_url(make_row, save, tmp_path, path, root, url) -> None:
    save([make_row(path)], "label-studio", tmp_path / "set", image_root=root)
    assert tasks_of(tmp_path / "set")[0]["data"]["image"] == url


@pytest.mark.parametrize("name", ["a b&c=d#e?f%41+g.jpg", "写真 📷.jpg", "caf\\xe9.jpg", "line\nbreak.jpg"])
def test_odd_names_survive_in_the_url(make_row, save, tmp_path, name) -> None:
    save([make_row(f"photos/x/{name}"), make_row("photos/b.jpg")], "label-studio", tmp_path / "set")
    url = tasks_of(tmp_path / "set")[0]["data"]["image"]
    (found,) = parse_qs(urlsplit(url).query, errors="surrogateescape")["d"]
    assert stored_name(found) == f"x/{name}"


def test_a_url_has_the_bytes_of_a_name_that_is_not_utf_8(make_row, save, tmp_path) -> None:
    save([make_row("photos/caf\\xe9.jpg")], "label-studio", tmp_path / "set", image_root="https://host/")
    assert tasks_of(tmp_path / "set")[0]["data"]["image"] == "https://host/caf%E9.jpg"


@pytest.mark.parametrize("to", ["coco", "yolo", "voc", "cvat", "csv"])
def test_other_formats_have_no_urls(make_row, save, tmp_path, to) -> None:
    from pc_engine.errors import UsageError

    with pytest.raises(UsageError, match="--image-root is for label-studio"):
        save([make_row("a.jpg")], to, tmp_path / "set", image_root="x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["ellipses", "boxes"])
def test_the_interface_fits_the_tasks(two_modes, save, tmp_path, mode) -> None:
    """Each region's control is there, of its type and with its label."""
    element_tree = pytest.importorskip("defusedxml.ElementTree", reason="defusedxml reads XML here")
    save(getattr(two_modes, mode), "label-studio", tmp_path / "set")
    view = element_tree.parse(tmp_path / "set/interface.xml").getroot()
    controls = {node.get("name"): node for node in view if node.get("toName") == "image"}
    assert view.find("Image").attrib == {"name": "image", "value": "$image"}
    for task in tasks_of(tmp_path / "set"):
        for region in task["predictions"][0]["result"]:
            control = controls[region["from_name"]]
            assert control.tag.lower() == region["type"]
            if region["type"] != "number":
                known = {node.get("value") for node in control}
                assert set(region["value"][region["type"]]) <= known


@pytest.mark.parametrize("mode", ["ellipses", "boxes"])
def test_label_studio_accepts_the_tasks_under_the_interface(two_modes, save, tmp_path, mode) -> None:
    reason = "label-studio-sdk validates tasks as Label Studio does"
    interface = pytest.importorskip("label_studio_sdk.label_interface", reason=reason)
    save(getattr(two_modes, mode), "label-studio", tmp_path / "set")
    checked = interface.LabelInterface((tmp_path / "set/interface.xml").read_text())
    checked.validate()
    for task in tasks_of(tmp_path / "set"):
        assert checked.validate_task({"data": task["data"]})
        for prediction in task["predictions"]:
            assert checked.validate_prediction(prediction, return_errors=True) == []


def test_its_converter_finds_the_boxes_once_they_are_accepted(two_modes, save, corners, tmp_path) -> None:
    converter = pytest.importorskip("label_studio_sdk.converter", reason="label-studio-sdk converts what is labelled")
    save(two_modes.boxes, "label-studio", tmp_path / "set")
    tasks = [
        {**task, "id": number, "annotations": [{"id": number, **task["predictions"][0]}]}
        for number, task in enumerate(tasks_of(tmp_path / "set"))
    ]
    (tmp_path / "accepted.json").write_text(json.dumps(tasks))
    reader = converter.Converter((tmp_path / "set/interface.xml").read_text(), str(tmp_path), download_resources=False)
    reader.convert_to_coco(str(tmp_path / "accepted.json"), str(tmp_path / "coco"), is_dir=False)
    coco = json.loads((tmp_path / "coco/result.json").read_text())
    assert sorted(category["name"] for category in coco["categories"]) == sorted(
        ["goldfish, Carassius auratus", "crane", 'bell "cote" & <co>']
    )
    for image, row in zip(coco["images"], two_modes.boxes, strict=False):
        found = np.array([item["bbox"] for item in coco["annotations"] if item["image_id"] == image["id"]])
        found = found.reshape(-1, 4)
        found[:, 2:] += found[:, :2]
        assert np.abs(found - corners(row)).max(initial=0) < 0.5


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
@pytest.mark.parametrize("kind", ["ellipse", "box"])
def test_coordinates_come_back(kind, data, random_rows, save, corners, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("label-studio")
    rows = data.draw(random_rows(kind))
    save(rows, "label-studio", folder / "set")
    for row, task in zip(rows, tasks_of(folder / "set"), strict=True):
        _, *regions = task["predictions"][0]["result"]
        size = np.array([row["width"], row["height"]])
        found = np.array([(r["value"]["x"], r["value"]["y"]) for r in regions]).reshape(-1, 2) / 100 * size
        expected = np.array([(p["x"], p["y"]) for p in row["pointers"]] if kind == "ellipse" else corners(row)[:, :2])
        assert np.abs(found - expected.reshape(-1, 2)).max(initial=0) < 0.5
        if kind == "box":
            sides = np.array([(r["value"]["width"], r["value"]["height"]) for r in regions]).reshape(-1, 2) / 100 * size
            assert np.abs(found + sides - corners(row)[:, 2:]).max(initial=0) < 0.5
