"""The folders that a run directory has rows of: the same photos by other names would be counted once more."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pc_engine.errors import UsageError

#: Of ``run.json``: what `named_folders` returns, of all runs into the directory.
FOLDERS = "folders"


def named_folders(sources: Iterable[str]) -> dict[str, str]:
    """Return the folders of what is named and lies on this machine: by their real paths, what names begin with.

    Rows are compared by the names that they give their images, which are as the sources were given.
    """
    found: dict[str, str] = {}
    for source in sources:
        if os.path.lexists(source):
            folder = source if os.path.isdir(source) else os.path.dirname(source) or os.curdir
            found.setdefault(os.path.realpath(folder), os.path.normpath(folder))
    return found


def with_earlier_folders(known: Mapping[str, Any], folders: Mapping[str, str], directory: Path) -> dict[str, str]:
    """Return ``folders`` and those of earlier runs, of which ``known`` is the ``run.json``.

    Raises
    ------
    UsageError
        If a folder is named otherwise than before.
    """
    earlier = known.get(FOLDERS)
    before = earlier if isinstance(earlier, dict) else {}
    for real, name in folders.items():
        for other, its_name in before.items():
            if isinstance(its_name, str) and not _go_together(real, name, other, its_name):
                raise UsageError(
                    f"{directory} has rows of the photos in {its_name}, which are in {name} by another name: name them "
                    f"as before, so that none is counted twice, or choose another folder."
                )
    return {**before, **folders}


def _go_together(real: str, name: str, other: str, its_name: str) -> bool:
    """Whether images that are in both folders, if there are any, have one name in both."""
    if (real + os.sep).startswith(other.rstrip(os.sep) + os.sep):
        return name == os.path.normpath(os.path.join(its_name, os.path.relpath(real, other)))
    if (other + os.sep).startswith(real.rstrip(os.sep) + os.sep):
        return its_name == os.path.normpath(os.path.join(name, os.path.relpath(other, real)))
    return True
