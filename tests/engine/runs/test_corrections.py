from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pc_engine.errors import DataError, PcEngineError, UsageError
from pc_engine.pointers import BoxPointer, EllipsePointer
from pc_engine.result import Result, error_result
from pc_engine.runs import corrections as module
from pc_engine.runs.corrections import (
    CLASSES_OF_PERSONS,
    Correction,
    append_correction,
    check_correctable,
    number_of_class,
    read_corrections,
    withdraw_correction,
)
from pc_engine.runs.rows import iter_rows
from pc_engine.runs.run_directory import CORRECTIONS, RunDirectory
from pc_engine.runs.writers import PartitionWriter

WHEN = "2026-01-02T03:04:05+00:00"
ELLIPSE = EllipsePointer(10.5, 20.25, 3.0, 4.5, 0.75)
COUNTED = Result(
    path="photos/a.jpg",
    status="ok",
    error=None,
    width=640,
    height=480,
    mode="c2p",
    model="tiny",
    count=1,
    count_label="1",
    count_scores={"0": -1.5, "1": 1.0, "2+": 0.25},
    pointers=(ELLIPSE,),
)
POINTED = replace(COUNTED, path="photos/b\u2028.jpg", mode="p2c", count_scores=None)
FAILED = error_result("photos/c.jpg", "The file is empty (0 bytes).", mode="c2p", model="tiny")
CORRECTION = Correction("photos/a.jpg", 3, (ELLIPSE, BoxPointer(0.0, 1.0, 2.0, 3.0, 1.0)), WHEN)


@pytest.fixture(params=["parquet", "jsonl"])
def run(tmp_path: Path, request: Any) -> Path:
    with PartitionWriter(tmp_path, request.param) as writer:
        for result in (COUNTED, POINTED, FAILED):
            writer.write(result)
    return tmp_path


def test_what_is_appended_is_read_and_the_last_line_of_a_path_wins(tmp_path: Path) -> None:
    assert read_corrections(tmp_path) == {}
    append_correction(tmp_path, CORRECTION)
    append_correction(tmp_path, replace(CORRECTION, path="b", count=0, pointers=()))
    append_correction(tmp_path, replace(CORRECTION, count=7))
    assert read_corrections(tmp_path) == {
        "photos/a.jpg": replace(CORRECTION, count=7),
        "b": Correction("b", 0, (), WHEN),
    }
    assert len((tmp_path / CORRECTIONS).read_bytes().splitlines()) == 3


def test_a_class_is_kept_where_it_was_corrected(run: Path) -> None:
    append_correction(run, replace(CORRECTION, class_name="cat"))
    assert read_corrections(run) == {CORRECTION.path: replace(CORRECTION, class_name="cat")}
    first = next(iter_rows(run, corrected=True))
    assert (first["class_id"], first["class_name"], first["class_score"]) == (number_of_class("cat"), "cat", None)
    assert CLASSES_OF_PERSONS <= number_of_class("cat") < 2 * CLASSES_OF_PERSONS
    append_correction(run, CORRECTION)
    assert b"class" not in (run / CORRECTIONS).read_bytes().splitlines()[1]
    assert next(iter_rows(run, corrected=True))["class_name"] == COUNTED.class_name


def test_pointers_of_the_images_class_follow_it_and_others_keep_theirs(tmp_path: Path) -> None:
    boxes = tuple(
        BoxPointer(0.0, 0.0, 9.0, 9.0, 0.5, class_id=k, class_name=name) for k, name in ((7, "crane"), (3, "cat"))
    )
    with PartitionWriter(tmp_path, "jsonl") as writer:
        writer.write(replace(POINTED, path="a.jpg", class_id=7, class_name="crane", pointers=boxes))
    append_correction(tmp_path, Correction("a.jpg", 3, (*boxes, BoxPointer(1.0, 1.0, 2.0, 2.0, 1.0)), WHEN, "heron"))
    (row,) = iter_rows(tmp_path, corrected=True)
    assert [pointer.get("class_name") for pointer in row["pointers"]] == ["heron", "cat", None]
    assert row["pointers"][0]["class_id"] == row["class_id"] == number_of_class("heron")


def test_a_withdrawn_correction_is_none(tmp_path: Path) -> None:
    append_correction(tmp_path, CORRECTION)
    withdraw_correction(tmp_path, CORRECTION.path, WHEN)
    assert read_corrections(tmp_path) == {}
    append_correction(tmp_path, CORRECTION)
    assert read_corrections(tmp_path) == {CORRECTION.path: CORRECTION}


def test_what_an_editor_puts_before_the_first_line_is_no_part_of_it(tmp_path: Path) -> None:
    append_correction(tmp_path, CORRECTION)
    saved = (tmp_path / CORRECTIONS).read_text(encoding="utf-8")
    (tmp_path / CORRECTIONS).write_text(saved.rstrip("\n"), encoding="utf-8-sig")
    append_correction(tmp_path, replace(CORRECTION, path="b"))
    assert list(read_corrections(tmp_path)) == [CORRECTION.path, "b"]


def test_a_torn_last_line_is_ignored_wherever_it_is_torn_and_mended_by_the_next(tmp_path: Path) -> None:
    append_correction(tmp_path, replace(CORRECTION, path="first"))
    whole = (tmp_path / CORRECTIONS).read_bytes()
    append_correction(tmp_path, CORRECTION)
    both = (tmp_path / CORRECTIONS).read_bytes()
    for length in range(len(whole), len(both) - 1):
        (tmp_path / CORRECTIONS).write_bytes(both[:length])
        assert list(read_corrections(tmp_path)) == ["first"], length
        append_correction(tmp_path, replace(CORRECTION, path="last"))
        assert list(read_corrections(tmp_path)) == ["first", "last"], length
    (tmp_path / CORRECTIONS).write_bytes(both[:-1])  # whole, but for its line break
    append_correction(tmp_path, replace(CORRECTION, path="last"))
    assert list(read_corrections(tmp_path)) == ["first", CORRECTION.path, "last"]


def test_a_line_that_another_process_is_writing_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOCK_SECONDS", 120)
    append_correction(tmp_path, CORRECTION)
    line = (tmp_path / CORRECTIONS).read_bytes().replace(b"a.jpg", b"z.jpg")
    with ThreadPoolExecutor(1) as other_review:
        with filelock.FileLock(tmp_path / ".corrections.lock"), (tmp_path / CORRECTIONS).open("ab") as stream:
            stream.write(line[:20])
            stream.flush()
            appended = other_review.submit(append_correction, tmp_path, replace(CORRECTION, path="b"))
            with pytest.raises(TimeoutError):
                appended.result(timeout=0.2)
            stream.write(line[20:])
        appended.result(timeout=120)
    assert list(read_corrections(tmp_path)) == [CORRECTION.path, "photos/z.jpg", "b"]


def test_another_process_that_does_not_end_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0.01)
    with (
        filelock.FileLock(tmp_path / ".corrections.lock"),
        pytest.raises(PcEngineError, match="look for another review"),
    ):
        append_correction(tmp_path, CORRECTION)


def test_empty_lines_are_skipped(tmp_path: Path) -> None:
    (tmp_path / CORRECTIONS).write_bytes(b"\n\n")
    append_correction(tmp_path, CORRECTION)
    assert list(read_corrections(tmp_path)) == [CORRECTION.path]


@given(st.binary(max_size=40) | st.sampled_from([b"{}", b"\n{}", b"\n1", b"1\n{"]))
def test_a_line_is_added_after_the_last_that_is_whole(tmp_path_factory: Any, data: bytes) -> None:
    path = tmp_path_factory.mktemp("tail") / CORRECTIONS
    path.write_bytes(data)
    append_correction(path.parent, CORRECTION)
    *before, added, nothing = path.read_bytes().split(b"\n")
    assert (json.loads(added)["path"], nothing) == (CORRECTION.path, b"")
    *whole, torn = data.split(b"\n")
    assert before in (whole, [*whole, torn])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{}", "it has no path"),
        ("[]", "it has no path"),
        ("{", "it is not JSON from column 2 on"),
        ('{"path": "a", "count": -1, "pointers": []}', "its count is not"),
        ('{"path": "a", "count": true, "pointers": []}', "its count is not"),
        ('{"path": "a", "count": 1}', "no list of pointers"),
        ('{"path": "a", "count": 1, "pointers": [], "class_name": 3}', "its class is not a name"),
        ('{"path": "a", "count": 1, "pointers": [], "class_name": ""}', "its class is not a name"),
        ('{"path": "a", "count": 1, "pointers": [{"kind": "cross"}]}', "neither an ellipse nor a box"),
        ('{"path": "a", "count": 1, "pointers": [{"kind": "box", "x0": NaN}]}', "x0 of a pointer is not a finite"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    append_correction(tmp_path, CORRECTION)
    with (tmp_path / CORRECTIONS).open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError, match=f"Line 2 of .*{reason}.*repair or remove it"):
        read_corrections(tmp_path)


def test_rows_stand_as_they_were_corrected(run: Path) -> None:
    assert list(iter_rows(run, corrected=True)) == [*iter_rows(run)]
    append_correction(run, CORRECTION)
    append_correction(run, Correction(POINTED.path, 9, (), WHEN))
    append_correction(run, Correction(FAILED.path, 9, (), WHEN))
    append_correction(run, Correction("photos/of another run.jpg", 9, (), WHEN))
    first, second, third = iter_rows(run, corrected=True)
    pointers = [
        {"kind": "ellipse", "x": 10.5, "y": 20.25, "rx": 3.0, "ry": 4.5, "score": 0.75},
        {"kind": "box", "x0": 0.0, "y0": 1.0, "x1": 2.0, "y1": 3.0, "score": 1.0},
    ]
    found = {"reviewed": True, "count_found": 1, "count_label_found": "1"}
    assert first == {**COUNTED.to_dict(), "count": 3, "count_label": "2+", "pointers": pointers, **found}
    assert second == {**POINTED.to_dict(), "count": 9, "count_label": "4+", "pointers": [], **found}
    assert third == FAILED.to_dict()


def test_a_file_in_the_place_of_a_run_has_no_corrections(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert read_corrections(tmp_path / "file") == {}
    with pytest.raises(UsageError, match="file holds no rows: name the folder"):
        iter_rows(tmp_path / "file", corrected=True)


def test_a_folder_without_rows_is_said(tmp_path: Path) -> None:
    append_correction(tmp_path, CORRECTION)
    with pytest.raises(UsageError, match="holds no rows"):
        list(iter_rows(tmp_path, corrected=True))


def test_a_fresh_run_keeps_the_corrections(run: Path) -> None:
    append_correction(run, CORRECTION)
    with RunDirectory(run, fresh=True) as rows:
        rows.begin({}, {})
        rows.write(COUNTED)
    assert [row["count"] for row in iter_rows(run, corrected=True)] == [3]


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_correction(tmp_path, CORRECTION)
    before = (tmp_path / CORRECTIONS).read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(PcEngineError, match="No space left on device"):
        append_correction(tmp_path, replace(CORRECTION, count=8))
    assert (tmp_path / CORRECTIONS).read_bytes() == before
    with pytest.raises(PcEngineError, match="cannot be written"):
        append_correction(tmp_path / "absent", CORRECTION)


def test_a_new_files_name_survives_a_crash_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(module, "sync_folder", synced.append)
    append_correction(tmp_path, CORRECTION)
    assert synced == [tmp_path]


@pytest.mark.parametrize("denied", ["", CORRECTIONS, ".corrections.lock"])
def test_a_run_that_cannot_be_corrected_is_said_before_anybody_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: str
) -> None:
    append_correction(tmp_path, CORRECTION)
    check_correctable(tmp_path)
    access = module.os.access  # which root is never denied
    monkeypatch.setattr(module.os, "access", lambda path, mode: path != tmp_path / denied and access(path, mode))
    with pytest.raises(
        UsageError, match=r"corrections\.jsonl, which keeps corrections, cannot be written.*or review a copy of"
    ):
        check_correctable(tmp_path)


def test_lines_are_ascii_json(tmp_path: Path) -> None:
    append_correction(tmp_path, replace(CORRECTION, path=POINTED.path))
    line = (tmp_path / CORRECTIONS).read_text(encoding="ascii")
    assert json.loads(line)["path"] == POINTED.path
