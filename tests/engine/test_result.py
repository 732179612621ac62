from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pc_engine.errors import DataError, MissingPackageError
from pc_engine.pointers import BoxPointer, EllipsePointer
from pc_engine.result import Result, error_result


def test_an_error_row_holds_nothing_but_what_is_known() -> None:
    row = error_result("a.jpg", "It is broken.", mode="p2c", model="tiny")
    assert not row.ok
    known = {"path": "a.jpg", "status": "error", "error": "It is broken.", "mode": "p2c", "model": "tiny"}
    assert row.to_dict() == {**dict.fromkeys(row.to_dict()), **known, "pointers": []}


def test_a_row_is_ready_for_json() -> None:
    row = Result(
        path="a.jpg",
        status="ok",
        error=None,
        width=4,
        height=3,
        mode="c2p",
        model="tiny",
        count=1,
        count_label="1",
        count_scores={"0": 0.5, "1": 1.5},
        pointers=(EllipsePointer(1, 2, 0.5, 0.25, 1.0), BoxPointer(0, 0, 1, 1, 0.5)),
    )
    assert row.ok
    again = json.loads(json.dumps(row.to_dict()))
    assert again == row.to_dict()
    assert again["count_scores"] == {"0": 0.5, "1": 1.5}
    assert again["pointers"] == [
        {"kind": "ellipse", "x": 1, "y": 2, "rx": 0.5, "ry": 0.25, "score": 1.0},
        {"kind": "box", "x0": 0, "y0": 0, "x1": 1, "y1": 1, "score": 0.5},
    ]


def test_a_row_does_not_share_its_scores_with_the_result() -> None:
    scores = {"0": 1.0}
    row = Result("a", "ok", None, 1, 1, "c2p", "tiny", count_scores=scores)
    row.to_dict()["count_scores"]["0"] = 2.0
    assert scores == {"0": 1.0}


def test_area_and_centre_of_pointers() -> None:
    ellipse, box = EllipsePointer(5, 6, 2, 3, 1), BoxPointer(1, 2, 5, 10, 1)
    assert ellipse.area == pytest.approx(6 * math.pi)
    assert ellipse.centre == (5, 6)
    assert box.area == 32
    assert box.centre == (3, 6)


ROW = Result(
    path="a.jpg",
    status="ok",
    error=None,
    width=40,
    height=30,
    mode="p2c",
    model="tiny",
    count=2,
    count_label="2",
    count_scores={"0": 0.5, "1": 1.5},
    class_id=7,
    class_name="crane",
    class_score=0.5,
    pointers=(EllipsePointer(5, 6, 2, 3, 0.75), BoxPointer(1, 2, 5, 10, 0.25)),
)


@pytest.mark.parametrize("row", [ROW, error_result("b.jpg", "It is broken.", mode="c2p", model="tiny")])
def test_a_row_becomes_the_result_that_it_was_made_of(row: Result) -> None:
    assert Result.from_dict(row.to_dict()) == row
    assert Result.from_dict(json.loads(json.dumps({**row.to_dict(), "reviewed": True}))) == row


def test_results_are_members_of_sets_in_every_mode() -> None:
    again = Result.from_dict(ROW.to_dict())
    other = replace(ROW, count_scores=None)
    assert {ROW, again, other} == {ROW, other}


def test_a_row_that_a_library_read_from_parquet_becomes_that_result_too() -> None:
    schema = pa.schema([("count_scores", pa.map_(pa.string(), pa.float32()))])
    scores = pa.Table.from_pylist([{"count_scores": list((ROW.count_scores or {}).items())}], schema).to_pylist()[0]
    assert scores != {"count_scores": ROW.count_scores}  # pairs
    result = Result.from_dict({**ROW.to_dict(), **scores})
    assert result == ROW
    assert (result.count_scores or {})["1"] == 1.5


@pytest.mark.parametrize("scores", [3, "many", [1, 2]])
def test_scores_that_are_none_are_said(scores: object) -> None:
    with pytest.raises(DataError, match=r"The row of a\.jpg is not one of a run"):
        Result.from_dict({**ROW.to_dict(), "count_scores": scores})


@pytest.mark.parametrize("pointers", [[{"kind": "ellipse", "x": 1}], [{"kind": "star"}], [{"x0": 1}], None], ids=repr)
def test_a_row_that_is_none_is_said(pointers: object) -> None:
    with pytest.raises(DataError, match=r"The row of a\.jpg is not one of a run"):
        Result.from_dict({**ROW.to_dict(), "pointers": pointers})
    with pytest.raises(DataError, match="The row of an image is not one of a run"):
        Result.from_dict({"pointers": []})
    with pytest.raises(DataError, match="The row of an image is not one of a run"):
        Result.from_dict(None)  # type: ignore[arg-type]


def test_the_bounds_hold_the_pointer() -> None:
    assert EllipsePointer(5, 6, 2, 3, 1).bounds == (3, 3, 7, 9)
    assert BoxPointer(1, 2, 5, 10, 1).bounds == (1, 2, 5, 10)


def test_objects_are_called_what_their_class_is_called() -> None:
    pointer = ROW.pointers[0]
    assert ROW.class_of(pointer) == (7, "crane")
    assert replace(ROW, class_name=None).class_of(pointer) == (7, "7")
    assert replace(ROW, class_id=None, class_name=None).class_of(pointer) == (None, "object")
    assert ROW.class_of(replace(pointer, class_id=0, class_name="tench")) == (0, "tench")
    assert ROW.class_of(replace(pointer, class_id=0)) == (0, "0")


def test_a_pointer_has_a_class_in_the_row_only_where_it_is_its_own() -> None:
    first, second = ROW.pointers
    mixed = replace(ROW, pointers=(first, replace(second, class_id=0, class_name="tench")))
    told = [
        {name: pointer[name] for name in ("class_id", "class_name") if name in pointer}
        for pointer in mixed.to_dict()["pointers"]
    ]
    assert told == [{}, {"class_id": 0, "class_name": "tench"}]
    assert Result.from_dict(mixed.to_dict()) == mixed


def test_supervision_takes_the_pointers_as_detections() -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is what the detections are for")
    detections = ROW.to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert detections.xyxy.tolist() == [[3, 3, 7, 9], [1, 2, 5, 10]]
    assert detections.confidence.tolist() == [0.75, 0.25]
    assert detections.class_id.tolist() == [7, 7]
    assert detections["class_name"].tolist() == ["crane", "crane"]
    tench = replace(ROW.pointers[1], class_id=0, class_name="tench")
    mixed = replace(ROW, pointers=(ROW.pointers[0], tench)).to_supervision()
    assert mixed.class_id.tolist() == [7, 0]
    assert mixed["class_name"].tolist() == ["crane", "tench"]
    assert len(detections[detections.confidence > 0.5]) == 1
    drawn = supervision.BoxAnnotator().annotate(np.zeros((30, 40, 3), np.uint8), detections)
    assert drawn.any()


def test_detections_are_within_the_picture_and_of_an_object_where_there_is_no_class() -> None:
    pytest.importorskip("supervision", reason="supervision is what the detections are for")
    row = replace(ROW, class_id=None, class_name=None, pointers=(EllipsePointer(38, 2, 5, 3, 1.0),))
    detections = row.to_supervision()
    assert detections.xyxy.tolist() == [[33, 0, 40, 5]]
    assert (detections.class_id.tolist(), detections["class_name"].tolist()) == ([0], ["object"])


def test_rows_without_pointers_have_no_detections() -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is what the detections are for")
    rows = [ROW, replace(ROW, pointers=()), error_result("b.jpg", "It is broken.", mode="c2p", model="tiny")]
    detections = [row.to_supervision() for row in rows]
    assert [len(each) for each in detections] == [2, 0, 0]
    assert len(supervision.Detections.merge(detections)) == 2


def test_without_supervision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'pc-engine\[supervision\]'"):
        ROW.to_supervision()
