"""Whether a row that was read is one that a run writes: what reads a run relies on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# What a 32-bit column holds.
_LARGEST_INTEGER = 2**31 - 1
_LARGEST_FLOAT = 3.5e38
_LABEL = re.compile(r"[0-9]{1,9}\+?")
_NUMBERS_OF = {"ellipse": ("x", "y", "rx", "ry", "score"), "box": ("x0", "y0", "x1", "y1", "score")}


def is_text(value: Any) -> bool:
    """Whether it is text that can be written: JSON can hold halves of characters, which UTF-8 cannot."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_whole(value: Any) -> bool:
    """Whether it is a whole number from 0 to the largest that 32 bits hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_INTEGER


def is_number(value: Any) -> bool:
    """Whether it is a finite number that 32 bits hold."""
    # A whole number of any length can be compared; what is not finite fails.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST_FLOAT


# What a pointer has where an image may show several classes.
_OF_CLASS: dict[str, Callable[[Any], bool]] = {"class_id": is_whole, "class_name": is_text}


def is_pointer(value: Any) -> bool:
    """Whether it is an ellipse or a box, with all its numbers."""
    if not isinstance(value, Mapping):
        return False
    kind = value.get("kind")
    names = _NUMBERS_OF.get(kind) if isinstance(kind, str) else None
    if names is None or not all(is_number(value.get(name)) for name in names):
        return False
    return all(value.get(name) is None or fits(value[name]) for name, fits in _OF_CLASS.items())


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
        raise ValueError(f"a row is {row!r:.60}, and no object of named values")  # noqa: TRY004 (one bad line)
    for name in columns:
        fits, may_be_none = _KINDS[name]
        value = row.get(name)
        if value is None:
            if not may_be_none or (name in _OF_DONE and row.get("status") == "ok"):
                raise ValueError(f"a row has no {name}")
        elif not fits(value) or (value == 0 and name in _SIZE and row.get("status") == "ok"):
            raise ValueError(f"the {name} of a row is {value!r:.60}")
