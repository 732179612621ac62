from __future__ import annotations

import itertools
import json
import os
import resource
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakSet

import pytest

from pc_engine.converters import DATASET_FORMATS, conversion, convert, default_out
from pc_engine.converters.pictures import Picture, pictures
from pc_engine.errors import PcEngineError, UsageError
from pc_engine.pointers import BoxPointer, EllipsePointer


def test_the_formats_are_these() -> None:
    assert DATASET_FORMATS == ("coco", "yolo", "voc", "label-studio", "cvat", "csv")


def test_an_unknown_format_names_the_known_ones(two_modes, save, tmp_path) -> None:
    with pytest.raises(UsageError, match="no format 'excel': choose one of coco, yolo, voc, label-studio, cvat, csv"):
        save(two_modes.boxes, "excel", tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_beside_a_run_on_another_drive_of_windows_has_no_relative_path(tmp_path, monkeypatch) -> None:
    def refuse(_: Path) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", refuse)
    assert default_out(tmp_path / "run", "coco") == tmp_path.resolve() / "run-coco.json"


@pytest.mark.parametrize("to", DATASET_FORMATS)
@pytest.mark.parametrize("mode", ["ellipses", "boxes"])
def test_every_image_is_in_it_or_said_to_be_left_out(two_modes, save, tmp_path, to, mode) -> None:
    rows = getattr(two_modes, mode)
    converted = save(rows, to, tmp_path / "set")
    assert converted.images + sum(converted.left_out.values()) == len(rows)
    assert converted.pointers == sum(len(row["pointers"]) for row in rows)
    if to == "csv":
        assert converted.left_out == {}
    else:
        assert converted.left_out == {"could not be read in the run, so the size is not known": 1}
    assert converted.to_dict() == {
        "format": to,
        "out": str(tmp_path / "set"),
        "images": converted.images,
        "pointers": converted.pointers,
        "left_out": len(rows) - converted.images,
        "reasons": converted.left_out,
        "examples": dict.fromkeys(converted.left_out, "photos/broken.jpg"),
        "folder": "" if to == "csv" else "photos",
        "remark": converted.remark,
    }
    assert bool(converted.remark) == (to == "yolo")  # which leads to photos, and there are none


@pytest.mark.parametrize("to", DATASET_FORMATS)
def test_weak_pointers_are_left_out(make_row, save, tmp_path, to) -> None:
    row = make_row("a.jpg", BoxPointer(1, 2, 3, 4, 0.25), BoxPointer(5, 6, 7, 8, 0.75), class_id=3)
    assert save([row], to, tmp_path / "all").pointers == 2
    assert save([row], to, tmp_path / "strong", min_score=0.5).pointers == 1


@pytest.mark.parametrize("to", DATASET_FORMATS)
def test_a_run_without_images_converts_to_an_empty_set(save, tmp_path, to) -> None:
    converted = save([], to, tmp_path / "set")
    assert (converted.images, converted.pointers, converted.left_out) == (0, 0, {})
    assert (tmp_path / "set").exists()


@pytest.mark.parametrize("to", DATASET_FORMATS)
def test_the_same_rows_give_the_same_bytes(two_modes, save, tmp_path, to) -> None:
    made = []
    for name in ("first", "second"):
        save(two_modes.boxes, to, tmp_path / name / "set")
        made.append(
            {
                str(path.relative_to(tmp_path / name)): path.read_bytes()
                for path in (tmp_path / name).rglob("*")
                if path.is_file() and path.name != "conversion.json"
            }
        )
    assert made[0] == made[1]
    assert made[0]


@pytest.mark.parametrize("to", DATASET_FORMATS)
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_conversion_that_breaks_off_leaves_nothing(make_row, tmp_path, to, error) -> None:
    calls = itertools.count()

    def rows() -> Iterator[dict]:
        second = next(calls)
        yield make_row("photos/a.jpg")
        if second:
            raise error
        yield make_row("photos/b.jpg")

    with pytest.raises(error):
        convert(rows, to, tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("to", DATASET_FORMATS)
@pytest.mark.parametrize("images", [10, 300])
def test_a_disk_that_takes_no_more_ends_with_a_sentence(make_row, save, tmp_path, to, images) -> None:
    """Few images wait in a buffer until the file is closed, many are written before."""
    pointers = [EllipsePointer(10 + k, 10, 1, 1, 0.01) for k in range(30)]
    rows = [make_row(f"photos/{k}.jpg", *pointers) for k in range(images)]
    with files_of_at_most(1000), pytest.raises(PcEngineError) as raised:
        save(rows, to, tmp_path / "set")
    assert str(raised.value) == f"{tmp_path / 'set'} cannot be written (File too large): make room and convert again."
    assert os.listdir(tmp_path) == []


class Mark:
    """Lives as long as the row that it is in."""


@pytest.mark.parametrize("to", DATASET_FORMATS)
def test_rows_are_gone_once_they_are_written(make_row, monkeypatch, tmp_path, to) -> None:
    rows: WeakSet[Mark] = WeakSet()
    results: list[weakref.ref[Picture]] = []

    def made() -> Iterator[dict]:
        for k in range(50):
            rows.add(mark := Mark())
            yield make_row(f"photos/{k}.jpg", EllipsePointer(10, 10, 1, 1, 0.5), mark=mark)
            del mark
            assert len(rows) <= 1

    def watch(*arguments) -> Iterator[Picture]:
        for picture in pictures(*arguments):
            results.append(weakref.ref(picture))
            yield picture
            del picture
            assert sum(reference() is not None for reference in results) <= 1

    monkeypatch.setattr(conversion, "pictures", watch)
    assert convert(made, to, tmp_path / "set").images == 50


@pytest.mark.parametrize("to", DATASET_FORMATS)
def test_all_objects_may_be_of_one_category(make_row, save, tmp_path, to) -> None:
    classes = [{"class_id": 12, "class_name": "house finch"}, {}]
    boxes = [BoxPointer(0, 1, 15.5, 20.25, 0.6, **of_its_own) for of_its_own in classes]
    rows = [make_row("photos/a.jpg", *boxes, class_id=3), make_row("photos/b.jpg", boxes[1], class_id=7)]
    out = tmp_path / "set"
    if to == "csv":
        with pytest.raises(UsageError, match="--one-class is for formats with categories: csv has the class of each"):
            save(rows, to, out, one_class="thing")
        return
    save(rows, to, out, one_class="thing")
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    assert "thing" in text
    assert not [name for name in ("goldfish", "crane", "finch") if name in text]
    if to == "coco":
        made = json.loads(text)
        assert [category["name"] for category in made["categories"]] == ["thing"]
        assert {annotation["category_id"] for annotation in made["annotations"]} == {1}
        assert len(made["annotations"]) == 3


def test_a_category_has_a_name(two_modes, save, tmp_path) -> None:
    with pytest.raises(UsageError, match="--one-class is empty: give the name"):
        save(two_modes.boxes, "coco", tmp_path / "set", one_class=" ")
