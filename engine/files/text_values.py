"""Values out of text that others wrote, such as cells of a table: what they are, or a ValueError that says why not."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from typing import Any

from pc_engine.files.json_values import LARGEST_INTEGER, is_number

#: What a table's column of images may be called.
PATH_COLUMNS = ("path", "file", "filename", "file_name", "image")


def delimiter_of(header: str) -> str:
    """Return what separates a table's columns, of its first line: the most frequent of comma, semicolon and tab."""
    return max(",;\t", key=header.count)


def columns_of(header: str) -> list[str]:
    """Return the names of a table's columns in small letters, of its first line; raise csv.Error where it is none."""
    return [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter_of(header)), [])]


def columns_sentence(table: object, columns: Sequence[str]) -> str:
    """Return how a sentence begins that says what a table lacks."""
    return f"{table} has the columns {', '.join(map(repr, columns)) or 'none':.300}"


def parse_count(value: Any) -> int | None:
    """Return a count given as a number or as text, ``"4+"`` giving 4; None for None and empty text.

    Raises
    ------
    ValueError
        If it is no whole number of at least 0.
    """
    text = "" if value is None else str(value).strip().removesuffix("+")
    if not text:
        return None
    return _whole_number(text, "count", value)


def parse_class_id(value: Any) -> int | None:
    """Return a class number given as a number or as text; None for None, empty text and -1 ("no class").

    Raises
    ------
    ValueError
        If it is no whole number of at least 0.
    """
    text = "" if value is None else str(value).strip()
    if text in ("", "-1"):
        return None
    return _whole_number(text, "class number", value)


def parse_number(value: Any, what: str) -> float:
    """Return a finite number that 32 bits hold, given as text.

    Raises
    ------
    ValueError
        If it is none; ``what`` completes "its … is".
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not is_number(number):
        raise ValueError(f"its {what} is {value!r:.60}, expected a number")
    return number


def _whole_number(text: str, what: str, value: Any) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if LARGEST_INTEGER < number < math.inf:
        raise ValueError(f"its {what} is {value!r:.60}, expected at most {LARGEST_INTEGER:,}")
    if not (0 <= number <= LARGEST_INTEGER and number.is_integer()):
        raise ValueError(f"its {what} is {value!r:.60}, expected a whole number of at least 0")
    return int(number)
