"""Rows, run.json and corrections that no run wrote: one sentence each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pc_engine.errors import DataError, PcEngineError
from pc_engine.pointers import EllipsePointer
from pc_engine.result import Result
from pc_engine.runs.corrections import read_corrections
from pc_engine.runs.row_check import check_row
from pc_engine.runs.rows import iter_rows
from pc_engine.runs.run_state import read_state
from pc_engine.runs.run_status import read_status
from pc_engine.runs.writers import SCHEMA, write_partition

POINTER = EllipsePointer(1.0, 2.0, 3.0, 4.0, 0.5)
DONE = Result(
    "a.jpg", "ok", None, 9, 8, "c2p", "m", 1, "1", {"0": -1.0, "4+": 1.0}, 2, "cat", 0.5, (POINTER,)
).to_dict()
FAILED = Result("b.jpg", "error", "No image.", None, None, "c2p", "m").to_dict()
ELLIPSE = DONE["pointers"][0]


@pytest.mark.parametrize("row", [DONE, FAILED])
def test_what_a_run_writes_passes(row: dict[str, Any]) -> None:
    check_row(row, SCHEMA.names)
    check_row(row, ("path", "status"))


BAD = [
    {"path": None},
    {"path": 7},
    {"path": "\ud800"},
    {"status": "fine"},
    {"status": ["ok"]},
    {"error": {}},
    {"width": None},
    {"width": 0},
    {"width": 1.5},
    {"height": -1},
    {"height": True},
    {"count": 2**31},
    {"count": 10**400},
    {"count_label": None},
    {"count_scores": [1]},
    {"count_scores": {"many": 1}},
    {"count_scores": {"1": "much"}},
    {"class_id": "3"},
    {"class_score": float("nan")},
    {"class_score": 10**400},
    {"pointers": None},
    {"pointers": {}},
    {"pointers": [7]},
    {"pointers": [{**ELLIPSE, "kind": "cross"}]},
    {"pointers": [{**ELLIPSE, "kind": []}]},
    {"pointers": [{**ELLIPSE, "rx": float("inf")}]},
    {"pointers": [{name: value for name, value in ELLIPSE.items() if name != "ry"}]},
]


@pytest.mark.parametrize("change", BAD, ids=[next(iter(change)) + str(k) for k, change in enumerate(BAD)])
def test_a_row_that_no_run_wrote_is_one_sentence(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "part-00000.jsonl").write_text(json.dumps(DONE) + "\n" + json.dumps({**DONE, **change}) + "\n")
    with pytest.raises(PcEngineError, match=r"part-00000\.jsonl cannot be read \(.*\): delete it") as error:
        [*iter_rows(tmp_path)]
    assert len(str(error.value)) < 500


def test_a_row_without_what_may_be_none_has_it(tmp_path: Path) -> None:
    row = {name: value for name, value in FAILED.items() if name not in ("count", "class_id")}
    (tmp_path / "part-00000.jsonl").write_text(json.dumps(row) + "\n")
    assert [*iter_rows(tmp_path)] == [FAILED]


@pytest.mark.parametrize("line", ["[]", "7", "{}", "{", "[" * 100_000, "9" * 5000, '{"path": "a"}'])
def test_a_line_that_is_no_row_is_one_sentence(tmp_path: Path, line: str) -> None:
    (tmp_path / "part-00000.jsonl").write_text(line + "\n")
    for read in (lambda path: list(iter_rows(path)), read_status, lambda path: list(iter_rows(path, corrected=True))):
        with pytest.raises(PcEngineError, match="cannot be read"):
            read(tmp_path)


def test_a_torn_line_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    torn = json.dumps(DONE)[:40]
    (tmp_path / "part-00000.jsonl").write_text(json.dumps(DONE) + "\n" + json.dumps(DONE) + "\n" + torn)
    with pytest.raises(PcEngineError, match=r"part-00000\.jsonl cannot be read \(line 3: it is not JSON from column "):
        [*iter_rows(tmp_path)]
    (tmp_path / "corrections.jsonl").write_text("\n\n" + torn + "\n")
    with pytest.raises(DataError, match=r"^Line 3 of .* is not a correction \(it is not JSON from column"):
        read_corrections(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop(["pointers"]),
        lambda table: table.set_column(0, "path", pa.array([1, 2])),
        lambda table: table.set_column(7, "count", pa.array(["1", "2"])),
        lambda table: table.set_column(0, "path", pa.array([None, "b"], pa.string())),
    ],
)
def test_a_parquet_file_of_another_form_is_one_sentence(tmp_path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    path = tmp_path / "part-00000.parquet"
    write_partition(path, [DONE, FAILED])
    assert [row["path"] for row in iter_rows(tmp_path)] == ["a.jpg", "b.jpg"]
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(PcEngineError, match="cannot be read"):
        [*iter_rows(tmp_path)]


@pytest.mark.parametrize(
    "change",
    [
        {"state": "done"},
        {"state": ["done"]},
        {"settings": []},
        {"stages": 7},
        {"stages": {"decode": 1, "network": True}},
        {"stages": {"decode": int("9" * 400)}},
        {"seconds": "long"},
        {"images_per_second": [1]},
        {"total": -1},
        {"shard": [1]},
        {"shard": [3, 2]},
        {"shard": {"1": 2}},
        {"workers": "two"},
        {"folder": ["/data"]},
    ],
)
def test_what_has_another_form_in_a_run_json_is_left_out(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "run.json"
    whole = {
        "state": "running",
        "settings": {},
        "shard": [1, 2],
        "total": None,
        "seconds": 1,
        "images_per_second": None,
        "workers": 2,
        "folder": "/data",
    }
    path.write_text(json.dumps(whole))
    assert read_state(path) == whole
    path.write_text(json.dumps({**whole, **change}))
    [name] = change
    assert read_state(path) == {key: value for key, value in whole.items() if key != name}
    path.write_text("[" * 100_000)
    assert read_state(path) is None


@pytest.mark.parametrize(
    "change",
    [
        {"path": "\ud800"},
        {"count": 10**400},
        {"count": 2**40},
        {"pointers": [{**ELLIPSE, "x": 10**400}]},
        {"pointers": [{**ELLIPSE, "x": 1e300}]},
    ],
)
def test_a_correction_with_numbers_that_nothing_holds_is_one_sentence(tmp_path: Path, change: dict[str, Any]) -> None:
    line = {"path": "a", "count": 1, "pointers": [ELLIPSE], "when": ""}
    (tmp_path / "corrections.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({**line, **change}) + "\n")
    with pytest.raises(DataError, match=r"Line 2 of .* is not a correction"):
        read_corrections(tmp_path)
