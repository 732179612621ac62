"""CSV: ``counts.csv`` with a line for each image, and ``pointers.csv`` with one for each pointer.

``path``, as the run has it, joins the two. Images that could not be read have their line with the reason.

Spreadsheets take a text that begins with one of ``= + - @``, a tab or a carriage return for a formula. Of an image such
a path is written with ``./`` before it, which names the same file, and any other text with an apostrophe, which says
that it is text. Numbers of classes that people named are not written, as no network has them.
"""

from __future__ import annotations

import csv

from pc_engine.converters.data_folder import DataFolder
from pc_engine.converters.dataset_format import ConversionSettings, DatasetFormat
from pc_engine.converters.pictures import Picture, Survey
from pc_engine.pointers import EllipsePointer
from pc_engine.runs.corrections import CLASSES_OF_PERSONS

COUNTS_FILE = "counts.csv"
POINTERS_FILE = "pointers.csv"
COUNT_COLUMNS = (
    *("path", "status", "count", "count_label", "class_id", "class", "class_score", "pointers", "reviewed"),
    *("width", "height", "mode", "model", "error", "count_found"),
)
POINTER_COLUMNS = ("path", "number", "kind", "class", "score", "x", "y", "x0", "y0", "x1", "y1", "rx", "ry")


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class _CsvWriter:
    """Writes a line for each image and each pointer as they come. Coordinates are in pixels, as the run has them."""

    def __init__(self, folder: DataFolder, _survey: Survey, _settings: ConversionSettings) -> None:
        self._counts = csv.writer(folder.open(COUNTS_FILE))
        self._pointers = csv.writer(folder.open(POINTERS_FILE))
        self._counts.writerow(COUNT_COLUMNS)
        self._pointers.writerow(POINTER_COLUMNS)

    def add(self, picture: Picture) -> str | None:
        result = picture.result
        path = _safe(result.path, "./")
        score = None if result.class_score is None else round(result.class_score, 6)
        class_id = None if (result.class_id or 0) >= CLASSES_OF_PERSONS else result.class_id
        about = (result.count, result.count_label, class_id, _safe(result.class_name), score)
        made = (result.width, result.height, result.mode, _safe(result.model), _safe(result.error))
        reviewed = "yes" if picture.reviewed else "no"
        self._counts.writerow((path, result.status, *about, len(result.pointers), reviewed, *made, picture.count_found))
        for number, pointer in enumerate(result.pointers, start=1):
            radii = (pointer.rx, pointer.ry) if isinstance(pointer, EllipsePointer) else ()
            pixels = (round(value, 2) for value in (*pointer.centre, *pointer.bounds, *radii))
            about_pointer = (number, pointer.kind, _safe(picture.label(pointer)), round(pointer.score, 6))
            padding = (None,) * (2 - len(radii))
            self._pointers.writerow((path, *about_pointer, *pixels, *padding))
        return None

    def finish(self) -> None:
        """Every line stands where it came."""


def _safe(text: str | None, mark: str = "'") -> str | None:
    """Return a text as no spreadsheet takes it for a formula."""
    return f"{mark}{text}" if text is not None and text.startswith(_FORMULA) else text


FORMAT = DatasetFormat("csv", _CsvWriter, makes=(COUNTS_FILE, POINTERS_FILE), holds_failed=True)
