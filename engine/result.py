"""What a run says about one image: a row with a count and pointers in pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from pc_engine.errors import DataError
from pc_engine.packages import import_optional
from pc_engine.pointers import Pointer, parse_pointer, pointer_row

if TYPE_CHECKING:
    from supervision import Detections

Status = Literal["ok", "error"]

#: What an object is called where no class was predicted.
CLASSLESS = "object"


def name_of_class(class_id: int, name: str | None = None) -> str:
    """Return what a class is called: one without a name by its number."""
    return name or str(class_id)


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
        SVM decision value of each count label; None in mode p2c, which has no counter, and where the count was known.
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
    count_scores: Mapping[str, float] | None = field(default=None, hash=False)
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
        row = dict(vars(self))
        if self.count_scores is not None:
            row["count_scores"] = dict(self.count_scores)
        row["pointers"] = [pointer_row(pointer) for pointer in self.pointers]
        return row

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Return the result that `to_dict` made the row of; what else the row holds is left aside.

        Scores may be pairs, as libraries read them from Parquet, where `pc_engine.iter_rows` gives rows as here.

        Raises
        ------
        DataError
            If a column is missing, scores are none, or a pointer, as `pc_engine.pointers.parse_pointer` says.
        """
        try:
            values = {column.name: row[column.name] for column in fields(cls) if column.name in row}
            if values.get("count_scores") is not None:
                values["count_scores"] = dict(values["count_scores"])
            return cls(**{**values, "pointers": tuple(map(parse_pointer, row["pointers"]))})
        except (KeyError, TypeError, ValueError) as error:
            of = row.get("path", "an image") if isinstance(row, Mapping) else "an image"
            raise DataError(f"The row of {of} is not one of a run: {error}.") from None

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
        detections: type[Detections] = import_optional("supervision", "turn results into its detections").Detections
        n = len(self.pointers)
        boxes = np.array([pointer.bounds for pointer in self.pointers], np.float32).reshape(n, 4)
        if self.width is not None and self.height is not None:
            boxes = boxes.clip(0, [self.width, self.height] * 2).astype(np.float32)
        return detections(
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
            return None, CLASSLESS
        return of.class_id, name_of_class(of.class_id, of.class_name)


def error_result(path: str, message: str, *, mode: str, model: str) -> Result:
    """Return the row of an image that could not be processed."""
    return Result(path=path, status="error", error=message, width=None, height=None, mode=mode, model=model)
