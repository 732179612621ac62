"""What a run says about one image: a row with a count and pointers in pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

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

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return math.pi * self.rx * self.ry

    @property
    def centre(self) -> tuple[float, float]:
        """Centre (x, y) in pixels."""
        return self.x, self.y


@dataclass(frozen=True)
class BoxPointer:
    """The smallest box that holds the cells of one cluster (paper 3.2), in pixels; ``score`` its share of the heat."""

    x0: float
    y0: float
    x1: float
    y1: float
    score: float
    kind: Literal["box"] = "box"

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    @property
    def centre(self) -> tuple[float, float]:
        """Centre (x, y) in pixels."""
        return (self.x0 + self.x1) / 2, (self.y0 + self.y1) / 2


Pointer = EllipsePointer | BoxPointer


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
        One for each object pointed at, by decreasing score, in pixels of the picture as displayed.
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
        return {**asdict(self), "pointers": [asdict(pointer) for pointer in self.pointers]}


def error_result(path: str, message: str, *, mode: str, model: str) -> Result:
    """Return the row of an image that could not be processed."""
    return Result(path=path, status="error", error=message, width=None, height=None, mode=mode, model=model)
