from __future__ import annotations

import json
from typing import Any

import pytest

from pc_engine.pointers import BoxPointer, EllipsePointer
from pc_engine.review.changes import (
    MAX_CLASS_NAME,
    MAX_COUNT,
    MAX_POINTERS,
    Answer,
    Withdrawal,
    as_pointer,
    parse_change,
)


def test_answers_and_withdrawals_are_read() -> None:
    body = b'{"index": 3, "count": 2, "pointers": [[0, 1, 2, 3, 4, 0.5]]}'
    assert parse_change(body) == Answer(3, 2, ([0.0, 1.0, 2.0, 3.0, 4.0, 0.5],))
    classed = b'{"index": 3, "count": 1, "pointers": [[1, 1, 2, 3, 4, 0.5, 2, 151]]}'
    assert parse_change(classed) == Answer(3, 1, ([1.0, 1.0, 2.0, 3.0, 4.0, 0.5, 2, 151],))
    assert parse_change(b'{"index": 0, "withdraw": true}') == Withdrawal(0)
    named = b'{"index": 3, "count": 1, "pointers": [], "class": " grey   raccoon "}'
    assert parse_change(named) == Answer(3, 1, (), "grey raccoon")
    assert parse_change(named.replace(b'" grey   raccoon "', b"null")) == Answer(3, 1, ())
    joined = "\u06af\u0631\u0628\u0647\u200c\u0647\u0627"  # as Persian writes it
    assert (
        parse_change(json.dumps({"index": 3, "count": 1, "pointers": [], "class": joined}).encode()).class_name
        == joined
    )


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"\xff", b"[" * 100_000, b"[]", b"null"),
        *(b'{"count": 1, "pointers": []}', b'{"index": -1, "count": 1, "pointers": []}'),
        *(b'{"index": 1.5, "count": 1, "pointers": []}', b'{"index": true, "count": 1, "pointers": []}'),
        *(b'{"index": "../1", "count": 1, "pointers": []}', b'{"index": 1e400, "count": 1, "pointers": []}'),
        *(b'{"index": 1, "pointers": []}', b'{"index": 1, "count": -1, "pointers": []}'),
        b'{"index": 1, "count": %d, "pointers": []}' % (MAX_COUNT + 1),
        *(b'{"index": 1, "count": 1}', b'{"index": 1, "count": 1, "pointers": {}}'),
        b'{"index": 1, "withdraw": "yes"}',
        *(b'{"index": 1, "count": 1, "pointers": [], "class": %s}' % name for name in (b"3", b'" "', b'"a\\u0007"')),
        b'{"index": 1, "count": 1, "pointers": [], "class": "%s"}' % (b"x" * (MAX_CLASS_NAME + 1)),
        rb'{"index": 1, "count": 1, "pointers": [], "class": "\ud800"}',
    ],
)
def test_what_is_no_change_is_refused_in_a_sentence(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(The|A) .*\.$"):
        parse_change(body)


@pytest.mark.parametrize(
    "pointer",
    [
        *([], [0, 1, 2, 3, 4], [2, 1, 2, 3, 4, 1], ["0", 1, 2, 3, 4, 1], [0, 1, 2, 3, None, 1], {"kind": 0}),
        *(
            [0, True, 2, 3, 4, 1],
            [0, float("nan"), 2, 3, 4, 1],
            [1, 0, 0, float("inf"), 1, 1],
            [0, 10**400, 2, 3, 4, 1],
        ),
        *([0, 1, 2, 3, 4, 1.5], [0, 1, 2, 3, 4, -0.1], [[0], 1, 2, 3, 4, 1]),
        *([0, 1, 2, 3, 4, 1, 5], [0, 1, 2, 3, 4, 1, 5, -1], [0, 1, 2, 3, 4, 1, 0.5, 1], [0, 1, 2, 3, 4, 1, 5, 1, 1]),
    ],
)
def test_odd_pointers_are_refused(pointer: Any) -> None:
    with pytest.raises(ValueError, match="pointer"):
        parse_change(json.dumps({"index": 1, "count": 1, "pointers": [pointer]}).encode())


def test_pointers_are_limited() -> None:
    pointers = [[0, 1, 2, 3, 4, 1]] * (MAX_POINTERS + 1)
    with pytest.raises(ValueError, match="at most 1,000"):
        parse_change(json.dumps({"index": 1, "count": 1, "pointers": pointers}).encode())


def test_pointers_at_the_edge_are_kept_inside() -> None:
    assert as_pointer([1, -0.4, 0, 100.4, 50, 0.5], 100, 50, []) == BoxPointer(0.0, 0.0, 100.0, 50.0, 0.5)
    assert as_pointer([0, 100.4, 5, 30, 0, 1], 100, 50, []) == EllipsePointer(100.0, 5.0, 30.0, 0.0, 1.0)


@pytest.mark.parametrize(
    "compact",
    [
        *([1, -2, 0, 5, 5, 1], [1, 0, 0, 102, 5, 1], [1, 0, 0, 5, 52, 1], [1, 9, 0, 5, 5, 1], [1, 0, 9, 5, 5, 1]),
        *([0, -2, 5, 1, 1, 1], [0, 5, 52, 1, 1, 1], [0, 5, 5, -1, 1, 1], [0, 5, 5, 1, 401, 1]),
    ],
)
def test_pointers_outside_the_picture_are_refused(compact: list[float]) -> None:
    with pytest.raises(ValueError, match="pointer"):
        as_pointer(compact, 100, 50, [])


def test_a_pointer_keeps_the_class_of_its_own() -> None:
    classes = ["cat", "7"]
    cat = as_pointer([1, 0, 0, 5, 5, 1, 0, 281], 100, 50, classes)
    assert cat == BoxPointer(0.0, 0.0, 5.0, 5.0, 1.0, class_id=281, class_name="cat")
    nameless = as_pointer([0, 5, 5, 1, 1, 1, 1, 7], 100, 50, classes)
    assert nameless == EllipsePointer(5.0, 5.0, 1.0, 1.0, 1.0, class_id=7)
    with pytest.raises(ValueError, match="class of a pointer"):
        as_pointer([0, 5, 5, 1, 1, 1, 2, 7], 100, 50, classes)
