"""The folders that a run directory has rows of: the same photos by other names would be counted once more."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pc_engine.errors import UsageError
from pc_engine.sources.addresses import local_path

#: Of ``run.json``: what `named_folders` returns, of all runs into the directory.
FOLDERS = "folders"


def named_folders(sources: Iterable[str]) -> dict[str, str]:
    """Return the folders of this machine among sources: by their real paths, what the names of their images begin with.

    That is as the source was given.
    """
    found: dict[str, str] = {}
    for source in sources:
        path = source if os.path.lexists(source) else local_path(source)
        if path is not None and os.path.isdir(path):
            found.setdefault(os.path.realpath(path), str(Path(path)))
    return found


def with_earlier_folders(
    own: Mapping[str, Any], every: Iterable[Mapping[str, Any]], sources: Iterable[str], directory: Path
) -> dict[str, str]:
    """Return the folders of this run and of those before it, for its ``run.json``.

    Parameters
    ----------
    own
        The ``run.json`` of the run that goes on; empty where it begins anew.
    every
        It, and those of other shards.
    sources
        What is run now.
    directory
        The run directory.

    Raises
    ------
    UsageError
        If photos that have rows are named otherwise now.
    """
    now = named_folders(sources)
    for state in every:
        if _has_rows(state):
            for name, its_name in _named_otherwise(now, _folders(state)):
                raise UsageError(
                    f"{directory} has rows of the photos in {its_name}, which are in {name} under another name: name "
                    "them as before, so that none is counted twice, or choose another folder."
                )
    return {**(_folders(own) if _has_rows(own) else {}), **now}


def lost_folders(every: Iterable[Mapping[str, Any]], sources: Iterable[str]) -> list[str]:
    """Return the folders of photos with rows that are gone, by the names they had, where another folder is new.

    One that was renamed is a new one: its photos would be counted once more.
    """
    now = named_folders(sources)
    before = {real: name for state in every if _has_rows(state) for real, name in _folders(state).items()}
    if now.keys() <= before.keys():
        return []
    return [name for real, name in before.items() if not os.path.isdir(real)]


def _has_rows(state: Mapping[str, Any]) -> bool:
    """Whether a run, by its ``run.json``, has brought any rows into its directory."""
    rows, waiting = state.get("n"), state.get("waiting", 0)
    return isinstance(rows, int) and rows > (waiting if isinstance(waiting, int) else 0)


def _folders(state: Mapping[str, Any]) -> dict[str, str]:
    found = state.get(FOLDERS)
    found = found if isinstance(found, dict) else {}
    return {real: name for real, name in found.items() if isinstance(name, str)}


def _named_otherwise(now: Mapping[str, str], before: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the names of folders, now and before, of which one lies in the other and that name its images otherwise.

    What was named as it is now goes on, whatever else was named beside it.
    """
    new = {real: name for real, name in now.items() if before.get(real) != name}
    for real, name in new.items():
        for outer, rest in _with_parents(real):
            if outer in before and str(Path(before[outer], rest)) != name:
                yield name, before[outer]
    for real, name in before.items():
        for outer, rest in _with_parents(real):
            if outer in new and str(Path(new[outer], rest)) != name:
                yield new[outer], name


def _with_parents(real: str) -> Iterator[tuple[str, str]]:
    """Yield a folder and each that it lies in, with the path from there."""
    path = Path(real)
    for outer in (path, *path.parents):
        yield str(outer), str(path.relative_to(outer))
