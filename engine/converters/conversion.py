"""From the rows of a run to a data set, row by row."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pc_engine.converters import coco, csv_tables, cvat, label_studio, voc, yolo
from pc_engine.converters.categories import NO_CLASS, Recategorised, read_categories
from pc_engine.converters.data_folder import DataFolder
from pc_engine.converters.dataset_format import ConversionSettings, DatasetFormat
from pc_engine.converters.naming import name_of
from pc_engine.converters.pictures import Survey, pictures, survey_rows
from pc_engine.converters.staging import Staging
from pc_engine.errors import PcEngineError, UsageError, system_reason
from pc_engine.runs.photos import RunPhotos

_FORMATS: dict[str, DatasetFormat] = {
    module.FORMAT.name: module.FORMAT for module in (coco, yolo, voc, label_studio, cvat, csv_tables)
}
#: A row of a run, by its columns.
Row = Mapping[str, Any]
#: Names of the formats.
DATASET_FORMATS = tuple(_FORMATS)

_FAILED = "could not be read in the run, so the size is not known"


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes
    ----------
    format, out
        The format, and the file or folder that the data set is.
    images, pointers
        Numbers of what it holds.
    left_out
        Number of images that it does not hold, by the reason, which completes "left out: 2 images that …".
    examples
        The path of the first of them, by the reason.
    folder
        The folder below which its images are named; empty where they share none, and for csv, which has the names of
        the rows.
    remark
        What its user should know, in a sentence; empty where there is nothing.
    """

    format: str
    out: Path
    images: int
    pointers: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    remark: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return what `pc-engine convert --json` prints, as JSON-ready values."""
        left_out = dict(self.left_out)
        return {**vars(self), "out": str(self.out), "left_out": sum(left_out.values()), "reasons": left_out}


def default_out(run: Path, to: str) -> Path:
    """Return the file or folder beside the folder of a run that a conversion goes to where none is named.

    Not into it: it may be the folder of the photos, among which copies of them would be counted.

    Raises
    ------
    UsageError
        If there is no such format.
    """
    form = _format(to)
    suffix = Path(form.makes[0]).suffix if form.is_file else ""
    place = Path(os.path.realpath(run))  # which takes links that lead to themselves as they are
    beside = place.parent
    with suppress(ValueError):  # on another drive of Windows
        beside = Path(os.path.relpath(beside))
    return beside / f"{place.name}-{to}{suffix}"


def convert(
    rows: Callable[[], Iterable[Row]],
    to: str,
    out: Path,
    settings: ConversionSettings | None = None,
    *,
    fresh: bool = False,
) -> Conversion:
    """Write a data set of the rows of a run. Rows are read twice and never held all at once.

    Parameters
    ----------
    rows
        Gives the rows from the first on, each time it is called.
    to
        One of `DATASET_FORMATS`.
    out
        The file (coco, cvat) or folder (the others) to write. It appears once it is whole.
    settings
        See `ConversionSettings`.
    fresh
        Replace an earlier data set at ``out`` instead of refusing it.

    Raises
    ------
    UsageError
        If there is no such format, or ``out`` may not be written.
    PcEngineError
        If the disk does not take it.
    """
    settings = settings or ConversionSettings()
    form = _format(to)
    if settings.image_root is not None and form is not label_studio.FORMAT:
        raise UsageError(f"--image-root is for {label_studio.FORMAT.name}: {to} names images relative to their folder.")
    if settings.relative_to is not None and form is csv_tables.FORMAT:
        raise UsageError(f"--relative-to is for formats that rename images: {to} has the names of the run.")
    if settings.photos is not None and not form.links:
        raise UsageError(f"--photos is for {yolo.FORMAT.name}: {to} names images without opening them.")
    for option, given in (("--one-class", settings.one_class), ("--categories", settings.categories)):
        if given is not None and form is csv_tables.FORMAT:
            raise UsageError(f"{option} is for formats with categories: {to} has the class of each image.")
    if settings.one_class is not None:
        rows = _without_classes(rows)
    recategorised = None
    if settings.categories is not None:
        recategorised = Recategorised(read_categories(settings.categories))
        rows = _each(rows, recategorised.row)
    with Staging(out, form, fresh=fresh) as staging:
        photos = None if settings.run is None else RunPhotos(settings.run, settings.photos)
        survey = survey_rows(rows(), settings.relative_to, photos)
        if settings.one_class is not None:
            survey = replace(survey, categories=(settings.one_class,))
        if recategorised is not None:
            survey = recategorised.survey(survey)
        try:
            conversion = _write(rows(), form, staging.folder, survey, settings, out)
            if recategorised is not None:
                remarks = filter(None, (conversion.remark, recategorised.remark()))
                conversion = replace(conversion, remark=" ".join(remarks))
            staging.publish(conversion.to_dict())
        except OSError as error:
            raise PcEngineError(
                f"{out} cannot be written ({system_reason(error)}): make room and convert again."
            ) from None
    return conversion


def _without_classes(rows: Callable[[], Iterable[Row]]) -> Callable[[], Iterable[Row]]:
    """Return what gives the rows as those of a mode that predicts no class."""

    def classless(row: Row) -> Row:
        pointers = [{**pointer, **NO_CLASS} for pointer in row["pointers"]]
        return {**row, **NO_CLASS, "class_score": None, "pointers": pointers}

    return _each(rows, classless)


def _each(rows: Callable[[], Iterable[Row]], change: Callable[[Row], Row]) -> Callable[[], Iterable[Row]]:
    return lambda: map(change, rows())


def _format(name: str) -> DatasetFormat:
    try:
        return _FORMATS[name]
    except KeyError:
        raise UsageError(f"There is no format '{name}': choose one of {', '.join(DATASET_FORMATS)}.") from None


def _write(
    rows: Iterable[Row],
    form: DatasetFormat,
    folder: DataFolder,
    survey: Survey,
    settings: ConversionSettings,
    out: Path,
) -> Conversion:
    images = pointers = 0
    left_out: Counter[str] = Counter()
    examples: dict[str, str] = {}
    writer = form.open(folder, survey, settings)
    for picture in pictures(rows, survey, settings.min_score):
        reason = writer.add(picture) if picture.result.ok or form.holds_failed else _FAILED
        if reason is not None:
            left_out[reason] += 1
            examples.setdefault(reason, picture.result.path)
            continue
        images += 1
        pointers += len(picture.result.pointers)
    remark = writer.finish() or ""
    below = "" if form is csv_tables.FORMAT else name_of(survey.folder)
    return Conversion(form.name, out, images, pointers, dict(left_out), examples, below, remark)
