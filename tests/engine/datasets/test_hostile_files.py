"""Labels that nobody writes by mistake: each is a sentence, or an entry left out, and never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pc_engine.datasets import read_labelled, resolve_class_ids
from pc_engine.datasets.records import LabelledImage
from pc_engine.errors import DataError
from pc_engine.manifest import Manifest

DEEP = "[" * 100_000
BOX = [1, 2, 3, 4]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (9, 9)).save(tmp_path / "1.jpg")
    return tmp_path


def coco(**changes: Any) -> dict[str, Any]:
    raw = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"image_id": 1, "category_id": 7, "bbox": BOX}],
        "categories": [{"id": 7, "name": "cat"}],
    }
    for name, value in changes.items():
        raw[name][0].update(value)
    return raw


@pytest.mark.parametrize("name", ["labels.json", "coco.json", "rows.json"])
@pytest.mark.parametrize("content", [DEEP, '{"images": ' * 100_000, "9" * 5000, '{"images": [1e999]', "\ufeff", "NaN"])
def test_json_that_is_none_is_one_sentence(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=name):
        read_labelled(f"coco:{folder / name}" if name == "coco.json" else str(folder / name))


@pytest.mark.parametrize(
    "change",
    [
        {"count": 10**30},
        {"count": "1e300"},
        {"count": "9" * 5000},
        {"class_id": 2**40},
        {"boxes": [{"b": [10**400, 0, 1, 1]}]},
        {"boxes": [{"b": [float("nan"), 0, 1, 1]}]},
        {"boxes": [{"b": {"x": 1}}]},
        {"boxes": "none"},
        {"file": "a" * 5000},
        {"file": "\0"},
        {"file": "\ud800.jpg"},
        {"file": "/dev/null"},
        {"file": []},
    ],
)
def test_an_entry_of_labels_json_that_cannot_be_used_is_left_out(folder: Path, change: dict[str, Any]) -> None:
    images = [{"file": "1.jpg", "count": 1}, {"file": "1.jpg", "count": 2, **change}]
    (folder / "labels.json").write_text(json.dumps({"images": images}))
    labelled = read_labelled(str(folder))
    assert [image.count for image in labelled.images] == [1]
    assert len(labelled.skipped) == 1
    assert len(labelled.skipped[0][1]) < 300


@pytest.mark.parametrize(
    "raw",
    [
        coco(images={"id": [1]}),
        coco(annotations={"category_id": {}}),
        coco(annotations={"image_id": [[]]}),
        coco(annotations={"bbox": [10**400, 1, 1, 1]}),
        coco(categories={"id": []}),
        coco(images={"file_name": "x" * 5000}),
        coco(images={"file_name": ["1.jpg"]}),
    ],
)
def test_coco_with_values_of_other_types_is_no_traceback(folder: Path, raw: dict[str, Any]) -> None:
    (folder / "coco.json").write_text(json.dumps(raw))
    try:
        labelled = read_labelled(f"coco:{folder / 'coco.json'}")
    except DataError:
        return
    of_images = [item for item, _ in labelled.skipped if "annotation" not in item]
    assert len(labelled.images) + len(of_images) == 1


def test_json_lines_that_are_too_deep_are_left_out(folder: Path) -> None:
    (folder / "rows.jsonl").write_text(f'{{"path": "1.jpg", "count": 1}}\n{DEEP}\n[]\n')
    labelled = read_labelled(str(folder / "rows.jsonl"))
    assert [image.count for image in labelled.images] == [1]
    assert [item for item, _ in labelled.skipped] == ["line 2", "line 3"]


def test_a_header_of_any_length_is_a_short_sentence(folder: Path) -> None:
    (folder / "labels.csv").write_text("x" * 100_000 + ",y\n1,2\n")
    with pytest.raises(DataError) as error:
        read_labelled(str(folder))
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &a [1]\nb: [*a, *a]\n", "repeats a part of itself by an alias"),
        ("a: " + DEEP, "cannot be read as YAML"),
        ("a: !!python/object/apply:os.system [ls]\n", "cannot be read as YAML"),
        ("a: 2026-13-45\n", "cannot be read as YAML"),
        ("? {a: b}\n: c\n", "cannot be read as YAML"),
        ("train: /dev/zero\n", "is neither a folder nor a list of images: it is not a file"),
        ("train: ." + "/x" * 9000 + "\n", r"^The images '\./x/x[/x]* \.\.\.$"),  # cut, as it repeats the file
        ("names: {.inf: cat}\ntrain: .\n", "are not a list of classes"),
    ],
)
def test_a_yaml_file_that_harms_is_one_sentence(folder: Path, content: str, message: str) -> None:
    (folder / "data.yaml").write_text(content)
    with pytest.raises(DataError, match=message):
        read_labelled(f"yolo:{folder / 'data.yaml'}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><{0}>&d;</{0}>', "it has a <!DOCTYPE>"),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "/etc/passwd">]><{0}>&b;</{0}>', "it has a <!DOCTYPE>"),
        ("<{0}>" + "<a>" * 100_000, "its elements are nested more than 100 deep"),
        ("<{0}><a " + " ".join(f"b{k}='1'" for k in range(9000)), "no element found|unclosed token"),
        ("<{0}>" + "<a/>" * 9000 + "</{0}>", "it lists none|no such file"),
        ("<" + "x" * 100_000 + "/>", r"its root element is <x+>, expected"),
        ("\ufeff", "no element found"),
    ],
)
def test_xml_that_harms_is_one_sentence(folder: Path, content: str, message: str) -> None:
    for root, spec in (("annotations", f"cvat:{folder / 'a.xml'}"), ("annotation", f"voc:{folder}")):
        (folder / "a.xml").write_text(content.replace("{0}", root), encoding="utf-8")
        with pytest.raises(DataError, match=message) as error:
            read_labelled(spec)
        assert len(str(error.value)) < 1000


def test_an_image_of_xml_may_not_name_what_is_none(folder: Path) -> None:
    names = ("a" * 5000, "/dev/null", "..", "~nobody/x.jpg", "&#10;", "\\\\")
    images = "".join(f"<image name='{name}'/>" for name in ("1.jpg", *names))
    (folder / "a.xml").write_text(f"<annotations>{images}</annotations>")
    labelled = read_labelled(f"cvat:{folder / 'a.xml'}")
    assert [image.path.name for image in labelled.images] == ["1.jpg"]
    assert [reason[:21] for _, reason in labelled.skipped] == ["there is no such file"] * len(names)
    assert all(len(item) < 400 for item, _ in labelled.skipped)


def test_a_home_of_nobody_and_a_file_that_is_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "data.yaml"
    (folder / "1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    path.write_text("path: ~no-such-user\ntrain: .\n")
    assert len(read_labelled(f"yolo:{path}").images) == 1
    monkeypatch.setattr("pc_engine.datasets.yolo._LARGEST_CONFIG", 9)
    with pytest.raises(DataError, match="it is larger than 9 bytes"):
        read_labelled(f"yolo:{path}")


def test_a_class_that_is_a_number_of_any_length_is_no_class(tiny_manifest: Manifest, folder: Path) -> None:
    images = [LabelledImage(folder / "1.jpg", class_name=name) for name in ("red", "9" * 5000)]
    assert resolve_class_ids(images, tiny_manifest).class_ids.tolist() == [0, -1]


def test_a_folder_that_may_not_be_entered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "labels.json").write_text(json.dumps({"images": [{"file": f"{k}.jpg", "count": 1} for k in (1, 2)]}))
    is_file: Callable[[Path], bool] = Path.is_file

    def refuse(path: Path) -> bool:
        if path.name == "2.jpg":
            raise PermissionError(13, "Permission denied")
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", refuse)
    assert len(read_labelled(str(folder)).images) == 1
