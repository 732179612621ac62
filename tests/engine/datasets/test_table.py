from __future__ import annotations

import json
from pathlib import Path

import pytest

from pc_engine.datasets import LabelledImage, read_labelled
from pc_engine.errors import DataError


@pytest.fixture(autouse=True)
def images(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    for name in ("a.jpg", "b.jpg", "ü c.jpg"):
        (tmp_path / "img" / name).touch()


def write(path: Path, text: str, encoding: str = "utf-8") -> str:
    path.write_text(text, encoding=encoding)
    return str(path)


def test_a_folder_with_labels_csv(tmp_path: Path) -> None:
    text = 'file,wnid,class_index,name,orig_w\nimg/a.jpg,n01440764,0,"tench, Tinca tinca",500\nimg/b.jpg,n02,,,\n'
    write(tmp_path / "labels.csv", text)
    labelled = read_labelled(str(tmp_path))
    assert labelled.name == tmp_path.name
    assert labelled.images == (
        LabelledImage(tmp_path / "img/a.jpg", None, "tench, Tinca tinca", 0, wnid="n01440764"),
        LabelledImage(tmp_path / "img/b.jpg", None, "n02", None, wnid="n02"),
    )


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path,count\nimg/a.jpg,3\nimg/ü c.jpg,4+\n", "utf-8"),
        ("Image;Count\r\nimg/a.jpg;3\r\nimg/ü c.jpg;4+\r\n", "utf-8-sig"),
        ("count\tFILE\n3\timg/a.jpg\n\n4+\timg/ü c.jpg", "utf-8"),
    ],
    ids=["comma", "semicolon, BOM, CRLF", "tab"],
)
def test_counts_from_a_csv_file(tmp_path: Path, text: str, encoding: str) -> None:
    labelled = read_labelled(write(tmp_path / "counts.csv", text, encoding))
    assert labelled.name == "counts"
    assert [(image.path.name, image.count) for image in labelled.images] == [("a.jpg", 3), ("ü c.jpg", 4)]


def test_absolute_paths_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    spec = write(tmp_path / "elsewhere" / "counts.csv", f"path,count\n{tmp_path / 'img/a.jpg'},1\n")
    assert read_labelled(spec).images[0].path == tmp_path / "img/a.jpg"


def test_bad_rows_are_skipped_by_line(tmp_path: Path) -> None:
    text = "path,count,class\nimg/a.jpg,x,\nimg/b.jpg,,\n,1,\nimg/lost.jpg,1,\nimg/a.jpg\nimg/b.jpg,2,cat,extra\n"
    labelled = read_labelled(write(tmp_path / "counts.csv", text))
    assert [(image.path.name, image.count, image.class_name) for image in labelled.images] == [("b.jpg", 2, "cat")]
    assert labelled.skipped == (
        ("line 2 (img/a.jpg)", "its count is 'x', expected a whole number of at least 0"),
        ("line 3 (img/b.jpg)", "it has neither a count nor a class"),
        ("line 4", "it names no file in a column path, file, image"),
        (str(tmp_path / "img/lost.jpg"), "there is no such file"),
        ("line 6 (img/a.jpg)", "it has neither a count nor a class"),
    )


@pytest.mark.parametrize("text", ["", "path,width\nimg/a.jpg,3\n", "count,class\n3,cat\n"])
def test_a_table_without_the_columns_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataError, match=r"has the columns .* but needs one of path, file, image and one of count"):
        read_labelled(write(tmp_path / "counts.csv", text))


def test_of_two_columns_none_is_chosen_in_silence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 2 columns 'count': keep the one that is meant"):
        read_labelled(write(tmp_path / "counts.csv", "path,count,Count\nimg/a.jpg,1,2\n"))
    spec = write(tmp_path / "counts.csv", "path,note,count,note\nimg/a.jpg,x,1,y\n")
    assert read_labelled(spec).images[0].count == 1


def test_an_image_with_two_counts_is_left_out_and_noted(tmp_path: Path) -> None:
    text = "path,count\nimg/a.jpg,3\nimg/b.jpg,1\n./img/a.jpg,2\nimg/b.jpg,1\nimg/a.jpg,3\n"
    labelled = read_labelled(write(tmp_path / "counts.csv", text))
    assert [(image.path.name, image.count) for image in labelled.images] == [("b.jpg", 1)] * 2
    assert labelled.skipped == ((str(tmp_path / "img/a.jpg"), "it is listed with the counts 2 and 3"),)
    with pytest.raises(DataError, match="because it is listed with the counts 2 and 3"):
        read_labelled(write(tmp_path / "counts.csv", "path,count\nimg/a.jpg,3\nimg/a.jpg,2\n"))


def test_a_table_in_another_encoding_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read as CSV in UTF-8"):
        read_labelled(write(tmp_path / "counts.csv", "path,count\nimg/ü.jpg,1\n", "latin-1"))


def test_json_lists_and_json_lines(tmp_path: Path) -> None:
    rows = [
        {"path": "img/a.jpg", "count": 2},
        {"image": "img/b.jpg", "Class_ID": 7},
        {"file": "img/b.jpg", "count": None},
    ]
    in_list = read_labelled(write(tmp_path / "t.json", json.dumps([*rows, 3])))
    in_lines = read_labelled(write(tmp_path / "t.jsonl", "\n".join(map(json.dumps, rows)) + "\n{broken\n"))
    assert in_list.images == in_lines.images
    assert [(image.count, image.class_id) for image in in_list.images] == [(2, None), (None, 7)]
    assert [item for item, _ in in_list.skipped] == ["entry 2 (img/b.jpg)", "entry 3"]
    assert [item for item, _ in in_lines.skipped] == ["line 3 (img/b.jpg)", "line 4"]
