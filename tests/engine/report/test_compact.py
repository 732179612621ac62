from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pc_engine.pointers import BoxPointer, EllipsePointer
from pc_engine.report.compact import (
    OtherAnswer,
    Tables,
    compact_pointers,
    compact_row,
    json_array,
    script_json,
    split_path,
)
from pc_engine.result import Result, error_result
from pc_engine.shown_text import for_page

COUNTED = Result(
    path="photos/a.jpg",
    status="ok",
    error=None,
    width=640,
    height=480,
    mode="c2p",
    model="tiny",
    count=4,
    count_label="4+",
    count_scores={"0": -1.5, "4+": 1.0, "2": 0.2501},
    pointers=(EllipsePointer(10.51, 20.249, 3.0, 4.5, 0.7519),),
)
POINTED = Result(
    path="b.jpg",
    status="ok",
    error=None,
    width=30,
    height=40,
    mode="p2c",
    model="tiny",
    count=1,
    count_label="1",
    class_id=7,
    class_name="goldfish",
    class_score=0.50049,
    pointers=(BoxPointer(0.0, 1.0, 15.0, 20.5, 1.0),),
)
FAILED = error_result("photos/c.jpg", "The file is empty (0 bytes).", mode="c2p", model="tiny")


def test_rows_become_short_arrays_and_tables() -> None:
    tables = Tables()
    rows = [compact_row(result.to_dict(), tables) for result in (COUNTED, POINTED, FAILED)]
    assert rows == [
        [0, "a.jpg", 640, 480, 4, -1, None, 0.75, [[0, 10.5, 20.2, 3, 4.5, 0.752]]],
        [1, "b.jpg", 30, 40, 1, 0, 0.5, None, [[1, 0, 1, 15, 20.5, 1]]],
        [0, "c.jpg", 0, 0, None, -1, None, None, [], 0],
    ]
    assert list(tables.folders) == ["photos/", ""]
    assert list(tables.classes) == ["goldfish"]
    assert list(tables.errors) == ["The file is empty (0 bytes)."]
    assert tables.open_count == 4


def test_a_reviewed_count_is_not_open() -> None:
    tables = Tables()
    row = compact_row({**COUNTED.to_dict(), "reviewed": True}, tables)
    assert row[10:] == [1]
    assert tables.open_count is None


def test_another_runs_answer_stands_at_the_end() -> None:
    row = compact_row(POINTED.to_dict(), Tables(), OtherAnswer(4, True, [[0, 1, 2, 3, 4, 1]]))
    assert row[9:] == [-1, 0, 4, 1, [[0, 1, 2, 3, 4, 1]]]


def test_what_a_run_found_of_a_reviewed_image_stands_behind_anothers_answer() -> None:
    corrected = {**COUNTED.to_dict(), "count": 7, "reviewed": True, "count_found": 4, "count_label_found": "4+"}
    row = compact_row(corrected, Tables(), OtherAnswer(5, False, []))
    assert (row[4], row[10:]) == (7, [1, 5, 0, [], 4, 1])


def test_a_class_without_a_name_has_its_number() -> None:
    tables = Tables()
    compact_row(replace(POINTED, class_name=None).to_dict(), tables)
    assert list(tables.classes) == ["7"]


def test_a_pointer_keeps_the_class_of_its_own() -> None:
    """As in a run that looks for several classes in an image."""
    tables = Tables()
    cat, nameless = (
        BoxPointer(0.0, 1.0, 2.0, 3.0, 0.5, class_id=k, class_name=name) for k, name in ((9, "cat"), (5, None))
    )
    row = compact_row(replace(POINTED, pointers=(*POINTED.pointers, cat, nameless)).to_dict(), tables)
    assert row[8] == [[1, 0, 1, 15, 20.5, 1], [1, 0, 1, 2, 3, 0.5, 1, 9], [1, 0, 1, 2, 3, 0.5, 2, 5]]
    assert list(tables.classes) == ["goldfish", "cat", "5"]
    assert compact_pointers([cat], tables) == [row[8][1]]
    assert compact_pointers([cat]) == [[1, 0, 1, 2, 3, 0.5]]


def test_numbers_that_are_not_finite_are_left_out() -> None:
    row = replace(POINTED, class_score=float("nan")).to_dict()
    assert compact_row(row, Tables())[6] is None
    scores = {"0": float("nan"), "1": 0.5, "2": float("inf")}
    assert compact_row({**row, "count_scores": scores}, Tables())[7] is None
    assert compact_pointers([BoxPointer(0.0, float("inf"), 1.0, 2.0, 1.0), *POINTED.pointers]) == [
        [1, 0, 1, 15, 20.5, 1]
    ]


@given(st.text(st.characters(), max_size=20))
def test_any_text_can_stand_in_a_script_and_comes_back(text: str) -> None:
    """Half surrogate pairs too, which a row of JSON may have."""
    script = script_json([for_page(text)])
    script.encode("utf-8")
    assert not set("<\u2028\u2029\n\r") & set(script)
    assert json.loads(script) == [for_page(text)]


@pytest.mark.parametrize("path", ["</script><script>alert(1)</script>", "<!--<script>", "]]>&amp;", "a\u2028b"])
def test_hostile_paths_cannot_end_the_script(path: str) -> None:
    assert "<" not in script_json({"path": path})


def test_an_array_is_written_piece_by_piece() -> None:
    assert json.loads("".join(json_array(["[1]", "[2]"]))) == [[1], [2]]
    assert json.loads("".join(json_array([]))) == []


def test_the_folder_of_a_path_ends_with_its_separator() -> None:
    assert split_path("a/b/c.jpg") == ("a/b/", "c.jpg")
    assert split_path("c.jpg") == ("", "c.jpg")
    assert split_path("a/odd\\name.jpg") == ("a/", "odd\\name.jpg")
    assert split_path("a/b?c/d::e.jpg") == ("a/b?c/", "d::e.jpg")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("tar://", "a.jpg::/data/shard-000.tar"),
        ("zip://in/side/", "a.jpg::s3://bucket/photos.zip"),
        ("s3://bucket/photos/", "a.jpg"),
        ("https://example.org/photos/", "a.jpg?signed=by/somebody"),
        ("simplecache::https://example.org/", "a.jpg?signed=by/somebody"),
        ("https://", "example.org"),
    ],
)
def test_an_address_is_called_after_the_image_and_not_its_archive(folder: str, name: str) -> None:
    assert split_path(folder + name) == (folder, name)
