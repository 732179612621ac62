"""Pointers: what they are, and as rows hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from pc_engine.files.json_values import is_number, is_text, is_whole


@dataclass(frozen=True)
class EllipsePointer:
    """The unit contour of one mixture component (paper 3.1): centre and half axes in pixels, ``score`` its weight."""

    x: float
    y: float
    rx: float
    ry: float
    score: float
    kind: Literal["ellipse"] = "ellipse"
    class_id: int | None = None
    class_name: str | None = None

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return math.pi * self.rx * self.ry

    @property
    def centre(self) -> tuple[float, float]:
        """Centre (x, y) in pixels."""
        return self.x, self.y

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """The box (x0, y0, x1, y1) around it in pixels; it may reach beyond the picture."""
        return self.x - self.rx, self.y - self.ry, self.x + self.rx, self.y + self.ry


@dataclass(frozen=True)
class BoxPointer:
    """A box around one cluster of cells (paper 3.2), in pixels: around its core, or as asked all of its object.

    ``score`` is the cluster's share of the heat: as density peaks smooth it, or as it is with DBSCAN.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    score: float
    kind: Literal["box"] = "box"
    class_id: int | None = None
    class_name: str | None = None

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    @property
    def centre(self) -> tuple[float, float]:
        """Centre (x, y) in pixels."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Its corners (x0, y0, x1, y1) in pixels."""
        return self.x0, self.y0, self.x1, self.y1


Pointer = EllipsePointer | BoxPointer

_KINDS: Mapping[str, type[Pointer]] = {"ellipse": EllipsePointer, "box": BoxPointer}
# What a pointer's row need not hold; all else but the kind is a number.
_MAY_BE_LEFT_OUT = ("class_id", "class_name")
_NUMBERS = {
    name: tuple(field.name for field in fields(kind) if field.name not in ("kind", *_MAY_BE_LEFT_OUT))
    for name, kind in _KINDS.items()
}


def pointer_row(pointer: Pointer) -> dict[str, Any]:
    """Return a pointer as it stands in a row: its class is left out where it is that of the row."""
    row = dict(vars(pointer))
    for name in _MAY_BE_LEFT_OUT:
        if row[name] is None:
            del row[name]
    return row


def parse_pointer(value: Any) -> Pointer:
    """Return the pointer of a row's dictionary.

    Raises
    ------
    ValueError
        If it is none: of another kind, or with a number that is missing or not finite, or a class that is none.
    """
    kind = _checked_kind(value)
    a, b, c, d, score = (float(value[name]) for name in _NUMBERS[kind])
    return _KINDS[kind](a, b, c, d, score, class_id=value.get("class_id"), class_name=value.get("class_name"))


def is_pointer(value: Any) -> bool:
    """Whether `parse_pointer` takes it."""
    try:
        _checked_kind(value)
    except ValueError:
        return False
    return True


def _checked_kind(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError("a pointer is neither an ellipse nor a box")
    for name in _NUMBERS[kind]:
        if not is_number(value.get(name)):
            raise ValueError(f"the {name} of a pointer is not a finite number")
    class_id, class_name = value.get("class_id"), value.get("class_name")
    if not (class_id is None or is_whole(class_id)) or not (class_name is None or is_text(class_name)):
        raise ValueError("the class of a pointer is not a number, or its name not text")
    return kind
