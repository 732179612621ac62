"""What the page of a review may send: one image's answer, checked before it is believed."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pc_engine.files.json_values import is_text, is_whole
from pc_engine.pointers import BoxPointer, EllipsePointer, Pointer
from pc_engine.report.compact import COMPACT_BOX, COMPACT_ELLIPSE
from pc_engine.result import name_of_class

MAX_COUNT = 1_000_000
MAX_POINTERS = 1_000
MAX_CLASS_NAME = 200
# Rows come with a decimal of a pixel, so that a pointer at the edge may lie that much outside.
_TOLERANCE = 1.0
# An ellipse drawn from a wide heatmap may be larger than the picture.
_LARGEST_RADIUS = 4
# Numbers of a pointer, without its class and with it.
_LENGTHS = (6, 8)


@dataclass(frozen=True)
class Answer:
    """How many objects an image shows, where, and of which class, where that of the run is not right (else None).

    This is what the page says about image number ``index``.
    """

    index: int
    count: int
    pointers: tuple[list[float], ...]
    class_name: str | None = None


@dataclass(frozen=True)
class Withdrawal:
    """Take back what was said about image number ``index``."""

    index: int


def parse_change(body: bytes) -> Answer | Withdrawal:
    """Return what a request says.

    Raises
    ------
    ValueError
        If it is not JSON, or not a change; the message is one sentence.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("The request is not JSON.") from None
    if not isinstance(value, dict):
        raise ValueError("The request is not an object.")  # noqa: TRY004 (what a client sent)
    index = _whole(value, "index")
    if value.get("withdraw") is True:
        return Withdrawal(index)
    count = _whole(value, "count")
    if count > MAX_COUNT:
        raise ValueError(f"The count is more than {MAX_COUNT:,}.")
    pointers = value.get("pointers")
    if not isinstance(pointers, list) or len(pointers) > MAX_POINTERS:
        raise ValueError(f"The pointers are not a list of at most {MAX_POINTERS:,}.")
    return Answer(index, count, tuple(map(_compact_pointer, pointers)), _class_name(value.get("class")))


def as_pointer(compact: list[float], width: int, height: int, classes: Sequence[str]) -> Pointer:
    """Return a pointer of a compact row, which has to lie inside a picture of that size.

    Parameters
    ----------
    compact
        As `parse_change` returns it.
    width, height
        Of the picture.
    classes
        Those of the page's tables.

    Raises
    ------
    ValueError
        If it does not, or is of a class that is none of those.
    """
    kind, a, b, c, d, score, *of_class = compact
    class_id, class_name = _class(of_class, classes)
    x, y = _inside(a, width), _inside(b, height)
    if kind == COMPACT_ELLIPSE:
        largest = _LARGEST_RADIUS * max(width, height)
        if not (0 <= c <= largest and 0 <= d <= largest):
            raise ValueError("The half axes of a pointer are negative, or much larger than the picture.")
        return EllipsePointer(x, y, float(c), float(d), float(score), class_id=class_id, class_name=class_name)
    x1, y1 = _inside(c, width), _inside(d, height)
    if x1 < x or y1 < y:
        raise ValueError("The corners of a pointer are the wrong way round.")
    return BoxPointer(x, y, x1, y1, float(score), class_id=class_id, class_name=class_name)


def _whole(value: dict[str, Any], name: str) -> int:
    if not is_whole(number := value.get(name)):
        raise ValueError(f"The {name} is not a whole number of at least 0.")
    return number


def _compact_pointer(value: Any) -> list[float]:
    if not isinstance(value, list) or len(value) not in _LENGTHS or value[0] not in (COMPACT_ELLIPSE, COMPACT_BOX):
        raise ValueError("A pointer is not a kind, four places, a score and, where it has one, a class.")
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in value):
        raise ValueError("A pointer holds something that is not a number.")
    try:
        numbers = [float(number) for number in value]
    except OverflowError:
        numbers = [math.inf]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("A pointer holds a number that is not finite.")
    if not 0 <= numbers[5] <= 1:
        raise ValueError("The score of a pointer is not between 0 and 1.")
    of_class = value[6:]
    if not all(map(is_whole, of_class)):
        raise ValueError("The class of a pointer is not a whole number of at least 0.")
    return [*numbers[:6], *of_class]


def _class_name(value: Any) -> str | None:
    if value is None:
        return None
    name = " ".join(value.split()) if is_text(value) else ""
    if not 0 < len(name) <= MAX_CLASS_NAME or any(unicodedata.category(letter) == "Cc" for letter in name):
        raise ValueError(f"The class is not a name of 1 to {MAX_CLASS_NAME} letters.")
    return name


def _class(of_class: Sequence[float], classes: Sequence[str]) -> tuple[int | None, str | None]:
    if not of_class:
        return None, None
    entry, class_id = map(int, of_class)
    if entry >= len(classes):
        raise ValueError("The class of a pointer is not one of the run's.")
    name = classes[entry]
    return class_id, None if name == name_of_class(class_id) else name


def _inside(place: float, length: int) -> float:
    if not -_TOLERANCE <= place <= length + _TOLERANCE:
        raise ValueError("A pointer lies outside the picture.")
    return min(max(place, 0.0), float(length))
