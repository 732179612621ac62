"""What the formats are given: each row with its name and category in the data set, and what is known of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pc_engine.converters.naming import Place, local_folder, name_of, place_among, placed
from pc_engine.errors import PcEngineError, UsageError
from pc_engine.pointers import BoxPointer, EllipsePointer
from pc_engine.result import CLASSLESS, Result
from pc_engine.runs.corrections import CLASSES_OF_PERSONS
from pc_engine.runs.moved_photos import shared_folder
from pc_engine.runs.photos import RunPhotos
from pc_engine.sources.addresses import is_address


@dataclass(frozen=True)
class Picture:
    """A row on its way into a data set.

    Attributes
    ----------
    result
        The row, with the pointers that take part.
    place
        Where it lies below the folder that all images share.
    survey
        What is known of all rows.
    reviewed
        Whether a person looked at it.
    count_found
        What the run counted, whatever a person made of it; None where it could not.
    """

    result: Result
    place: Place
    survey: Survey
    reviewed: bool
    count_found: int | None = None

    @property
    def name(self) -> str:
        """Its place as a text with slashes."""
        return name_of(self.place)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels; (0, 0) where it could not be read."""
        return self.result.width or 0, self.result.height or 0

    def category(self, pointer: BoxPointer | EllipsePointer) -> int:
        """Return the index of the category of a pointer."""
        return self.survey.category_of[self.result.class_of(pointer)[0]]

    def label(self, pointer: BoxPointer | EllipsePointer) -> str:
        """Return the name of the category of a pointer."""
        return self.survey.categories[self.category(pointer)]

    def box(self, pointer: BoxPointer | EllipsePointer) -> tuple[float, float, float, float]:
        """Return the box (x0, y0, x1, y1) around a pointer, cut at the picture's edges, to hundredths of a pixel."""
        x0, y0, x1, y1 = pointer.bounds
        return *self._inside(x0, y0), *self._inside(x1, y1)

    def point(self, pointer: EllipsePointer) -> tuple[float, float]:
        """Return the centre (x, y), within the picture, to hundredths of a pixel."""
        return self._inside(pointer.x, pointer.y)

    def _inside(self, x: float, y: float) -> tuple[float, float]:
        width, height = self.size
        return round(min(max(x, 0.0), width), 2), round(min(max(y, 0.0), height), 2)


@dataclass(frozen=True)
class Survey:
    """What is known of all rows once they were read through, for what a format says first.

    Attributes
    ----------
    rows, failed
        Number of rows, and of those whose image could not be read.
    folder
        The folder below which images are named.
    local_folder
        Where that folder is; None if it is none of this machine's.
    start
        The place of the folder that relative paths begin in, where images are named below one above it; else empty.
    categories
        Names of the categories by their index, each but once.
    category_of
        Index of the category of each ``class_id``; of None where no class was predicted.
    has_boxes, has_ellipses
        Whether there are pointers of the kind.
    """

    rows: int
    failed: int
    folder: Place
    local_folder: Path | None
    categories: tuple[str, ...]
    category_of: Mapping[int | None, int]
    has_boxes: bool
    has_ellipses: bool
    start: Place = ()


def survey_rows(
    rows: Iterable[Mapping[str, Any]], relative_to: str | None = None, photos: RunPhotos | None = None
) -> Survey:
    """Read all rows through.

    Parameters
    ----------
    rows
        The rows of a run.
    relative_to
        The folder below which images are named; None for the innermost that holds all of them.
    photos
        Where the run's photos are found; None for from the present folder.

    Raises
    ------
    UsageError
        If an image is not below ``relative_to``.
    """
    n = failed = 0
    kinds: set[str] = set()
    names: dict[int | None, str] = {}
    photos = photos or RunPhotos(Path.cwd())
    wanted: Place | None = None
    folder: Place | None = None
    start: Place = ()
    example: str | None = None
    for row in rows:
        n += 1
        if row["status"] != "ok":
            failed += 1
            continue
        path = row["path"]
        if relative_to is not None and wanted is None:
            wanted, start = place_among(relative_to, path, photos)
            folder = wanted
        folder = shared_folder(folder, placed(path, start))
        if wanted is not None and folder != wanted:
            raise UsageError(f"The image {path} is not below {relative_to}: name a folder that holds all images.")
        if example is None and not is_address(path):
            example = path
        result = Result.from_dict(row)
        # A row without pointers tells of its class, too, for formats that list what was looked for.
        names.update([result.class_of(result), *map(result.class_of, result.pointers)])
        kinds.update(pointer.kind for pointer in result.pointers)
    names = names or {None: CLASSLESS}
    every = sorted(names, key=lambda class_id: -1 if class_id is None else class_id)
    same = _same_by_name([(class_id, names[class_id]) for class_id in every])
    order = [class_id for class_id in every if class_id not in same]
    category_of = {class_id: index for index, class_id in enumerate(order)}
    return Survey(
        rows=n,
        failed=failed,
        folder=folder or (),
        local_folder=_local_folder(folder or (), start, example, photos),
        categories=_each_once([names[class_id] for class_id in order], order),
        category_of=category_of | {class_id: category_of[other] for class_id, other in same.items()},
        has_boxes="box" in kinds,
        has_ellipses="ellipse" in kinds,
        start=start,
    )


def _local_folder(folder: Place, start: Place, example: str | None, photos: RunPhotos) -> Path | None:
    if start:
        return Path(*folder)
    return None if example is None else local_folder(folder, example, photos)


def pictures(rows: Iterable[Mapping[str, Any]], survey: Survey, min_score: float) -> Iterator[Picture]:
    """Yield the pictures of surveyed rows, without pointers of a lower score; what a person reviewed keeps all.

    Raises
    ------
    PcEngineError
        If the rows are not those of the survey.
    """
    for row in rows:
        result, reviewed = Result.from_dict(row), bool(row.get("reviewed"))
        place = placed(result.path, survey.start)
        if result.ok:
            known = all(result.class_of(of)[0] in survey.category_of for of in (result, *result.pointers))
            if not known or place[: len(survey.folder)] != survey.folder:
                raise PcEngineError(f"The run changed while it was read ({result.path}): convert it once it is done.")
            place = place[len(survey.folder) :]
        if not reviewed:
            kept = tuple(pointer for pointer in result.pointers if pointer.score >= min_score)
            result = replace(result, pointers=kept)
        yield Picture(result, place, survey, reviewed, row.get("count_found", row["count"]))


def _same_by_name(classes: Iterable[tuple[int | None, str]]) -> dict[int | None, int | None]:
    """Return of classes that persons named the number of the class before them that they are by their name, if any."""
    first: dict[str, int | None] = {}
    same: dict[int | None, int | None] = {}
    for class_id, called in classes:
        name = " ".join(called.casefold().split())
        if name in first and class_id is not None and class_id >= CLASSES_OF_PERSONS:
            same[class_id] = first[name]
        else:
            first.setdefault(name, class_id)
    return same


def _each_once(names: list[str], class_ids: list[int | None]) -> tuple[str, ...]:
    """Return the names, with the class's number where several classes have one (two of ImageNet's are cranes)."""
    times = Counter(names)
    return tuple(
        f"{name} ({class_id})" if times[name] > 1 else name for name, class_id in zip(names, class_ids, strict=True)
    )
