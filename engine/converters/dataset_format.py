"""What a format of data sets owes: one module each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pc_engine.converters.data_folder import DataFolder
from pc_engine.converters.pictures import Picture, Survey
from pc_engine.errors import UsageError

# Why images are left out; see `DatasetWriter.add`.
LINE_BREAK = "cannot be in a list of files, as the name has a line break"
NOT_UTF8 = "cannot be in a list of files, as the name is not UTF-8: rename the file and run again"
NAME_TAKEN = "cannot have a label file, as another image has it or no file can have that name here"


@dataclass(frozen=True, kw_only=True)
class ConversionSettings:
    """How rows are converted.

    Attributes
    ----------
    min_score
        Pointers of a lower score are left out.
    relative_to
        The folder below which images are named; None for the innermost that holds all of them.
    image_root
        Label Studio only: what comes before an image's name in its URL; None for its local storage.
    run
        The run directory: photos that its rows name by relative paths are found from above it, too.
    photos
        The folder that the photos lie in now; None where they lie as they did in the run.
    one_class
        The name of the only category, that of all pointers; None for the classes that were predicted.
    categories
        A table that says which class becomes which category, see `pc_engine.converters.categories.read_categories`;
        None for the classes themselves.

    Raises
    ------
    UsageError
        If the score is none, the name is empty, or there are a name and a table.
    """

    min_score: float = 0.0
    relative_to: str | None = None
    image_root: str | None = None
    run: Path | None = None
    photos: Path | None = None
    one_class: str | None = None
    categories: Path | None = None

    def __post_init__(self) -> None:
        if self.one_class is not None and not self.one_class.strip():
            raise UsageError("--one-class is empty: give the name that all objects are to have.")
        if self.one_class is not None and self.categories is not None:
            raise UsageError("--one-class is one category and --categories are those of a table: omit one of the two.")
        if not 0 <= self.min_score <= 1:  # NaN fails, too
            raise UsageError(f"--min-score is {self.min_score:g}, expected a number from 0 to 1.")


class DatasetWriter(Protocol):
    """A data set that is being written to one folder. It holds no more than a few pictures at a time."""

    def add(self, picture: Picture) -> str | None:
        """Add a picture; or return why it is left out, completing "left out: 2 images that …"."""

    def finish(self) -> str | None:
        """Write what comes after all pictures; return what its user should know, in a sentence, or None."""


@dataclass(frozen=True)
class DatasetFormat:
    """A format that a run can be converted to.

    Attributes
    ----------
    name
        As ``--to`` takes it.
    open
        ``open(folder, survey, settings)`` starts a data set in an empty folder.
    makes
        The names that may stand at the top of that folder. If ``is_file``, the one file that is all of the data set.
    links
        Those of them that are symbolic links.
    cached
        The ending of files that readers leave in it, each beside the folder that it tells of; empty where they do not.
    is_file
        Whether ``--out`` is a file.
    begins
        What all such files begin with, and others do not.
    holds_failed
        Whether images that could not be read can take part.
    """

    name: str
    open: Callable[[DataFolder, Survey, ConversionSettings], DatasetWriter]
    makes: tuple[str, ...]
    links: tuple[str, ...] = ()
    cached: str = ""
    is_file: bool = False
    begins: str = ""
    holds_failed: bool = False
