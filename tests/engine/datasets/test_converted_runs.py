"""Runs that were converted for other tools come back as they were, where nobody changed anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pc_engine.converters import ConversionSettings, convert
from pc_engine.datasets import Box, read_labelled
from pc_engine.pointers import BoxPointer, EllipsePointer
from pc_engine.result import Result

SIZE = (200, 100)
NAMES = ("none.jpg", "sub/one <&>.jpg", "sub/two é.jpg")
ELLIPSES = (EllipsePointer(20.25, 10, 5, 4, 0.7), EllipsePointer(60, 41.37, 5, 4.5, 0.3))
# One as narrow as a pixel, and one that ends with the picture.
BOXES = (BoxPointer(0, 1, 1, 50.13, 0.6), BoxPointer(30, 30.5, *SIZE, 0.4))


def convert_run(folder: Path, to: str, pointers: tuple[Any, ...], **classified: Any) -> list[str]:
    """Convert a run with none, one and two pointers on its photos to ``folder/converted``, and return their paths."""
    rows = []
    for n, name in enumerate(NAMES):
        photo = folder / "photos" / name
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE).save(photo)
        result = Result(str(photo), "ok", None, *SIZE, "c2p", "tiny", n, str(n), pointers=pointers[:n], **classified)
        rows.append(result.to_dict())
    convert(lambda: iter(rows), to, folder / "converted", ConversionSettings())
    return [row["path"] for row in rows]


@pytest.mark.parametrize(("to", "has_boxes_of_ellipses"), [("cvat", False), ("voc", True)])
@pytest.mark.parametrize("kind", ["ellipses", "boxes"])
def test_counts_classes_and_boxes_come_back(tmp_path: Path, to: str, has_boxes_of_ellipses: bool, kind: str) -> None:
    if kind == "ellipses":
        name, pointers = "object", ELLIPSES
        paths = convert_run(tmp_path, to, pointers)
    else:
        name, pointers = 'bell "cote" & <co>', BOXES
        paths = convert_run(tmp_path, to, pointers, class_id=3, class_name=name)
    labelled = read_labelled(f"{to}:{tmp_path / 'converted'}@{tmp_path / 'photos'}")
    assert labelled.skipped == ()
    assert [str(image.path) for image in labelled.images] == paths
    assert [(image.count, image.class_name) for image in labelled.images] == [(0, None), (1, name), (2, name)]
    has_boxes = kind == "boxes" or has_boxes_of_ellipses
    boxes = [Box(*map(pytest.approx, pointer.bounds), name) for pointer in pointers if has_boxes]
    assert [list(image.boxes) for image in labelled.images] == [[], boxes[:1], boxes]


@pytest.mark.parametrize("to", ["coco", "voc", "cvat"])
def test_every_form_counts_the_same_of_several_classes(tmp_path: Path, to: str) -> None:
    """One object covers more than two others."""
    photo = tmp_path / "photos/a.jpg"
    photo.parent.mkdir()
    Image.new("RGB", SIZE).save(photo)
    ants = (BoxPointer(x, 0, x + 9, 9, 0.3, class_id=0, class_name="ant") for x in (0, 20))
    result = Result(str(photo), "ok", None, *SIZE, "p2c", "tiny", 1, "1", class_id=1, class_name="cow")
    row = replace(result, pointers=(*ants, BoxPointer(50, 0, 150, 90, 0.4))).to_dict()
    convert(lambda: iter([row]), to, tmp_path / "converted", ConversionSettings())
    (image,) = read_labelled(f"{to}:{tmp_path / 'converted'}@{photo.parent}").images
    assert (image.count, image.class_name, len(image.boxes)) == (1, "cow", 3)
