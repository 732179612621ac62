from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ElementTree = pytest.importorskip("defusedxml.ElementTree", reason="defusedxml reads XML here")


def read(path):
    return ElementTree.parse(path).getroot()


def test_the_head_has_the_labels_that_a_task_needs(two_modes, save, tmp_path) -> None:
    save(two_modes.boxes, "cvat", tmp_path / "run.xml")
    root = read(tmp_path / "run.xml")
    assert [child.tag for child in root] == ["version", "meta", "image", "image", "image"]
    assert root.findtext("version") == "1.1"
    assert [root.findtext(f"meta/task/{name}") for name in ("size", "mode", "overlap")] == ["3", "annotation", "0"]
    labels = root.findall("meta/task/labels/label")
    assert [label.findtext("name") for label in labels] == [
        *("goldfish, Carassius auratus", "crane", 'bell "cote" & <co>')
    ]
    assert {label.findtext("type") for label in labels} == {"rectangle"}
    assert {node.tag: node.text for node in labels[0].find("attributes/attribute")} == {
        "name": "score",
        "mutable": "False",
        "input_type": "text",
        "default_value": None,
        "values": None,
    }


def test_ellipses_are_points_and_boxes_are_boxes(two_modes, save, tmp_path) -> None:
    rows = [two_modes.ellipses[0], {**two_modes.boxes[2], "reviewed": True}]
    save(rows, "cvat", tmp_path / "run.xml")
    root = read(tmp_path / "run.xml")
    first, second = root.findall("image")
    assert first.attrib == {"id": "0", "name": "a.jpg", "width": "64", "height": "48", "reviewed": "no"}
    assert second.attrib == {"id": "1", "name": "b/c.png", "width": "4", "height": "5", "reviewed": "yes"}
    shared = {"occluded": "0", "z_order": "0"}
    points = first.findall("points")
    assert [point.attrib for point in points] == [
        {"label": "object", "source": "auto", "points": "20.25,10.50", **shared},
        {"label": "object", "source": "auto", "points": "50.00,40.00", **shared},
    ]
    assert [point.find("attribute").attrib for point in points] == [{"name": "score"}] * 2
    assert [point.findtext("attribute") for point in points] == ["0.750000", "0.250000"]
    (box,) = second
    corners = {"xtl": "1.00", "ytl": "2.00", "xbr": "3.00", "ybr": "4.00"}
    assert box.attrib == {"label": 'bell "cote" & <co>', "source": "manual", **corners, **shared}
    assert {label.findtext("type") for label in root.findall("meta/task/labels/label")} == {"any"}


@pytest.mark.parametrize("name", ["line\nbreak.jpg", "tab\t.jpg", "\"<&>'.jpg", "写真 📷.jpg"])
def test_odd_names_come_back(make_row, save, tmp_path, name) -> None:
    save([make_row(f"photos/{name}")], "cvat", tmp_path / "run.xml")
    assert read(tmp_path / "run.xml").find("image").get("name") == name


def test_what_xml_cannot_hold_is_escaped(make_row, save, tmp_path) -> None:
    save([make_row("photos/\x0b\r\ud800\ufffe.jpg")], "cvat", tmp_path / "run.xml")
    assert read(tmp_path / "run.xml").find("image").get("name") == "\\x0b\\r\\ud800\\ufffe.jpg"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
@pytest.mark.parametrize("kind", ["ellipse", "box"])
def test_coordinates_come_back(kind, data, random_rows, save, corners, label, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("cvat")
    rows = data.draw(random_rows(kind))
    save(rows, "cvat", folder / "run.xml")
    for row, image in zip(rows, read(folder / "run.xml").findall("image"), strict=True):
        if kind == "ellipse":
            found = [shape.get("points").split(",") for shape in image.findall("points")]
            expected = np.array([(p["x"], p["y"]) for p in row["pointers"]]).reshape(-1, 2)
        else:
            found = [[shape.get(name) for name in ("xtl", "ytl", "xbr", "ybr")] for shape in image.findall("box")]
            expected = corners(row)
        assert np.abs(np.array(found, float).reshape(expected.shape) - expected).max(initial=0) < 0.5
        assert {shape.get("label") for shape in image} <= {label(row, rows)}


@pytest.mark.parametrize("mode", ["ellipses", "boxes"])
def test_datumaro_reads_the_shapes(two_modes, save, draw_photos, tmp_path, mode) -> None:
    datumaro = pytest.importorskip("datumaro", reason="datumaro reads CVAT files as CVAT does")
    rows = getattr(two_modes, mode)
    (tmp_path / "set").mkdir()
    draw_photos(tmp_path, rows).rename(tmp_path / "set/images")
    save(rows, "cvat", tmp_path / "set/annotations.xml")
    items = {item.id: item for item in datumaro.Dataset.import_from(str(tmp_path / "set"), "cvat")}
    assert set(items) == ({"a", "b/a", "b/c"} if mode == "boxes" else {"a", "b/a"})
    if mode == "ellipses":
        assert [shape.points for shape in items["a"].annotations] == [[20.25, 10.5], [50, 40]]
    else:
        assert [shape.points for shape in items["a"].annotations] == [[0, 1, 15.5, 20.25], [30, 30, 64, 48]]
    assert items["b/a"].annotations == []
    assert [float(shape.attributes["score"]) for shape in items["a"].annotations] == [
        pointer["score"] for pointer in rows[0]["pointers"]
    ]
