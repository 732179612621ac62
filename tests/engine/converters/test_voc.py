from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ElementTree = pytest.importorskip("defusedxml.ElementTree", reason="defusedxml reads XML here")


def test_an_image_has_a_file_with_its_objects(two_modes, save, tmp_path) -> None:
    save(two_modes.boxes, "voc", tmp_path / "set")
    root = ElementTree.parse(tmp_path / "set/Annotations/b/c.xml").getroot()
    assert (root.findtext("folder"), root.findtext("filename"), root.findtext("path")) == (
        "b",
        "c.png",
        "photos/b/c.png",
    )
    assert [root.findtext(f"size/{name}") for name in ("width", "height", "depth")] == ["4", "5", "3"]
    (item,) = root.findall("object")
    assert item.findtext("name") == 'bell "cote" & <co>'
    # Pixels are numbered from 1: the columns 2 and 3, the rows 3 and 4.
    assert [float(item.findtext(f"bndbox/{name}")) for name in ("xmin", "xmax", "ymin", "ymax")] == [2, 3, 3, 4]
    assert [node.text for node in item.find("attributes/attribute")] == ["score", "1.0"]
    assert ElementTree.parse(tmp_path / "set/Annotations/b/a.xml").getroot().findall("object") == []
    assert (tmp_path / "set/ImageSets/Main/default.txt").read_text() == "a\nb/a\nb/c\n"


def test_an_ellipse_has_its_point_beside_the_box(two_modes, save, tmp_path) -> None:
    save(two_modes.ellipses, "voc", tmp_path / "set")
    first, _ = ElementTree.parse(tmp_path / "set/Annotations/a.xml").getroot().findall("object")
    assert [first.findtext(f"point/{name}") for name in "xy"] == ["20.75", "11.00"]
    assert [first.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")] == [
        *("16.25", "7.50", "25.25", "14.50")
    ]


def test_names_that_the_locale_cannot_write_are_left_out(make_row, save, tmp_path, monkeypatch) -> None:
    opened = Path.open

    def in_ascii(path: Path, *arguments, **options):
        path.name.encode("ascii")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", in_ascii)
    conversion = save([make_row("a.jpg"), make_row("é.jpg")], "voc", tmp_path / "set")
    assert [file.name for file in (tmp_path / "set/Annotations").iterdir()] == ["a.xml"]
    assert sum(conversion.left_out.values()) == 1


def test_text_that_xml_cannot_hold_is_escaped(make_row, save, tmp_path) -> None:
    name = "photos/\x01\x07<&>\"'é写\ufffe.jpg"
    save([make_row(name)], "voc", tmp_path / "set")
    (file,) = (tmp_path / "set/Annotations").iterdir()
    assert ElementTree.parse(file).getroot().findtext("path") == "photos/\\x01\\x07<&>\"'é写\\ufffe.jpg"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
@pytest.mark.parametrize("kind", ["ellipse", "box"])
def test_supervision_reads_the_boxes_that_were_written(
    kind, data, random_rows, save, draw_photos, corners, label, tmp_path_factory
) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision reads VOC data sets here")
    folder = tmp_path_factory.mktemp("voc")
    rows = data.draw(random_rows(kind, longest=500))
    photos = draw_photos(folder, rows)
    save(rows, "voc", folder / "set")
    dataset = supervision.DetectionDataset.from_pascal_voc(
        images_directory_path=str(photos), annotations_directory_path=str(folder / "set/Annotations")
    )
    for row in rows:
        found, expected = dataset.annotations[str(folder / row["path"])], corners(row)
        # The format knows no box that is narrower than a pixel.
        expected[:, 2:] = np.maximum(expected[:, 2:], expected[:, :2] + 1)
        assert found.xyxy.shape == expected.shape
        assert np.abs(found.xyxy - expected).max(initial=0) < 0.5
        assert {dataset.classes[k] for k in found.class_id} <= {label(row, rows)}
