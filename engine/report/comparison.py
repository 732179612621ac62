"""Two runs over the same photos: what the other one says about each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pc_engine.errors import UsageError
from pc_engine.report.compact import OtherAnswer, compact_pointers, has_open_label
from pc_engine.runs.corrections import corrected_rows
from pc_engine.runs.photos import RunPhotos
from pc_engine.shown_text import for_page


class Comparison:
    """The answers of another run, by photo.

    Parameters
    ----------
    directory
        The other run.
    photos
        Where the photos of the run that is reported lie.

    Raises
    ------
    UsageError
        If the directory holds no rows.
    """

    def __init__(self, directory: Path, photos: RunPhotos) -> None:
        self._photos = photos
        self._answers: dict[str, OtherAnswer] = {}
        self._mode = ""
        self._matched = self._same = self._both_counted = 0
        self._name = directory.name
        others = RunPhotos(directory)
        for row in corrected_rows(directory):
            self._mode = self._mode or for_page(row["mode"])
            self._answers[_identity(row["path"], others)] = OtherAnswer(
                row["count"], has_open_label(row), compact_pointers(row["pointers"])
            )

    def answer(self, row: Mapping[str, Any]) -> OtherAnswer | None:
        """Return what the other run says about the photo of a row; None where it did not see it."""
        answer = self._answers.get(_identity(row["path"], self._photos))
        if answer is None:
            return None
        self._matched += 1
        if answer.count is not None and row["count"] is not None:
            self._both_counted += 1
            self._same += _agree(row["count"], has_open_label(row), answer)
        return answer

    def figures(self) -> dict[str, Any]:
        """Return what is known once every row was asked for, as JSON-ready values.

        Raises
        ------
        UsageError
            If the runs have no photo in common.
        """
        if not self._matched:
            raise UsageError(
                f"The run {self._name} has no photo in common with this one: compare runs of the same photos."
            )
        return {
            "name": for_page(self._name),
            "mode": self._mode,
            "matched": self._matched,
            "both": self._both_counted,
            "same": self._same,
        }


def _agree(count: int, is_open: bool, other: OtherAnswer) -> bool:
    """Whether two counts say the same, where an open one says "at least so many"."""
    if other.count is None:
        return False
    return count == other.count or (is_open and other.count > count) or (other.is_open and count > other.count)


def _identity(path: str, photos: RunPhotos) -> str:
    """Return what is the same for a photo that one run names by a relative path and the other by an absolute one."""
    file = photos.file(path)
    return path if file is None else str(file)
