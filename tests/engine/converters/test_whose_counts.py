"""Data sets of a run that are read again: which of their counts nobody reviewed."""

from __future__ import annotations

import pytest

from pc_engine.datasets import read_labelled
from pc_engine.pointers import BoxPointer


@pytest.mark.parametrize(
    ("to", "out", "spec"),
    [
        ("coco", "set.json", "coco:set.json@."),
        ("voc", "set", "voc:set@photos"),
        ("cvat", "set.xml", "cvat:set.xml@photos"),
        ("csv", "set", "set"),
    ],
)
def test_counts_that_nobody_reviewed_are_known_again(
    make_row, save, draw_photos, tmp_path, monkeypatch, to, out, spec
) -> None:
    box = BoxPointer(1, 2, 3, 4, 1.0)
    rows = [make_row(f"photos/{name}.png", *boxes, class_id=3) for name, boxes in (("a", [box]), ("b", []), ("c", []))]
    draw_photos(tmp_path, rows)
    monkeypatch.chdir(tmp_path)
    rows[0] |= {"reviewed": True, "count_found": 2, "count_label_found": "2"}
    rows[1] |= {"reviewed": True, "count_found": 1, "count_label_found": "1"}
    save(rows, to, tmp_path / out)
    labelled = read_labelled(spec.replace("@.", "@photos"))
    assert [image.count for image in labelled.images] == [1, 0, 0]
    assert labelled.by_run == 1
