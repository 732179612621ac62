"""What an image is called in a data set: its place below the folder that all images share.

A place is a tuple of names, outermost first: ``("/", "data", "a.jpg")`` for ``/data/a.jpg``, ``("s3://", "bucket",
"a.jpg")`` for a URL, and for an image in an archive first the archive's place, then the image's in it.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePath

from pc_engine.runs.photos import RunPhotos
from pc_engine.sources import IMAGE_SUFFIXES
from pc_engine.sources.addresses import SCHEME, is_address

Place = tuple[str, ...]

# What no name of a file may hold, and what would let it leave its folder.
_FORBIDDEN = str.maketrans(dict.fromkeys('\0/\\:*?"<>|' if os.name == "nt" else "\0/", "_"))


def place_of(path: str) -> Place:
    """Return the place of an image that a row names."""
    if SCHEME.match(path) is None:
        return PurePath(path).parts
    # "tar://img.jpg::/data/shard.tar" names what is inside first.
    return tuple(part for link in reversed(path.split("::")) for part in _link_parts(link))


def _link_parts(link: str) -> Place:
    scheme = SCHEME.match(link)
    if scheme is None:
        return PurePath(link).parts
    names = tuple(name for name in link[scheme.end() :].split("/") if name not in ("", "."))
    # An archive's scheme says nothing about where the archive is.
    return names if scheme.group().lower() in ("tar://", "zip://") else (scheme.group(), *names)


def name_of(place: Place) -> str:
    """Return a place as one text with slashes."""
    root = place[0] if place and place[0].endswith(("/", os.sep)) else ""
    return root + "/".join(place[1:] if root else place)


def has_line_break(name: str) -> bool:
    """Whether a list with a line for each name would not give it back; a line break may also be the last letter."""
    return name.splitlines() != [name]


def local_folder(folder: Place, path: str, photos: RunPhotos) -> Path | None:
    """Return the folder at a place, found by the image ``path`` below it; None if it is none of this machine's."""
    file, place = photos.file(path), place_of(path)
    # The present folder is there, whatever lies in it.
    if file is None or place[: len(folder)] != folder or (not folder and photos.is_gone(path)):
        return None
    found = Path(*file.parts[: len(file.parts) - len(place) + len(folder)])
    return found if found.is_dir() else None


def place_among(folder: str, path: str, photos: RunPhotos) -> tuple[Place, Place]:
    """Return the place of a folder as a run names it whose row names ``path``, and what relative paths lie below in it.

    That is a relative place among relative paths, which lie below nothing then. Of a folder above the one that they
    begin in it is the absolute one, and that other folder's, for `placed`.
    """
    named = place_of(folder)
    is_named = bool(named) and _is_below(path, named)
    if is_named or is_address(folder) or is_address(path):
        return named, ()
    absolute = os.path.abspath(folder)
    start = local_folder((), path, photos)
    if os.path.isabs(path) or start is None:
        return place_of(absolute), ()
    try:
        relative = place_of(os.path.relpath(absolute, start))
    except ValueError:  # it is on another drive
        relative = place_of(absolute)
    return (relative, ()) if _is_below(path, relative) else (place_of(absolute), place_of(os.fspath(start)))


def _is_below(path: str, folder: Place) -> bool:
    return place_of(path)[: len(folder)] == folder


def placed(path: str, start: Place) -> Place:
    """Return the place of an image; where its path is a relative one, below the folder ``start`` that it begins in."""
    place = place_of(path)
    if not start or any(PurePath(name).is_absolute() or SCHEME.fullmatch(name) for name in place[:1]):
        return place
    while place[:1] == ("..",):
        start, place = start[: max(len(start) - 1, 1)], place[1:]  # above the root is the root
    return (*start, *place)


def label_file(place: Place, suffix: str) -> PurePath:
    """Return the relative path of the file with an image's labels: the image's, with another ending.

    It never leads out of the folder that it is put into. Only the ending of an image's name is replaced, so that
    ``rows.parquet#1`` and ``rows.parquet#2`` stay apart.
    """
    *folders, name = (_harmless(part) for part in place)
    stem, dot, ending = name.rpartition(".")
    if stem and f"{dot}{ending}".lower() in IMAGE_SUFFIXES:
        name = stem
    return PurePath(*folders, name + suffix)


def _harmless(name: str) -> str:
    name = name.rstrip("/:") if SCHEME.fullmatch(name) else name
    return "_" * len(name) if name in (".", "..") else name.translate(_FORBIDDEN)
