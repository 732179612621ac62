"""A run under review: its rows by number, its photos, and what is corrected."""

from __future__ import annotations

import json
import os
import threading
from array import array
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pc_engine.hardware.machine import usable_cores
from pc_engine.report.compact import (
    Tables,
    compact_pointers,
    compact_row,
    json_array,
    page_head,
    script_json,
)
from pc_engine.report.page import ASSETS as SHARED
from pc_engine.report.page import PageParts, render_page
from pc_engine.review.changes import Answer, Withdrawal, as_pointer
from pc_engine.review.pictures import Pictures, Size
from pc_engine.runs.corrections import Correction, append_correction, read_corrections, withdraw_correction
from pc_engine.runs.photos import RunPhotos
from pc_engine.runs.rows import iter_rows
from pc_engine.shown_text import for_page
from pc_engine.sources.sharding import name_digest

_OWN = Path(__file__).parent / "assets"
_PARTS = PageParts((SHARED / "page.css", _OWN / "review.css"), _OWN / "review.js")
# Of a compact row: the place of its count.
_COUNT = 4
# On a slow disk somebody would wait for all of them.
_LOOKED_FOR = 100
_POLICY = "img-src 'self' data:; connect-src 'self'"


class ReviewSession:
    """What the page of a review shows and changes, without the server that does so.

    The rows are kept as the JSON that the page takes, some 110 bytes for each with two pointers: 6 MB for 50,000
    images, 110 MB for a million, which a browser takes a while to open.

    Parameters
    ----------
    directory
        The run directory.
    photos
        The folder that its photos lie in now; None where they lie as they did in the run.

    Raises
    ------
    UsageError
        If it holds no rows, or ``photos`` is no folder.
    DataError
        If its corrections cannot be read.
    """

    def __init__(self, directory: Path, photos: Path | None = None) -> None:
        self.directory = directory
        self._photos = RunPhotos(directory, photos)
        self._tables = Tables()
        self._rows = bytearray()
        self._ends = array("Q")
        # Paths that UTF-8 cannot hold, which a row on the page shows in another way.
        self._odd_paths: dict[int, str] = {}
        # Count, pointers, and the class where that was corrected.
        self._answers: dict[int, list[Any]] = {}
        self._changed: set[int] = set()
        # Rows of a photo that a run was given several times; a correction is one of them all.
        self._same_photo: dict[int, list[int]] = {}
        self._lock = threading.Lock()
        self._points_with: str | None = None
        self._load(read_corrections(directory))
        self._folders = list(self._tables.folders)
        self._classes = list(self._tables.classes)
        self._pictures = Pictures(self._photos, usable_cores())

    @property
    def n_images(self) -> int:
        """Images of the run."""
        return len(self._ends)

    @property
    def n_reviewed(self) -> int:
        """Images that were reviewed, in this session or before."""
        return len(self._answers)

    @property
    def n_changed(self) -> int:
        """Images that were reviewed in this session."""
        return len(self._changed)

    def missing(self) -> str | None:
        """Return where one of the first photos was looked for that is not there; None where they are."""
        for index in range(min(self.n_images, _LOOKED_FOR)):
            row = self._row(index)
            path = self._path(index, row)
            was_counted = len(row) > _COUNT and row[_COUNT] is not None
            if was_counted and self._photos.is_gone(path):
                return os.fspath(self._photos.file(path) or path)
        return None

    def page(self) -> Iterator[str]:
        """Yield the page, piece by piece, as things stand now."""
        head = {
            # Pictures are asked for by their numbers, and not by where they lie.
            **page_head(self.directory, self._tables, [None] * len(self._folders)),
            "compare": None,
            # Where a person adds the first pointer of an image, it is of the kind that the run points with.
            "pointsWith": self._points_with or "ellipse",
        }
        with self._lock:
            answers = dict(self._answers)
        data: list[tuple[str, Iterable[str]]] = [
            ("head", [script_json(head)]),
            ("rows", json_array(self._row_text(index) for index in range(self.n_images))),
            ("answers", [script_json(answers)]),
        ]
        return render_page(_PARTS, f"Review of {head['name']} - pc-engine", data, policy=_POLICY)

    def picture(self, index: int, size: Size) -> bytes:
        """Return the photo of an image as WebP.

        Raises
        ------
        IndexError
            If the run has no such image.
        ImageError
            If its photo cannot be shown.
        """
        row = self._row(index)
        _, _, width, height, *_ = [*row, 0, 0]
        return self._pictures.get(self._path(index, row), size, pixels=width * height)

    def change(self, change: Answer | Withdrawal) -> int:
        """Save what the page says, and return how many images are reviewed now.

        Raises
        ------
        IndexError
            If the run has no such image.
        ValueError
            If the image failed in the run, or a pointer lies outside its picture.
        PcEngineError
            If it cannot be written.
        """
        row = self._row(change.index)
        path = self._path(change.index, row)
        _, _, width, height, *rest = row
        if not rest or width < 1 or height < 1 or rest[0] is None:
            raise ValueError("The image failed in the run, so there is nothing to review in it.")
        when = datetime.now(UTC).isoformat(timespec="seconds")
        with self._lock:
            if isinstance(change, Withdrawal):
                withdraw_correction(self.directory, path, when)
                for index in self._same_photo.get(change.index, [change.index]):
                    self._answers.pop(index, None)
                    self._changed.discard(index)
            else:
                pointers = tuple(as_pointer(pointer, width, height, self._classes) for pointer in change.pointers)
                correction = Correction(path, change.count, pointers, when, change.class_name)
                append_correction(self.directory, correction)
                answer = _answer(change.count, [list(pointer) for pointer in change.pointers], change.class_name)
                for index in self._same_photo.get(change.index, [change.index]):
                    self._answers[index] = answer
                    self._changed.add(index)
            return self.n_reviewed

    def _load(self, corrections: dict[str, Correction]) -> None:
        digests = bytearray()
        for index, row in enumerate(iter_rows(self.directory)):
            path = row["path"]
            digests += name_digest(path)
            if self._points_with is None and row["pointers"]:
                self._points_with = row["pointers"][0]["kind"]
            self._rows += script_json(compact_row(row, self._tables)).encode("utf-8")
            self._ends.append(len(self._rows))
            if for_page(path) != path:
                self._odd_paths[index] = path
            correction = corrections.get(path)
            if correction is not None and row["status"] == "ok":
                pointers = compact_pointers(correction.pointers, self._tables)
                said = None if correction.class_name is None else for_page(correction.class_name)
                self._answers[index] = _answer(correction.count, pointers, said)
        self._find_same_photos(digests)

    def _find_same_photos(self, digests: bytearray) -> None:
        names = np.frombuffer(bytes(digests), "V16")
        order = np.argsort(names, kind="stable")
        is_next = names[order][1:] == names[order][:-1]
        for place in np.flatnonzero(is_next):
            first, second = int(order[place]), int(order[place + 1])
            rows = self._same_photo.setdefault(first, [first])
            rows.append(second)
            self._same_photo[second] = rows

    def _row_text(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return self._rows[start : self._ends[index]].decode("utf-8")

    def _row(self, index: int) -> list[Any]:
        if not 0 <= index < self.n_images:
            raise IndexError(f"the run has no image number {index}")
        row: list[Any] = json.loads(self._row_text(index))
        return row

    def _path(self, index: int, row: list[Any]) -> str:
        return self._odd_paths.get(index) or self._folders[row[0]] + row[1]


def _answer(count: int, pointers: list[list[float]], class_name: str | None) -> list[Any]:
    return [count, pointers, *([] if class_name is None else [class_name])]
