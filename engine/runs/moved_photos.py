"""Photos that lie elsewhere than in the run: on another machine, under another mount, in a folder of another name."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from pc_engine.errors import UsageError
from pc_engine.runs.partition_names import partitions_of
from pc_engine.runs.writers import rows_of
from pc_engine.sources.addresses import is_address
from pc_engine.sources.parquet_shards import row_of
from pc_engine.sources.stored_names import original_name
from pc_engine.sources.tar_shards import without_repeat


class MovedPhotos:
    """Tells where a photo of a run lies, now that all of them are below another folder.

    They are there by their names below the folder that they shared in the run, or, which the first one that is found
    tells, below one of the folders above that.

    Parameters
    ----------
    directory
        The run directory.
    folder
        Where the photos lie now.

    Raises
    ------
    UsageError
        If there is no such folder.
    """

    def __init__(self, directory: Path, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError(f"There is no folder {folder}: name the one that the photos are in now.")
        self._folder = folder.absolute()
        self._shared = _shared_by_photos(directory)
        # How many names of a path are those of folders above, which are gone, if all goes as the user says.
        self._levels = [len(self._shared)]
        for name in reversed(self._shared):
            if name == ".." or not PurePath(name).name:
                break
            self._levels.append(self._levels[-1] - 1)

    def path(self, path: str) -> str:
        """Return where the file lies that a row's path names; the path as it is where it was none of the shared folder.

        ``path`` is that of a file, of a row of a Parquet file, or of an archive.
        """
        parts = PurePath(path).parts
        if parts[: len(self._shared)] != self._shared:
            return path
        for level in self._levels:
            now = os.fspath(self._folder.joinpath(*parts[level:]))
            if photo_is_there(now) or photo_is_there(original_name(now)):
                self._levels = [level]
                return now
        return os.fspath(self._folder.joinpath(*parts[self._levels[0] :]))


def shared_folder(folder: tuple[str, ...] | None, place: tuple[str, ...]) -> tuple[str, ...]:
    """Return the innermost folder of a file and of those before, whose own is ``folder`` (None: there were none).

    A place is a tuple of names, outermost first.
    """
    if folder is None:
        return place[:-1]
    if place[: len(folder)] == folder and len(place) > len(folder):
        return folder
    pairs = zip(folder, place[:-1], strict=False)
    return tuple(name for name, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _shared_by_photos(directory: Path) -> tuple[str, ...]:
    shared: tuple[str, ...] | None = None
    for file in _files(directory):
        shared = shared_folder(shared, PurePath(file).parts)
    return shared or ()


def _files(directory: Path) -> Iterator[str]:
    """Yield the file of every photo: itself, or what it is a part of; nothing for what is at an address."""
    for partition in partitions_of(directory):
        for row in rows_of(partition, ("path", "status")):
            if row["status"] != "ok":
                continue
            path = row["path"]
            if is_address(path):
                path, _ = without_repeat(path.rpartition("::")[2])
            if not is_address(path):
                yield path


def photo_is_there(path: str | Path) -> bool:
    """Whether there is the file that a row's path names, or that of which it names a row."""
    return os.path.lexists(path) or ((row := row_of(os.fspath(path))) is not None and os.path.lexists(row[0]))
