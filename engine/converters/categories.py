"""Categories of a data set that are not the classes of the network: which class becomes which, by a table.

ImageNet has 118 kinds of dog, and a data set may want one; it may also leave classes out, or number its categories as
an earlier one did.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pc_engine.converters.pictures import Survey
from pc_engine.errors import UsageError, system_reason
from pc_engine.files.regular_file import check_regular
from pc_engine.files.text_values import columns_of, delimiter_of
from pc_engine.result import CLASSLESS, name_of_class

#: The columns of the table.
COLUMNS = ("class", "category")
#: Stands for all classes that the table does not name.
OTHERS = "*"
_SHOWN = 3
#: The columns of what has no class.
NO_CLASS: Mapping[str, Any] = {"class_id": None, "class_name": None}
# The number of the first category in rows; no network has so many classes.
_FIRST = (1 << 30) + (1 << 29)


@dataclass(frozen=True)
class Categories:
    """Which class becomes which category.

    Attributes
    ----------
    names
        The categories, in the order of their numbers in the data set, from 0.
    of_class
        By what the table calls a class, in small letters, the number of its category; None leaves its pointers out.
    """

    names: tuple[str, ...]
    of_class: Mapping[str, int | None]


def read_categories(path: Path) -> Categories:
    """Read a CSV table with the columns class and category.

    A class is named by its number, its name, or one of the names that a comma parts in it, in large or small letters;
    ``*`` stands for all others, which keep their own names without it. A category is numbered by where it first comes,
    and an empty one leaves its class out.

    Raises
    ------
    UsageError
        If it cannot be read, lacks a column, or names a class twice or not at all.
    """
    names: dict[str, int] = {}
    of_class: dict[str, int | None] = {}
    for line, row in _rows(path):
        key, category = (" ".join(row[name].split()) for name in COLUMNS)
        key = key.lower()
        if not key:
            raise UsageError(f"Line {line} of {path} names no class: write its name or number, or {OTHERS} for others.")
        if key in of_class:
            raise UsageError(f"Line {line} of {path} repeats the class '{key}': keep one of the two lines.")
        of_class[key] = names.setdefault(category, len(names)) if category else None
    if not of_class:
        raise UsageError(f"{path} has nothing below its first line: write one line for each class.")
    if not names and OTHERS in of_class:
        raise UsageError(f"{path} leaves all classes out: give some of them a category.")
    return Categories(tuple(names), of_class)


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    try:
        check_regular(path)
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            delimiter, columns = delimiter_of(header), columns_of(header)
            if lacking := [name for name in COLUMNS if name not in columns]:
                raise UsageError(f"{path} has no column {' or '.join(lacking)}: its first line must name the columns.")
            reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True)
            for cells in reader:
                if not any(cells):
                    continue
                if len(cells) != len(columns):
                    raise UsageError(
                        f"Line {reader.line_num + 1} of {path} does not have as many cells as the first line "
                        f"({len(cells)}, not {len(columns)}): put names with a '{delimiter}' in quotes."
                    )
                yield reader.line_num + 1, dict(zip(columns, cells, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise UsageError(
            f"The categories in {path} cannot be read ({system_reason(error)}): name a CSV in UTF-8 with --categories."
        ) from None


class Recategorised:
    """Gives rows the categories of a table in the place of their classes, and keeps in mind which were of use.

    In the rows categories have numbers beyond those of classes, as classes that keep their names keep their numbers.
    """

    def __init__(self, categories: Categories) -> None:
        self._categories = categories
        self._places = {name.casefold(): place for place, name in reversed([*enumerate(categories.names)])}
        self._used: set[str] = set()
        self._has_classless = False

    def row(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a row of a run with its categories, less the pointers of classes that the table leaves out."""
        if row.get("status", "ok") != "ok":
            return row  # it has no class, and no part in the data set
        of_row = self._category(row)
        pointers = []
        for pointer in row["pointers"]:
            category = of_row if pointer.get("class_id") is None else self._category(pointer)
            if category is not None:
                pointers.append({**pointer, **category})
        return {**row, **(of_row or NO_CLASS), "pointers": pointers}

    def survey(self, survey: Survey) -> Survey:
        """Return what is known of such rows, with all categories of the table, be there none of one."""
        names = self._categories.names
        of_classes = {key: place for key, place in survey.category_of.items() if key is not None and key < _FIRST}
        others = sorted(set(of_classes.values()))
        moved = {place: len(names) + k for k, place in enumerate(others)}
        listed = (*names, *(survey.categories[place] for place in others))
        places: dict[int | None, int] = {key: moved[place] for key, place in of_classes.items()}
        places |= {_FIRST + place: place for place in range(len(names))}
        # A row whose class is left out has none either, and nothing to be called.
        places[None] = len(listed)
        return replace(survey, categories=(*listed, *[CLASSLESS] * self._has_classless), category_of=places)

    def remark(self) -> str:
        """Return a sentence on classes of the table that no row has; empty where there is none."""
        unused = [key for key in self._categories.of_class if key not in self._used and key != OTHERS]
        if not unused:
            return ""
        shown = ", ".join(f"'{key}'" for key in unused[:_SHOWN]) + (", ..." if len(unused) > _SHOWN else "")
        which = "1 class is" if len(unused) == 1 else f"{len(unused):,} classes are"
        return f"In the table of categories, {which} in no image: {shown}."

    def _category(self, of: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Return the columns of the category of a row or pointer; None where the table leaves its class out."""
        names, of_class = self._categories.names, self._categories.of_class
        class_id, class_name = of.get("class_id"), of.get("class_name")
        called = " ".join((class_name or "").split())
        keys = [OTHERS]
        if class_id is not None:
            known = name_of_class(class_id, called.lower())
            keys = [str(class_id), known, *map(str.strip, known.split(",")), f"class {class_id}", OTHERS]
        for key in keys:
            if key in of_class:
                self._used.add(key)
                place = of_class[key]
                return None if place is None else {"class_id": _FIRST + place, "class_name": names[place]}
        place = self._places.get(called.casefold() if class_id is not None else CLASSLESS)
        if place is not None:  # as which it counts, though the table does not say so
            return {"class_id": _FIRST + place, "class_name": names[place]}
        if class_id is None:
            self._has_classless = True
            return NO_CLASS
        return {"class_id": class_id, "class_name": class_name}
