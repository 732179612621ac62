"""What a run says about one image: a row with a count and pointers in pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from pc_engine.errors import DataError, MissingPackageError

if TYPE_CHECKING:
    from supervision import Detections

Status = Literal["ok", "error"]


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
    """The smallest box that holds the cells of one cluster (paper 3.2), in pixels.

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

# What a pointer's row need not hold.
_OF_CLASS = ("class_id", "class_name")
_POINTER_KINDS: Mapping[str, type[Pointer]] = {"ellipse": EllipsePointer, "box": BoxPointer}


@dataclass(frozen=True)
class Result:
    """One row: exactly one for every input image, whether it could be read or not.

    Attributes
    ----------
    path
        The image, as its source names it.
    status, error
        ``"ok"``, or ``"error"`` with one sentence that says why; then all that follows but ``mode`` and ``model`` is
        None or empty.
    width, height
        Size in pixels of the picture as displayed, i.e. with its EXIF orientation applied.
    count, count_label
        Number of objects, and the label it falls under (``"4+"`` is open-ended).
    count_scores
        SVM decision value of each count label; None in mode p2c, which has no counter.
    class_id, class_name, class_score
        The class whose signature was used and its softmax probability; None in mode c2p, which does not classify.
    pointers
        One for each object pointed at, by decreasing score, in pixels of the picture as displayed. Where a run looks
        for several classes in an image, each has its own ``class_id`` and ``class_name``, and they come class by class.
    """

    path: str
    status: Status
    error: str | None
    width: int | None
    height: int | None
    mode: str
    model: str
    count: int | None = None
    count_label: str | None = None
    count_scores: Mapping[str, float] | None = None
    class_id: int | None = None
    class_name: str | None = None
    class_score: float | None = None
    pointers: tuple[Pointer, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the image was read and counted."""
        return self.status == "ok"

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON-ready values, with the names of the row format."""
        # By hand: what dataclasses offer copies every value, and takes several times as long.
        row = {name: getattr(self, name) for name in _RESULT_FIELDS}
        scores = self.count_scores
        return {
            **row,
            "count_scores": None if scores is None else dict(scores),
            "pointers": [pointer_row(pointer) for pointer in self.pointers],
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Return the result that `to_dict` made the row of; what else the row holds is left aside.

        Raises
        ------
        DataError
            If a column or a pointer's number is missing, or a pointer is of a kind that is not known.
        """
        values = {field.name: row[field.name] for field in fields(cls) if field.name in row}
        try:
            return cls(**{**values, "pointers": tuple(map(_pointer, row["pointers"]))})
        except (KeyError, TypeError) as error:
            raise DataError(f"The row of {row.get('path', 'an image')} is not one of a run: {error}.") from None

    def to_supervision(self) -> Detections:
        """Return the pointers as ``supervision.Detections``, to draw, count and filter with that library.

        ``xyxy`` are the boxes, of ellipses the boxes around them, within the picture; ``confidence`` the scores.
        ``class_id`` and ``data["class_name"]`` are the class of each, and 0 and ``"object"`` where the mode does not
        classify. An error row has no detections: look at `ok`.

        Raises
        ------
        MissingPackageError
            If the package ``supervision`` is not installed.
        """
        try:
            from supervision import Detections
        except ImportError:
            raise MissingPackageError("supervision", "supervision", "turn results into its detections") from None
        n = len(self.pointers)
        boxes = np.array([pointer.bounds for pointer in self.pointers], np.float32).reshape(n, 4)
        if self.width is not None and self.height is not None:
            boxes = boxes.clip(0, [self.width, self.height] * 2).astype(np.float32)
        return Detections(
            xyxy=boxes,
            confidence=np.array([pointer.score for pointer in self.pointers], np.float32),
            class_id=np.array([class_id or 0 for class_id, _ in map(self.class_of, self.pointers)], np.int64),
            data={"class_name": np.array([name for _, name in map(self.class_of, self.pointers)], str)},
        )

    def class_of(self, pointer: Pointer | Result) -> tuple[int | None, str]:
        """Return the class of what a pointer points at, or of the row itself, and what it is called.

        That is the pointer's own class, else the row's; None and ``"object"`` where the mode does not classify. A class
        without a name is called by its number.
        """
        of = self if pointer.class_id is None else pointer
        if of.class_id is None:
            return None, "object"
        return of.class_id, of.class_name or f"class {of.class_id}"


_RESULT_FIELDS = tuple(field.name for field in fields(Result))
_POINTER_FIELDS = {name: tuple(field.name for field in fields(kind)) for name, kind in _POINTER_KINDS.items()}


def pointer_row(pointer: Pointer) -> dict[str, Any]:
    """Return a pointer as it stands in a row: its class is left out where it is that of the row."""
    values = ((name, getattr(pointer, name)) for name in _POINTER_FIELDS[pointer.kind])
    return {name: value for name, value in values if value is not None}


def error_result(path: str, message: str, *, mode: str, model: str) -> Result:
    """Return the row of an image that could not be processed."""
    return Result(path=path, status="error", error=message, width=None, height=None, mode=mode, model=model)


def _pointer(values: Mapping[str, Any]) -> Pointer:
    kind = _POINTER_KINDS[values["kind"]]
    return kind(
        **{
            field.name: values[field.name]
            for field in fields(kind)
            if field.name not in _OF_CLASS or field.name in values
        }
    )
