"""Labels that were typed elsewhere than the names of their images: "ä" is one letter there, and two here."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from pc_engine.datasets import read_labelled


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with its names as macOS keeps them."""
    path = tmp_path / nfd("Gemüse") / "images" / nfd("Möhre.png")
    path.parent.mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(path)
    if (tmp_path / nfc("Gemüse")).exists():
        pytest.skip("this file system takes both forms for one name")
    return path


def read(spec: str, image: Path, count: int = 1) -> None:
    labelled = read_labelled(spec)
    assert [(one.path, one.count) for one in labelled.images] == [(image, count)]
    assert labelled.skipped == ()


def test_a_table(tmp_path: Path, image: Path) -> None:
    (tmp_path / "t.csv").write_text("path,count\nGemüse/images/Möhre.png,7\n", encoding="utf-8")
    read(f"{tmp_path}/t.csv", image, 7)
    (tmp_path / "t.csv").write_text("path,count\nGemüse\\images\\Möhre.png,7\n", encoding="utf-8")
    read(f"{tmp_path}/t.csv", image, 7)


def test_coco(tmp_path: Path, image: Path) -> None:
    labels = {
        "images": [{"id": 1, "file_name": "Gemüse/images/Möhre.png", "width": 20, "height": 10}],
        "categories": [{"id": 1, "name": "carrot"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(labels))
    read(f"coco:{tmp_path}/coco.json", image)


def test_voc(tmp_path: Path, image: Path) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    size = "<size><width>20</width><height>10</height></size>"
    text = f"<annotation><filename>Möhre.png</filename>{size}<object><name>carrot</name>{box}</object></annotation>"
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "1.xml").write_text(text, encoding="utf-8")
    read(f"voc:{tmp_path}@{image.parent}", image)


def test_yolo_has_both_its_list_and_its_labels_in_another_form(tmp_path: Path, image: Path) -> None:
    labels = image.parent.parent / "labels" / nfc("Möhre.txt")
    labels.parent.mkdir()
    labels.write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "list.txt").write_text("Gemüse/images/Möhre.png\n", encoding="utf-8")
    (tmp_path / "data.yaml").write_text("train: list.txt\nnames: [carrot]\n")
    read(f"yolo:{tmp_path}/data.yaml", image)
