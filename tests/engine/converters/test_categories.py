from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pc_engine.converters import DATASET_FORMATS, Conversion
from pc_engine.converters.categories import Categories, Recategorised, read_categories
from pc_engine.errors import UsageError
from pc_engine.pointers import BoxPointer
from pc_engine.runs.corrections import number_of_class

Save = Callable[..., Conversion]
MakeRow = Callable[..., dict[str, Any]]
BOX = BoxPointer(0, 1, 15.5, 20.25, 0.6)


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str], Path]:
    """Return ``write(lines)``, which writes a table below its header."""

    def write(lines: str) -> Path:
        path = tmp_path / "categories.csv"
        path.write_text(f"class,category\n{lines}", encoding="utf-8-sig")
        return path

    return write


def written(out: Path) -> tuple[list[str], list[str]]:
    """Return the categories of COCO's file, and those of the annotations in order."""
    made = json.loads(out.read_text())
    names = {category["id"]: category["name"] for category in made["categories"]}
    assert sorted(names) == [*range(1, len(names) + 1)]
    return [names[key] for key in sorted(names)], [names[made["category_id"]] for made in made["annotations"]]


@pytest.mark.parametrize("called", ["3", "Goldfish", "carassius  AURATUS", '"goldfish, Carassius auratus"'])
def test_a_class_is_named_by_its_number_its_name_or_a_part_of_it(
    make_row: MakeRow, save: Save, table: Callable[[str], Path], tmp_path: Path, called: str
) -> None:
    rows = [make_row("a.jpg", BOX, class_id=3)]
    conversion = save(rows, "coco", tmp_path / "set.json", categories=table(f"{called},fish\n"))
    assert written(tmp_path / "set.json") == (["fish"], ["fish"])
    assert conversion.remark == ""


@pytest.mark.parametrize("called", ["3", "class 3"])
def test_a_class_without_a_name_has_its_number(
    make_row: MakeRow, save: Save, table: Callable[[str], Path], tmp_path: Path, called: str
) -> None:
    rows = [make_row("a.jpg", BOX, class_id=3, class_name=None)]
    conversion = save(rows, "coco", tmp_path / "set.json", categories=table(f"{called},fish\n"))
    assert written(tmp_path / "set.json") == (["fish"], ["fish"])
    assert conversion.remark == ""


def test_categories_are_numbered_by_the_table_whatever_is_seen(
    make_row: MakeRow, save: Save, table: Callable[[str], Path], tmp_path: Path
) -> None:
    own = BoxPointer(1, 1, 9, 9, 0.5, class_id=12, class_name='bell "cote" & <co>')
    rows = [make_row("a.jpg", BOX, own, class_id=3), make_row("b.jpg", BOX, class_id=7), make_row("c.jpg", BOX)]
    categories = table("5,boat\n7,bird\ngoldfish,fish\n*,\n")
    conversion = save(rows, "coco", tmp_path / "set.json", categories=categories)
    # What has no class, and the bell, are others: they are left out, and their images stay.
    assert written(tmp_path / "set.json") == (["boat", "bird", "fish"], ["fish", "bird"])
    assert (conversion.images, conversion.pointers) == (3, 2)
    assert conversion.remark == "In the table of categories, 1 class is in no image: '5'."


def test_other_classes_keep_their_names_behind_those_of_the_table(
    make_row: MakeRow, save: Save, table: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = [make_row(f"{k}.jpg", BOX, class_id=k) for k in (9, 7, 3)] + [make_row("none.jpg", BOX)]
    save(rows, "coco", tmp_path / "set.json", categories=table("3,fish\n"))
    names, found = written(tmp_path / "set.json")
    # Two of ImageNet's classes are cranes.
    assert names == ["fish", "crane (7)", "crane (9)", "object"]
    assert found == ["crane (9)", "crane (7)", "fish", "object"]


def test_a_class_that_is_called_as_a_category_is_of_it(
    make_row: MakeRow, save: Save, table: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = [make_row("a.jpg", BOX, class_id=3), make_row("b.jpg", BOX, class_id=7)]
    save(rows, "coco", tmp_path / "set.json", categories=table("5,boat\ngoldfish,crane\n"))
    assert written(tmp_path / "set.json") == (["boat", "crane"], ["crane", "crane"])


@pytest.mark.parametrize("to", [name for name in DATASET_FORMATS if name != "csv"])
def test_every_format_with_categories_takes_them(
    make_row: MakeRow, save: Save, table: Callable[[str], Path], tmp_path: Path, to: str
) -> None:
    save([make_row("photos/a.jpg", BOX, class_id=3)], to, tmp_path / "set", categories=table("3,plaice\n"))
    files = [path for path in (tmp_path / "set", *tmp_path.glob("set/**/*")) if path.is_file()]
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    assert "plaice" in text
    assert "goldfish" not in text


def test_csv_has_the_class_of_each_image(
    make_row: MakeRow, save: Save, table: Callable[[str], Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--categories is for formats with categories: csv has the class of each"):
        save([make_row("a.jpg", BOX, class_id=3)], "csv", tmp_path / "set", categories=table("3,fish\n"))
    with pytest.raises(UsageError, match="omit one of the two"):
        save([make_row("a.jpg", BOX)], "coco", tmp_path / "set", categories=table("3,fish\n"), one_class="fish")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,category\n3,fish\n", "has no column class: its first line must name the columns"),
        ("", "has no column class or category"),
        ("class,category\n", "has nothing below its first line"),
        ("class,category\n*,\n3,\n", "leaves all classes out"),
        (
            "class,category\ntabby, tabby cat,pet\n",
            r"Line 2 of .* does not have as many cells .*\(3, not 2\): put names",
        ),
        ("class,category\n,fish\n", r"Line 2 of .* names no class"),
        ("class,category\ncat,a\nCat ,b\n", r"Line 3 of .* repeats the class 'cat'"),
        ("class,category\ncat\n", r"\(1, not 2\)"),
        (b"class,category\n\xff\xfe,a\n", "cannot be read"),
        (None, r"cannot be read \(No such file or directory\): name a CSV in UTF-8 with --categories\."),
    ],
)
def test_a_table_that_is_none_is_said(tmp_path: Path, content: str | bytes | None, message: str) -> None:
    path = tmp_path / "t.csv"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=message):
        read_categories(path)


def test_a_table_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(UsageError, match=r"t\.csv cannot be read \(it is not a regular file\): name a CSV in UTF-8"):
        read_categories(tmp_path / "t.csv")


def test_columns_stand_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(" Category ;note; CLASS\nfish; x ;3\n\nfish;;goldfish\n;;cat\n")
    assert read_categories(tmp_path / "t.csv") == Categories(("fish",), {"3": 0, "goldfish": 0, "cat": None})


def test_images_that_failed_add_no_category(
    make_row: MakeRow, save: Save, table: Callable[[str], Path], tmp_path: Path, failed_row: dict[str, Any]
) -> None:
    save([make_row("photos/a.jpg", BOX, class_id=3), failed_row], "coco", tmp_path / "s", categories=table("3,fish\n"))
    assert written(tmp_path / "s") == (["fish"], ["fish"])


def test_what_has_no_class_is_of_the_category_object_where_there_is_one(
    make_row: MakeRow, save: Save, table: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = [make_row("a.jpg", BOX, class_id=3), make_row("b.jpg", BOX)]
    save(rows, "coco", tmp_path / "s", categories=table("3,object\n"))
    assert written(tmp_path / "s") == (["object"], ["object", "object"])


def test_a_class_without_a_name_is_called_as_everywhere(
    make_row: MakeRow, save: Save, table: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = [make_row("a.jpg", BOX, class_id=3, class_name=None)]
    save(rows, "coco", tmp_path / "s", categories=table("3,three\n"))
    assert written(tmp_path / "s") == (["three"], ["three"])


def test_a_table_may_only_leave_out(
    make_row: MakeRow, save: Save, table: Callable[[str], Path], tmp_path: Path
) -> None:
    rows = [make_row("a.jpg", BOX, class_id=3), make_row("b.jpg", BOX, class_id=12)]
    save(rows, "coco", tmp_path / "s", categories=table("goldfish,\n"))
    assert written(tmp_path / "s")[1] == ['bell "cote" & <co>']


@pytest.mark.parametrize("more", [{}, {"categories": "12,bell\n"}])
def test_a_class_that_a_person_named_is_that_of_the_run_with_this_name(
    make_row: MakeRow, save: Save, table: Callable[[str], Path], tmp_path: Path, more: dict[str, str]
) -> None:
    named = {name: {"class_id": number_of_class(name), "class_name": name} for name in ("Crane", "heron", "Heron")}
    rows = [
        *(make_row(f"{name}.jpg", BOX, class_id=7) | columns for name, columns in named.items()),
        make_row("run.jpg", BOX, class_id=7),
    ]
    save(rows, "coco", tmp_path / "s", **{key: table(lines) for key, lines in more.items()})
    names, found = written(tmp_path / "s")
    heron = "heron" if number_of_class("heron") < number_of_class("Heron") else "Heron"
    assert sorted(set(names) - {"bell"}) == sorted(["crane", heron])
    assert found == ["crane", heron, heron, "crane"]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.lists(st.none() | st.integers(0, 5), max_size=4)), max_size=5),
    st.dictionaries(st.integers(0, 5), st.none() | st.integers(0, 2), min_size=1),
)
def test_pointers_stay_but_for_those_of_classes_that_are_left_out(
    images: list[tuple[int, list[int | None]]], table: dict[int, int | None]
) -> None:
    names = ("a", "b", "c")
    recategorised = Recategorised(Categories(names, {str(key): place for key, place in table.items()}))
    for own, pointers in images:
        row = {
            "class_id": own,
            "class_name": f"n{own}",
            "pointers": [{"class_id": each, "class_name": None if each is None else f"n{each}"} for each in pointers],
        }
        classes = [own if each is None else each for each in pointers]
        expected = [table.get(each, f"n{each}") for each in classes]
        kept = [names[each] if isinstance(each, int) else each for each in expected if each is not None]
        assert [pointer["class_name"] for pointer in recategorised.row(row)["pointers"]] == kept
