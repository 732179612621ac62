"""Patterns of file names, expanded in the order of a walk and without holding what matches.

Python's own ``glob`` collects and sorts everything first, and its ``**`` follows a link that leads back up until the
system refuses. The rules are the same: ``*``, ``?`` and ``[...]`` stay within a name, ``**`` stands for any number of
folders, and a name that begins with a dot is matched only by a pattern that does.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import has_magic

from pc_engine.sources.folders import (
    DEEPEST,
    Covered,
    FolderEntry,
    Identity,
    identify,
    is_left_out,
    path_of,
    sorted_entries,
)

_ANY_FOLDERS = "**"


@dataclass(frozen=True)
class _Part:
    """What stands between two separators of a pattern: a name, a pattern for one, or ``**`` (no matcher)."""

    text: str
    matcher: re.Pattern[str] | None

    @property
    def is_name(self) -> bool:
        return self.text != _ANY_FOLDERS and not has_magic(self.text)

    def takes(self, name: str) -> bool:
        if name.startswith(".") and not self.text.startswith("."):
            return False
        return self.matcher is None or self.matcher.match(os.path.normcase(name)) is not None


def glob_matches(pattern: str, without: str | None = None) -> Iterator[str]:
    """Yield the paths that match, each once, in the order of a walk that is sorted by name at every level.

    Links to folders are followed, but ``**`` enters no folder twice. What lies in a folder that matches is not yielded
    beside it. A folder that cannot be listed is yielded itself.

    Parameters
    ----------
    pattern
        The pattern; a separator at its end asks for folders.
    without
        Real path of a folder that is not entered.
    """
    drive, rest = os.path.splitdrive(pattern)
    separators = (os.sep, os.altsep or os.sep)
    names = [name for name in re.split("[" + re.escape("".join(separators)) + "]", rest) if name not in ("", ".")]
    root = drive + (os.sep if rest.startswith(separators) else "")
    parts = tuple(_part(name) for name in names)
    if os.path.isdir(root or os.curdir):
        search = _Search(parts, pattern.endswith(separators), without)
        yield from search.enter(root or os.curdir, search.open({0}), frozenset())


@dataclass(frozen=True)
class _Search:
    """One pattern's walk. In each folder some of its parts are open: any of them may match a name in it."""

    parts: tuple[_Part, ...]
    folders_only: bool
    without: str | None

    def open(self, parts: Iterable[int]) -> frozenset[int]:
        """Return ``parts``, and those behind a ``**``, which may stand for no folder at all."""
        opened = set(parts)
        for part in sorted(opened):
            while part < len(self.parts) and self.parts[part].text == _ANY_FOLDERS:
                part += 1
                opened.add(part)
        return frozenset(opened)

    def enter(
        self, folder: str, opened: frozenset[int], ancestors: frozenset[Identity], covered: Covered | None = None
    ) -> Iterator[str]:
        """Yield a folder if it matches, else what matches in it; ``covered`` is what a ``**`` enters that led here."""
        if len(self.parts) in opened:
            yield folder
            return
        first = self.parts[min(opened)]
        if len(opened) == 1 and first.is_name:  # nothing to list, and perhaps no right to
            yield from self._follow(folder, first.text, min(opened) + 1, ancestors)
            return
        if is_left_out(folder, self.without):
            return
        if len(ancestors) > DEEPEST:
            yield folder  # which reads as no image, so that it gets its row
            return
        try:
            key = identify(folder)
            if key in ancestors:
                return
            if covered is None and any(self.parts[part].text == _ANY_FOLDERS for part in opened):
                covered = Covered(folder, _is_hidden)
            for entries in sorted_entries(folder):
                for entry in entries:
                    yield from self._try(entry, folder, opened, ancestors | {key}, covered)
        except OSError:
            yield folder

    def _follow(self, folder: str, name: str, behind: int, ancestors: frozenset[Identity]) -> Iterator[str]:
        path = path_of(name, folder)
        if os.path.isdir(path):
            yield from self.enter(path, self.open({behind}), ancestors)
        elif behind == len(self.parts) and not self.folders_only and os.path.lexists(path):
            yield path

    def _try(
        self,
        entry: FolderEntry,
        folder: str,
        opened: frozenset[int],
        ancestors: frozenset[Identity],
        covered: Covered | None,
    ) -> Iterator[str]:
        taken = [part for part in opened if self.parts[part].takes(entry.name)]
        if not taken:
            return
        path = path_of(entry.name, folder)
        if entry.is_folder:
            onwards = {part for part in taken if self.parts[part].text == _ANY_FOLDERS}
            behind = {part + 1 for part in taken if part not in onwards}
            if covered is not None and onwards and not covered.takes(path, is_link=entry.is_link):
                onwards = set()
            if onwards or behind:
                # Where no "**" led to the folder, one that begins there enters what it finds.
                yield from self.enter(path, self.open(onwards | behind), ancestors, covered if onwards else None)
        elif max(taken) + 1 == len(self.parts) and not self.folders_only:
            yield path


def _is_hidden(name: str, _: str) -> bool:
    return name.startswith(".")


def _part(text: str) -> _Part:
    if text == _ANY_FOLDERS:
        return _Part(text, None)
    return _Part(text, re.compile(fnmatch.translate(os.path.normcase(text))))
