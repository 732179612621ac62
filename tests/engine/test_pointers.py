from __future__ import annotations

import math
from typing import Any

import pytest

from pc_engine.pointers import BoxPointer, EllipsePointer, Pointer, is_pointer, parse_pointer, pointer_row

ELLIPSE, BOX = EllipsePointer(1.5, 2, 3, 4, 0.5), BoxPointer(1, 2, 5.25, 10, 0.25, class_id=3, class_name="cat")


@pytest.mark.parametrize("pointer", [ELLIPSE, BOX])
def test_a_pointer_comes_back_from_its_row(pointer: Pointer) -> None:
    row = pointer_row(pointer)
    assert ("class_id" in row) == (pointer is BOX)
    assert is_pointer(row)
    assert parse_pointer(row) == pointer
    # Another program may write numbers without a point, and fields of its own.
    assert parse_pointer({**row, "score": 1, "of": "another"}).score == 1.0


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "neither an ellipse nor a box"),
        ([], "neither an ellipse nor a box"),
        ({}, "neither an ellipse nor a box"),
        ({**pointer_row(BOX), "kind": "cross"}, "neither an ellipse nor a box"),
        ({**pointer_row(BOX), "kind": ["box"]}, "neither an ellipse nor a box"),
        ({**pointer_row(BOX), "kind": "ellipse"}, "the x of a pointer is not a finite number"),
        ({**pointer_row(ELLIPSE), "rx": None}, "the rx of a pointer is not a finite number"),
        ({**pointer_row(ELLIPSE), "score": "1"}, "the score of a pointer is not a finite number"),
        ({**pointer_row(ELLIPSE), "y": True}, "the y of a pointer is not a finite number"),
        ({**pointer_row(ELLIPSE), "y": math.nan}, "the y of a pointer is not a finite number"),
        ({**pointer_row(ELLIPSE), "y": 10**400}, "the y of a pointer is not a finite number"),
        ({**pointer_row(BOX), "class_id": -1}, "the class of a pointer is not a number"),
        ({**pointer_row(BOX), "class_name": "\ud800"}, "or its name not text"),
    ],
)
def test_what_is_none_is_said(value: Any, sentence: str) -> None:
    assert not is_pointer(value)
    with pytest.raises(ValueError, match=sentence):
        parse_pointer(value)
