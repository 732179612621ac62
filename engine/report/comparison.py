"""Two runs over the same photos: what the other one says about each.

Both are taken as they counted, not as people corrected them: a run that was reviewed would else agree with the truth
where it had not. What people found right says how often each run was.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pc_engine.errors import UsageError
from pc_engine.report.compact import OtherAnswer, agree, compact_pointers, found_count, has_open_label
from pc_engine.runs.corrections import read_corrections
from pc_engine.runs.photos import RunPhotos
from pc_engine.runs.rows import iter_rows
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
        self._reviewed = self._right = self._other_right = 0
        self._true: dict[str, int] = {}
        self._name = directory.name
        others = RunPhotos(directory)
        corrections = read_corrections(directory)
        for row in iter_rows(directory):
            self._mode = self._mode or for_page(row["mode"])
            identity = _identity(row["path"], others)
            self._answers[identity] = OtherAnswer(row["count"], has_open_label(row), compact_pointers(row["pointers"]))
            if row["path"] in corrections:
                self._true[identity] = corrections[row["path"]].count

    def answer(self, row: Mapping[str, Any]) -> OtherAnswer | None:
        """Return what the other run says about the photo of a row; None where it did not see it.

        The row is one of `pc_engine.runs.rows.iter_rows`, corrected.
        """
        identity = _identity(row["path"], self._photos)
        answer = self._answers.get(identity)
        if answer is None:
            return None
        self._matched += 1
        count, is_open = found_count(row)
        if answer.count is not None and count is not None:
            self._both_counted += 1
            self._same += agree(count, is_open, answer.count, answer.is_open)
            true = row["count"] if row.get("reviewed") else self._true.get(identity)
            if true is not None:
                self._reviewed += 1
                self._right += agree(count, is_open, true)
                self._other_right += agree(answer.count, answer.is_open, true)
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
            "reviewed": self._reviewed,
            "right": self._right,
            "other_right": self._other_right,
        }


def _identity(path: str, photos: RunPhotos) -> str:
    """Return what is the same for a photo that one run names by a relative path and the other by an absolute one."""
    file = photos.file(path)
    return path if file is None else str(file)
