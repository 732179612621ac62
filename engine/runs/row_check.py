"""Whether a row that was read is one that a run writes: what reads a run relies on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pc_engine.files.json_values import is_number, is_text, is_whole
from pc_engine.pointers import is_pointer

_LABEL = re.compile(r"[0-9]{1,9}\+?")


def _are_scores(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        is_text(label) and _LABEL.fullmatch(label) and is_number(score) for label, score in value.items()
    )


_KINDS: dict[str, tuple[Callable[[Any], bool], bool]] = {
    # Column: what its values are, and whether there may be none.
    "path": (is_text, False),
    "status": (lambda value: value in ("ok", "error"), False),
    "error": (is_text, True),
    "width": (is_whole, True),
    "height": (is_whole, True),
    "mode": (is_text, False),
    "model": (is_text, False),
    "count": (is_whole, True),
    "count_label": (is_text, True),
    "count_scores": (_are_scores, True),
    "class_id": (is_whole, True),
    "class_name": (is_text, True),
    "class_score": (is_number, True),
    "pointers": (lambda value: isinstance(value, list) and all(map(is_pointer, value)), False),
}
# What is there wherever an image was done.
_OF_DONE = ("width", "height", "count", "count_label")
# Which no picture that was decoded has of 0.
_SIZE = ("width", "height")


def check_row(row: Any, columns: Iterable[str]) -> None:
    """Raise ValueError, saying what is wrong, unless ``row`` has the ``columns`` with values that a run writes."""
    if not isinstance(row, Mapping):
        raise ValueError(f"a row is {row!r:.60}, not an object of named values")  # noqa: TRY004 (one bad line)
    for name in columns:
        fits, may_be_none = _KINDS[name]
        value = row.get(name)
        if value is None:
            if not may_be_none or (name in _OF_DONE and row.get("status") == "ok"):
                raise ValueError(f"a row has no {name}")
        elif not fits(value) or (value == 0 and name in _SIZE and row.get("status") == "ok"):
            raise ValueError(f"the {name} of a row is {value!r:.60}")
