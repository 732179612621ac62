from __future__ import annotations

import json
import math

import pytest

from pc_engine.result import BoxPointer, EllipsePointer, Result, error_result


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
