"""Rows as a page takes them: short arrays that refer to tables of what repeats, such as folders and class names.

A row is ``[folder, name, width, height, count, class, class score, margin, pointers, error, reviewed, other count,
other is open, other pointers, found count, found is open]``, cut where only defaults follow; ``assets/rows.js`` reads
it. ``folder``, ``class`` and ``error`` are numbers of a table's entries, and the margin is by how much the best count
score leads. A pointer is ``[kind, a, b, c, d, score]``: kind 0 is an ellipse with x, y, rx, ry, and kind 1 a box with
x0, y0, x1, y1. A pointer that has a class of its own ends with two more, ``class`` as above and its number in the
model. "Other" is the run that this one is compared with; its count is open where it stands for "at least so many".
"Found" is what the run itself said of an image that was reviewed and is compared.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pc_engine.fitted.counter import is_open
from pc_engine.modes import counts_by_label
from pc_engine.pointers import Pointer
from pc_engine.result import name_of_class
from pc_engine.shown_text import for_page
from pc_engine.sources.addresses import is_address

# What a row ends with where nothing is known; such an end is left out.
_DEFAULTS: list[Any] = [None, None, 0, 0, None, -1, None, None, [], -1, 0, None, 0, [], None, 0]
#: Kinds of a compact pointer.
COMPACT_ELLIPSE, COMPACT_BOX = 0, 1
_FORM = {"ellipse": (COMPACT_ELLIPSE, ("x", "y", "rx", "ry")), "box": (COMPACT_BOX, ("x0", "y0", "x1", "y1"))}
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_PIXEL_DIGITS, _SCORE_DIGITS = 1, 3


@dataclass(frozen=True)
class OtherAnswer:
    """What the run compared with says about an image: its count, and its pointers in the compact form.

    ``is_open`` says that the count stands for "at least so many".
    """

    count: int | None
    is_open: bool
    pointers: list[list[float]]


@dataclass
class Tables:
    """The entries that compact rows refer to, in order of first use.

    Attributes
    ----------
    folders, classes, errors
        Folders of the photos (with their last separator), names of classes, and sentences of errors.
    open_count
        The smallest count that stands for "at least so many", as 4 does under the label "4+"; None without one.
    """

    folders: dict[str, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    open_count: int | None = None


def compact_row(row: Mapping[str, Any], tables: Tables, other: OtherAnswer | None = None) -> list[Any]:
    """Return a row in the compact form, adding to ``tables`` what it refers to.

    Parameters
    ----------
    row
        As `pc_engine.runs.rows.iter_rows` yields it, corrected.
    tables
        Shared by all rows of a page.
    other
        What another run says about the image.
    """
    folder, name = split_path(for_page(row["path"]))
    found, found_open = found_count(row) if other is not None and row.get("reviewed") else (None, False)
    class_name = _class_of(row)
    if has_open_label(row):
        tables.open_count = min(row["count"], row["count"] if tables.open_count is None else tables.open_count)
    values = [
        _entry(tables.folders, folder),
        name,
        row["width"] or 0,
        row["height"] or 0,
        row["count"],
        -1 if class_name is None else _entry(tables.classes, class_name),
        _rounded(row["class_score"], _SCORE_DIGITS),
        _margin(row["count_scores"]),
        compact_pointers(row["pointers"], tables),
        -1 if row["status"] == "ok" else _entry(tables.errors, failure_of(row)),
        int(bool(row.get("reviewed"))),
        None if other is None else other.count,
        int(other is not None and other.is_open),
        [] if other is None else other.pointers,
        found,
        int(found_open),
    ]
    while values[-1] == _DEFAULTS[len(values) - 1]:
        values.pop()
    return values


def compact_pointers(
    pointers: Iterable[Mapping[str, Any] | Pointer], tables: Tables | None = None
) -> list[list[float]]:
    """Return pointers in the compact form, less those with a number that is not finite; without tables, classless."""
    compact = []
    for pointer in pointers:
        values = pointer if isinstance(pointer, Mapping) else asdict(pointer)
        kind, names = _FORM[values["kind"]]
        place = [_rounded(values[name], _PIXEL_DIGITS) for name in names]
        finite = [number for number in place if number is not None]
        if len(finite) == len(names):
            of_class = [] if tables is None else _own_class(values, tables)
            compact.append([kind, *finite, _rounded(values["score"], _SCORE_DIGITS) or 0, *of_class])
    return compact


def has_open_label(row: Mapping[str, Any]) -> bool:
    """Whether a row's count stands for "at least so many": a counter's last label, which nobody has reviewed."""
    label = row["count_label"]
    by_counter = counts_by_label(row["mode"], row["count_scores"]) and not row.get("reviewed")
    return by_counter and label is not None and is_open(label)


def found_count(row: Mapping[str, Any]) -> tuple[int | None, bool]:
    """Return what the run itself said of a row's image, corrected or not, and whether that is "at least so many"."""
    if row.get("reviewed"):
        row = {**row, "count": row["count_found"], "count_label": row["count_label_found"], "reviewed": False}
    return row["count"], has_open_label(row)


def agree(count: int, is_open: bool, other: int, other_is_open: bool = False) -> bool:
    """Whether two counts say the same, where an open one says "at least so many"."""
    return count == other or (is_open and other > count) or (other_is_open and count > other)


def failure_of(row: Mapping[str, Any]) -> str:
    """Return the sentence that says why a row's image failed."""
    return for_page(row["error"] or "No reason was given.")


def classes_of(row: Mapping[str, Any]) -> list[str]:
    """Return the names of the classes that a row shows, each once: its own, and those of its pointers."""
    return [name for name in dict.fromkeys(map(_class_of, (row, *row["pointers"]))) if name is not None]


def page_head(directory: Path, tables: Tables, addresses: Sequence[str | None]) -> dict[str, Any]:
    """Return what every page says of its run, JSON-ready: its name, and what its compact rows refer to.

    Parameters
    ----------
    directory
        The run directory.
    tables
        Those of all rows.
    addresses
        Of each folder in them, relative to the page; None where the page cannot show its photos by it.
    """
    return {
        "name": for_page(directory.resolve().name),
        "folders": [list(folder) for folder in zip(tables.folders, addresses, strict=True)],
        "classes": list(tables.classes),
        "errors": list(tables.errors),
        "openCount": tables.open_count,
    }


def split_path(path: str) -> tuple[str, str]:
    """Return a path's folder, with the separator that ends it, and its name.

    What an image in an archive is called stands first in its address, and its archive is a part of its name here; so is
    the query of an address.
    """
    if is_address(path):
        start = path.index("://") + len("://")
        ends = (path.find(mark, start) for mark in ("::", "?"))
        cut = path.rfind("/", 0, min((end for end in ends if end >= 0), default=len(path))) + 1
    else:
        cut = max(path.rfind(separator) for separator in ("/", os.sep)) + 1
    return path[:cut], path[cut:]


def script_json(value: Any) -> str:
    """Return JSON that may stand inside a ``script`` element: no ``<`` that could end it, and no break of a line."""
    text = _ENCODER.encode(value)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def json_array(items: Iterable[str]) -> Iterator[str]:
    """Yield the pieces of a JSON array of items that are JSON already."""
    separator = "["
    for item in items:
        yield separator
        yield item
        separator = ",\n"
    yield "[]" if separator == "[" else "]"


def _class_of(of: Mapping[str, Any]) -> str | None:
    """Return the name of the class of a row or pointer, which may have a number only; None where it has neither."""
    class_id, name = of.get("class_id"), of.get("class_name")
    if class_id is None:
        return for_page(name) if name else None
    return for_page(name_of_class(class_id, name))


def _own_class(pointer: Mapping[str, Any], tables: Tables) -> list[int]:
    class_id, name = pointer.get("class_id"), _class_of(pointer)
    return [] if class_id is None or name is None else [_entry(tables.classes, name), class_id]


def _entry(table: dict[str, int], text: str) -> int:
    return table.setdefault(text, len(table))


def _margin(scores: Mapping[str, float] | None) -> float | None:
    ranked = sorted(score for score in (scores or {}).values() if score is not None and math.isfinite(score))
    return _rounded(ranked[-1] - ranked[-2], _SCORE_DIGITS) if len(ranked) > 1 else None


def _rounded(value: float | None, digits: int) -> float | None:
    """Return a number with few digits, as an int where it is whole; None where it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    short = round(float(value), digits)
    return int(short) if short == int(short) else short
