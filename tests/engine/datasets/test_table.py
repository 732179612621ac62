from __future__ import annotations

import json
from pathlib import Path

import pytest

from pc_engine.datasets import LabelledImage, read_labelled
from pc_engine.errors import DataError
from pc_engine.sources import iter_images


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
        ("line 4", "it names no file in a column path, file, filename, file_name, image"),
        (
            str(tmp_path / "img/lost.jpg"),
            f"there is no such file (relative paths are taken from {tmp_path}, else from the current folder)",
        ),
        ("line 6 (img/a.jpg)", "it has neither a count nor a class"),
    )


@pytest.mark.parametrize("text", ["", "path,width\nimg/a.jpg,3\n", "count,class\n3,cat\n"])
def test_a_table_without_the_columns_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(
        DataError, match=r"has the columns .* but needs one of path, file, filename, file_name, image and one of count"
    ):
        read_labelled(write(tmp_path / "counts.csv", text))


@pytest.mark.parametrize("column", ["path", "file", "filename", "file_name", "image"])
def test_columns_are_those_of_lists_of_images(tmp_path: Path, column: str) -> None:
    (image,) = read_labelled(write(tmp_path / "counts.csv", f"{column},count\nimg/a.jpg,3\n")).images
    assert image.count == 3


def test_names_written_on_windows_are_found(tmp_path: Path) -> None:
    (image,) = read_labelled(write(tmp_path / "counts.csv", "path,count\nimg\\a.jpg,3\n")).images
    assert image.path == tmp_path / "img" / "a.jpg"


def test_of_two_columns_none_is_chosen_in_silence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 2 columns 'count': keep only the one that is meant"):
        read_labelled(write(tmp_path / "counts.csv", "path,count,Count\nimg/a.jpg,1,2\n"))
    spec = write(tmp_path / "counts.csv", "path,note,count,note\nimg/a.jpg,x,1,y\n")
    assert read_labelled(spec).images[0].count == 1


def test_an_image_with_two_counts_is_left_out_and_noted(tmp_path: Path) -> None:
    text = "path,count\nimg/a.jpg,3\nimg/b.jpg,1\n./img/a.jpg,2\nimg/b.jpg,1\nimg/a.jpg,3\n"
    labelled = read_labelled(write(tmp_path / "counts.csv", text))
    assert [(image.path.name, image.count) for image in labelled.images] == [("b.jpg", 1)]
    # What is listed again would be learnt from in one fold and asked about in another.
    assert labelled.skipped == (
        (str(tmp_path / "img/b.jpg"), "it is listed again with the same labels"),
        (str(tmp_path / "img/a.jpg"), "it is listed again with the same labels"),
        (str(tmp_path / "img/a.jpg"), "it is listed with the counts 2 and 3"),
    )
    with pytest.raises(DataError, match="because it is listed with the counts 2 and 3"):
        read_labelled(write(tmp_path / "counts.csv", "path,count\nimg/a.jpg,3\nimg/a.jpg,2\n"))


def test_a_table_in_another_encoding_is_named(tmp_path: Path) -> None:
    for encoding in ("cp1252", "utf-16"):  # as Excel has them
        spec = write(tmp_path / "counts.csv", "path,count\nimg/ü c.jpg,1\n", encoding)
        with pytest.raises(DataError) as caught:
            read_labelled(spec)
        expected = f"{spec} cannot be read as CSV in UTF-8: save it in that encoding, in Excel as 'CSV UTF-8'."
        assert str(caught.value) == expected


def test_a_table_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    specs = [write(tmp_path / f"counts.{suffix}", "") for suffix in ("csv", "jsonl", "json")]
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(Path, "read_text", refuse)
    for spec in specs:
        with pytest.raises(DataError, match=r"cannot be read \(Permission denied\): name a file that you may read"):
            read_labelled(spec)


def test_a_count_that_is_too_large_is_said_with_the_limit(tmp_path: Path) -> None:
    labelled = read_labelled(write(tmp_path / "counts.csv", "path,count\nimg/a.jpg,1000000000000\nimg/b.jpg,1\n"))
    assert labelled.skipped == (("line 2 (img/a.jpg)", "its count is '1000000000000', expected at most 2,147,483,647"),)


def test_paths_are_looked_up_as_those_of_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the table, else in the current folder: `run @counts.csv` and `fit-counter counts.csv` read the same."""
    (tmp_path / "lists" / "img").mkdir(parents=True)
    (tmp_path / "lists" / "img" / "b.jpg").touch()
    spec = write(tmp_path / "lists" / "counts.csv", "path,count\nimg/a.jpg,1\nimg/b.jpg,1\n")
    monkeypatch.chdir(tmp_path)
    found = [image.path.resolve() for image in read_labelled(spec).images]
    assert found == [tmp_path / "img/a.jpg", tmp_path / "lists/img/b.jpg"]
    listed = iter_images([f"@{Path(spec).relative_to(tmp_path)}"])
    assert [Path(image.name).resolve() for image in listed] == found


def test_json_lists_and_json_lines(tmp_path: Path) -> None:
    rows = [
        {"path": "img/a.jpg", "count": 2},
        {"image": "img/b.jpg", "Class_ID": 7},
        {"file": "img/b.jpg", "count": None},
    ]
    in_list = read_labelled(write(tmp_path / "t.json", json.dumps([*rows, 3])))
    in_lines = read_labelled(write(tmp_path / "t.jsonl", "\n\n".join(map(json.dumps, rows)) + "\n{broken\n \n"))
    assert in_list.images == in_lines.images
    assert [(image.count, image.class_id) for image in in_list.images] == [(2, None), (None, 7)]
    assert [item for item, _ in in_list.skipped] == ["entry 2 (img/b.jpg)", "entry 3"]
    assert [item for item, _ in in_lines.skipped] == ["line 5 (img/b.jpg)", "line 6"]


def test_a_cell_of_several_lines_is_named_in_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('path,count\n"a.jpg,2\nb.jpg,3\n' + "x" * 999 + "\n")
    with pytest.raises(DataError) as caught:
        read_labelled(str(tmp_path / "t.csv"))
    assert "line 4 (a.jpg,2 b.jpg,3 xxx" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
