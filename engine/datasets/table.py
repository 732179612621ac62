"""A CSV, JSON or JSON Lines table with one image a row.

Columns, in any order and case; others are ignored: ``path``, ``file``, ``filename``, ``file_name`` or ``image``;
``count``; ``class_index`` or ``class_id`` (a number); ``class`` or ``name``; ``wnid``. Paths are relative to the folder
of the table if there is something, else to the current one, as in a list of images. One of count and class is enough.
A "no" in the column ``reviewed``, as ``pc-engine convert --to csv`` writes it, says that a run counted.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pc_engine.datasets.records import (
    LabelledImage,
    LabelledSet,
    LabelledSetBuilder,
    beside,
    first_existing,
    read_error,
)
from pc_engine.errors import DataError
from pc_engine.files.text_values import PATH_COLUMNS, columns_sentence, delimiter_of, parse_class_id, parse_count

LABELS_CSV = "labels.csv"

_COUNT = ("count",)
_CLASS_ID = ("class_index", "class_id")
_CLASS_NAME = ("class", "name")
_WNID = ("wnid",)
_REVIEWED = ("reviewed",)
_LABELS = (*_COUNT, *_CLASS_ID, *_CLASS_NAME, *_WNID)

# A row as read: where it stands, and its values by lower-case column.
_Row = tuple[str, Mapping[str, Any]]


def read_csv(path: Path) -> LabelledSet:
    """Read a table of comma-, semicolon- or tab-separated values with a header line, in UTF-8.

    Raises
    ------
    DataError
        If it cannot be read, lacks the columns, or gives no image.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            stream.seek(0)
            reader = csv.DictReader(stream, delimiter=delimiter_of(header))
            columns = [(name or "").strip().lower() for name in reader.fieldnames or ()]
            _check_columns(columns, path)
            reader.fieldnames = columns
            return _read_rows(((f"line {reader.line_num}", row) for row in reader), path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise read_error(path, "CSV", error) from None


def read_json_lines(path: Path) -> LabelledSet:
    """Read a table of one JSON object a line; errors as in :func:`read_csv`."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            return _read_rows(_json_lines(stream), path)
    except (OSError, UnicodeDecodeError) as error:
        raise read_error(path, "JSON Lines", error) from None


def parse_records(raw: list[Any], path: Path) -> LabelledSet:
    """Read a JSON list of objects, the contents of ``path``; errors as in :func:`read_csv`."""
    return _read_rows(((f"entry {number}", row) for number, row in enumerate(raw)), path)


def _json_lines(stream: Iterator[str]) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError):
                yield f"line {number}", None


def _check_columns(columns: list[str], path: Path) -> None:
    for name in (*PATH_COLUMNS, *_LABELS):
        if columns.count(name) > 1:
            raise DataError(f"{path} has {columns.count(name)} columns '{name}': keep only the one that is meant.")
    if not set(columns) & set(PATH_COLUMNS) or not set(columns) & set(_LABELS):
        raise DataError(
            f"{columns_sentence(path, columns)}, but needs one of {', '.join(PATH_COLUMNS)} and one of "
            f"{', '.join(_LABELS)}."
        )


def _read_rows(rows: Iterator[tuple[str, Any]], path: Path) -> LabelledSet:
    builder = LabelledSetBuilder(path.parent.name if path.name == LABELS_CSV else path.stem, path)
    remedy = f" (relative paths are taken from {path.parent.absolute()}, else from the current folder)"
    for place, row in rows:
        if not isinstance(row, Mapping):
            builder.skip(place, "it is not an object of named values")
            continue
        values = {str(name).lower(): value for name, value in row.items() if name is not None}
        file = _first(values, PATH_COLUMNS)
        by_run = (_first(values, _REVIEWED) or "").lower() == "no"
        try:
            builder.add(_image(file, values, path.parent), remedy, by_run=by_run)
        except ValueError as error:
            builder.skip(f"{place} ({file})" if file else place, str(error))
    return builder.build()


def _image(file: str | None, values: Mapping[str, Any], folder: Path) -> LabelledImage:
    if file is None:
        raise ValueError(f"it names no file in a column {', '.join(PATH_COLUMNS)}")
    wnid = _first(values, _WNID)
    image = LabelledImage(
        # An absolute path stays as it is.
        path=first_existing([folder / file, Path(file)]) or beside(folder, file),
        count=parse_count(_first(values, _COUNT)),
        class_name=_first(values, _CLASS_NAME) or wnid,
        class_id=parse_class_id(_first(values, _CLASS_ID)),
        wnid=wnid,
    )
    if image.count is None and image.class_name is None and image.class_id is None:
        raise ValueError("it has neither a count nor a class")
    return image


def _first(values: Mapping[str, Any], columns: tuple[str, ...]) -> str | None:
    """Return the first of ``columns`` that is there and not empty, as text."""
    texts = (str(values[name]).strip() for name in columns if values.get(name) is not None)
    return next((text for text in texts if text), None)
