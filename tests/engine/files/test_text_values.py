"""Counts and class numbers out of text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pc_engine.files.text_values import columns_of, delimiter_of, parse_class_id, parse_count, parse_number


@pytest.mark.parametrize(
    ("value", "count"), [("4", 4), (" 3 ", 3), ("4+", 4), ("2.0", 2), (7, 7), (7.0, 7), ("", None), (None, None)]
)
def test_a_count_is_read_as_people_write_it(value: object, count: int | None) -> None:
    assert parse_count(value) == count


@pytest.mark.parametrize(("value", "number"), [("-1", None), ("", None), (None, None), ("12", 12), (0, 0)])
def test_a_class_number_may_be_none(value: object, number: int | None) -> None:
    assert parse_class_id(value) == number


@pytest.mark.parametrize("value", ["many", "-2", "1.5", "nan", "inf", "3e9", "0x3", "2++"])
def test_what_is_no_number_of_things_is_said(value: str) -> None:
    for parse, what in ((parse_count, "count"), (parse_class_id, "class number")):
        with pytest.raises(ValueError, match=rf"its {what} is '.*', expected "):
            parse(value)


@pytest.mark.parametrize(("value", "number"), [("1.25", 1.25), (" -3 ", -3), ("1e3", 1000), (2, 2)])
def test_a_number_may_be_any_that_is_finite(value: object, number: float) -> None:
    assert parse_number(value, "x") == number


@pytest.mark.parametrize("value", [None, "", "one", "1,5", "nan", "-inf", "1e300", "9" * 5000])
def test_what_is_no_number_is_named(value: object) -> None:
    with pytest.raises(ValueError, match=r"its x is .*, expected a number"):
        parse_number(value, "x")


@given(st.text(max_size=100))
def test_any_text_is_a_count_or_a_sentence(text: str) -> None:
    try:
        count = parse_count(text)
    except ValueError:
        return
    assert count is None or 0 <= count < 2**31


@pytest.mark.parametrize(
    ("header", "delimiter", "columns"),
    [
        ("Path,Count\n", ",", ["path", "count"]),
        (" path ;count;a,b\r\n", ";", ["path", "count", "a,b"]),
        ("path\tcount", "\t", ["path", "count"]),
        ('path,"a;b"', ",", ["path", "a;b"]),
        ("path", ",", ["path"]),
        ("", ",", []),
    ],
)
def test_the_first_line_of_a_table_says_what_parts_its_columns(header: str, delimiter: str, columns: list[str]) -> None:
    assert (delimiter_of(header), columns_of(header)) == (delimiter, columns)
