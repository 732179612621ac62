"""Files that something is written to: what lies there already may be all that someone has of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pc_engine.errors import UsageError, system_reason
from pc_engine.runs.partition_names import partitions_of
from pc_engine.runs.run_directory import is_own_file

# Bytes that tell who wrote a file.
_BEGINNING = 8192


def check_no_file_of_a_run(file: Path) -> None:
    """Raise UsageError if ``file`` is called as what a run writes, and its folder holds the rows of one.

    It would take the place of rows, or be read as some.
    """
    if is_own_file(file.name) and partitions_of(file.parent):
        raise UsageError(f"{file} would be taken for a file of the run in its folder: choose another name.")


def check_replaceable(file: Path, is_own: Callable[[str], bool], wrote: str) -> None:
    """Raise UsageError if ``file`` exists and holds what is not to be replaced.

    Parameters
    ----------
    file
        What is to be written; it is no folder.
    is_own
        Whether a file that begins with this text may be replaced; an empty one may.
    wrote
        Who wrote such files, completing "no … wrote it".
    """
    if not os.path.lexists(file):
        return
    try:
        is_known = file.is_file() and _is_empty_or(is_own, file)
    except OSError as error:
        raise UsageError(f"{file} exists and cannot be read ({system_reason(error)}): choose another name.") from None
    if not is_known:
        raise UsageError(f"{file} exists, and no {wrote} wrote it: choose another name.")


def _is_empty_or(is_own: Callable[[str], bool], file: Path) -> bool:
    with file.open("rb") as stream:
        beginning = stream.read(_BEGINNING)
    return not beginning or is_own(beginning.decode("utf-8", "replace"))
