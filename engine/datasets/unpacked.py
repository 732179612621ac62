"""The images of archives that were unpacked, by the names that a run over the archives gave them.

Each archive is looked for in a folder that is called as it is, without its ending or with it; the only one of a run in
the folder itself, too.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pc_engine.datasets.records import is_file
from pc_engine.sources.stored_names import original_name
from pc_engine.sources.tar_shards import without_repeat

_SCHEMES = ("tar", "zip")
_ENDINGS = (".tar.gz", ".tgz", ".tar", ".zip")


@dataclass(frozen=True)
class Member:
    """An image in an archive.

    Attributes
    ----------
    path
        As its row names it.
    archive
        The path or address of the archive.
    name
        What it is called in there.
    number
        Which of those of this name it is, from 1 on.
    """

    path: str
    archive: str
    name: str
    number: int


def member_of(path: str) -> Member | None:
    """Return the image in an archive that a row's path names; None for any other, and for one deeper inside."""
    scheme, _, rest = path.partition("://")
    name, separator, last = rest.rpartition("::")
    if scheme.lower() not in _SCHEMES or not separator or "://" in name:
        return None
    archive, number = without_repeat(last)
    return Member(path, archive, name, number)


class UnpackedArchives:
    """Finds images below a folder that the archives of a run were unpacked in.

    Parameters
    ----------
    folder
        That folder; None for none, where nothing is found.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else folder.absolute()
        self._archives: set[str] = set()
        self._called: Counter[str] = Counter()
        # Of several images of one name the last one is unpacked, and nothing says which one a file is.
        self._repeated: set[tuple[str, str]] = set()

    def note(self, member: Member) -> None:
        """Learn of an image of the run; of all of them before the first is looked for."""
        if member.archive not in self._archives:
            self._archives.add(member.archive)
            self._called[_stem(member)] += 1
        if member.number > 1:
            self._repeated.add((member.archive, member.name))

    def file(self, member: Member) -> Path | None:
        """Return the file that an image was unpacked to; None where it is not there, or might be another image's."""
        if self._is_repeated(member):
            return None
        parts = [part for part in PurePosixPath(member.name).parts if part != "/"]
        if not parts or ".." in parts:
            return None
        places = (folder.joinpath(*map(how, parts)) for folder in self._folders(member) for how in (str, original_name))
        return next((place for place in places if is_file(place)), None)

    def why_not(self, member: Member) -> str:
        """Return why an image is not found, and what to do."""
        stem = _stem(member)
        if self._is_repeated(member):
            why = "its archive holds several images of that name"
        elif self._called[stem] > 1:
            why = f"several archives of the run are called {stem}"
        else:
            return f"it is not in {self._folder}: unpack its archive to a folder {stem} in there"
        return f"{why}, so the files do not tell which it is: run on copies in a folder, and review that run"

    def _is_repeated(self, member: Member) -> bool:
        return (member.archive, member.name) in self._repeated

    def _folders(self, member: Member) -> Iterator[Path]:
        if self._folder is None:
            return
        if self._called[_stem(member)] == 1:
            yield self._folder / _stem(member)
            yield self._folder / _name(member)
        if len(self._archives) == 1:
            yield self._folder


def _name(member: Member) -> str:
    return member.archive.replace(os.sep, "/").rpartition("/")[2]


def _stem(member: Member) -> str:
    name = _name(member)
    ending = next((ending for ending in _ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)] or name
