"""Folders of this machine, walked in an order that is the same everywhere, whatever their size, in bounded memory."""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from pc_engine.errors import ImageError
from pc_engine.sources.image import TRIES, SourceImage, broken_image, local_image, open_regular
from pc_engine.sources.retries import retried
from pc_engine.sources.run_folders import holds_overlays

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".btf", ".gif"}
    | {".avif", ".heic", ".heif", ".hif", ".jp2", ".pbm", ".pgm", ".pnm", ".ppm"}
)
# Photos that are not read: passed over, a folder of them would look as if it were empty. Their rows say it.
_FOREIGN_SUFFIXES = frozenset({".jxl"})
#: Of cameras' raw photos, which are not read either.
RAW_SUFFIXES = frozenset(
    {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".fff", ".gpr", ".iiq", ".kdc", ".mef", ".mos"}
    | {".mrw", ".nef", ".nrw", ".orf", ".ori", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"}
)
_SUFFIXES = IMAGE_SUFFIXES | _FOREIGN_SUFFIXES | RAW_SUFFIXES
# What cameras write beside a raw photo, under the same name.
_BESIDE_RAW = (".JPG", ".jpg", ".HIF", ".HEIC", ".heic", ".JPEG", ".jpeg", ".hif", ".HEIF", ".heif")
# Folders in which systems and disk stations keep small copies of the photos beside them, and what was thrown away.
_OF_COPIES = frozenset({".thumbnails", "@eadir", "$recycle.bin", "#recycle", "system volume information"})
_TRASH = ".trash"
# What Apple's Photos keeps beside the originals, in a folder with this ending: small copies, and edited ones.
_APPLE_LIBRARY, _OF_APPLE_LIBRARY = ".photoslibrary", frozenset({"resources", "previews", "thumbnails"})
# What macOS keeps beside a file on foreign disks, under the file's name with this before it.
_APPLE_DOUBLE = "._"

# How Windows marks a link to a folder that is no symbolic link.
_JUNCTION = 0xA0000003

#: First bytes of TIFF files, of either order of bytes, and of those that may be larger than 4 GB (BigTIFF).
TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
#: First bytes of JPEG 2000: in a file of its own, and bare.
JPEG_2000 = (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")
# PBM, PGM and PPM, as text or in bytes. Two letters alone would take in many a text file.
_PORTABLE = re.compile(rb"P[1-6]\s[\d#]")
# First bytes of the formats that are read, to recognise an image whose name does not say so.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM", *TIFF, *JPEG_2000, b"GIF8")
#: First bytes that `looks_like_image` wants to see.
HEAD_BYTES = 12

#: Folders within folders that are entered: more than any collection has.
DEEPEST = 200

#: Names of one folder that are held at a time. A larger folder is gone through several times.
NAMES_HELD = 32_768


class FolderEntry(NamedTuple):
    """What lies in a folder: its name, whether it is a folder itself, or a link to one, and whether it is a link."""

    name: str
    is_folder: bool
    is_link: bool


#: What tells a folder apart by whatever path it is reached: its device, and its inode or its real path.
Identity = tuple[int, int | str]


class Covered:
    """The folders that a walk comes through with all that lies below them, so that it enters none of these twice.

    Links alone lead to a folder by several paths. One that lies below where the walk began goes by its own path; one
    that lies elsewhere, by that of the first link. So what is held are the links that were followed, and no folders.

    Parameters
    ----------
    folder
        Where the walk begins.
    passes_over
        Whether the walk does not enter a folder of this name in that folder, but by a link.
    elsewhere
        Real paths of folders that other walks begin at: no link is followed into them.
    """

    def __init__(
        self, folder: str, passes_over: Callable[[str, str], bool], elsewhere: frozenset[str] = frozenset()
    ) -> None:
        self._passes_over, self._elsewhere = passes_over, elsewhere
        self._paths: set[str] = set()
        self._identities: set[Identity] = set()
        self._add(folder, os.path.realpath(folder))

    def takes(self, folder: str, *, is_link: bool) -> bool:
        """Whether the walk is to enter a folder that it has come to, by a link or without."""
        if not is_link:
            # A link may have led here before; else this is only where it is.
            return len(self._paths) == 1 or _identity(folder) not in self._identities
        real = os.path.realpath(folder)
        if self._comes_to(real):
            return False
        self._add(folder, real)
        return True

    def _comes_to(self, real: str) -> bool:
        """Whether the folder at a real path is entered anyway, from where a walk began or from where a link led."""
        while real not in self._paths and real not in self._elsewhere:
            above, name = os.path.split(real)
            if above == real or self._passes_over(name, above):
                return False
            real = above
        return True

    def _add(self, folder: str, real: str) -> None:
        self._paths.add(real)
        identity = _identity(folder)
        if identity is not None:
            self._identities.add(identity)


def walk_folder(
    folder: str,
    without: str | None,
    *,
    in_order: bool = True,
    elsewhere: frozenset[str] = frozenset(),
    passed_over: Callable[[str], None] = lambda _: None,
) -> Iterator[SourceImage]:
    """Yield the images in a folder and its subfolders, sorted by name at every level.

    Links to folders are followed, but no folder is entered twice. The pictures that earlier runs drew are none of them,
    nor are thumbnails of telephones and disk stations, or what is in the trash.

    Parameters
    ----------
    folder
        Path of the folder, without a separator at its end.
    without
        Real path of a folder that is not entered.
    in_order
        Whether they are sorted: in any order, a huge folder is gone through only once.
    elsewhere
        Real paths of folders that are gone through for themselves, so that no link is followed into them.
    passed_over
        Called with the path of each file that is none.
    """

    def walk(folder: str, ancestors: frozenset[Identity]) -> Iterator[SourceImage]:
        if is_left_out(folder, without):
            return
        if len(ancestors) > DEEPEST:
            yield broken_image(folder, f"It lies more than {DEEPEST} folders deep: name it as a source of its own.")
            return
        try:
            key = identify(folder)
            if key in ancestors:
                return
            for entry in chain.from_iterable(sorted_entries(folder) if in_order else _any_entries(folder)):
                path = path_of(entry.name, folder)
                if entry.is_folder:
                    if not is_passed_over(entry.name, folder) and covered.takes(path, is_link=entry.is_link):
                        yield from walk(path, ancestors | {key})
                elif _is_image(path):
                    yield local_image(path)
                else:
                    passed_over(path)
        except OSError:
            yield local_image(folder)  # reading it fails with the reason, so that it gets its row

    try:
        covered = Covered(folder, is_passed_over, elsewhere)
    except OSError:  # as where the current folder is gone
        yield local_image(folder)
    else:
        yield from walk(folder, frozenset())


def files_below(folder: Path) -> Iterator[Path]:
    """Yield what files there are in the folders that `walk_folder` enters by no link, in any order."""
    for directory, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_passed_over(name, directory)]
        yield from (Path(directory, name) for name in files)


def images_below(folder: Path, passed_over: Callable[[Path], None] = lambda _: None) -> Iterator[Path]:
    """Yield those of `files_below` whose names say that they can be read, sorted; ``passed_over`` gets the others."""
    for path in sorted(files_below(folder)):
        if can_be_read(path):
            yield path
        else:
            passed_over(path)


def can_be_read(path: Path) -> bool:
    """Whether a file's name says that it is an image, and of a format that is read."""
    return path.suffix.lower() in IMAGE_SUFFIXES and has_image_suffix(path.name)


def sorted_entries(folder: str) -> Iterator[list[FolderEntry]]:
    """Yield what lies in a folder, sorted by name, in groups of at most `NAMES_HELD`; at least one group.

    A folder that holds more is gone through once for each group. What is created or deleted meanwhile may be in or
    not; everything else is in exactly once.

    Raises
    ------
    OSError
        If the folder cannot be listed.
    """
    last: str | None = None
    group: list[FolderEntry] = []
    while last is None or len(group) == NAMES_HELD:
        group = retried(partial(_group_behind, last, folder), TRIES)
        last = group[-1].name if group else ""
        yield group


def _group_behind(last: str | None, folder: str) -> list[FolderEntry]:
    with os.scandir(folder) as scan:
        # Not the system's entries, which are some ten times as large.
        entries = (_entry(entry) for entry in scan if last is None or entry.name > last)
        group = list(islice(entries, NAMES_HELD + 1))
        if len(group) > NAMES_HELD:
            return heapq.nsmallest(NAMES_HELD, chain(group, entries))
    return sorted(group)


def identify(folder: str) -> Identity:
    """Return what tells the folder apart from all others.

    Raises
    ------
    OSError
        If it cannot be looked at.
    """
    status = os.stat(folder)
    # On network drives of Windows all have the inode 0.
    return status.st_dev, status.st_ino or os.path.normcase(os.path.realpath(folder))


def _identity(folder: str) -> Identity | None:
    try:
        return identify(folder)
    except OSError:  # which whoever enters it says
        return None


def path_of(name: str, folder: str) -> str:
    """Return the path of what has this name in ``folder``, as `pathlib` would write it."""
    return name if folder == os.curdir else os.path.join(folder, name)


def is_left_out(folder: str, without: str | None) -> bool:
    """Whether the folder is the one that is not entered."""
    return without is not None and os.path.realpath(folder) == without


def holds_copies(name: str, folder: str) -> bool:
    """Whether a folder of this name in ``folder`` holds copies of photos beside it, or what was thrown away."""
    known = name.lower()
    if known in _OF_APPLE_LIBRARY and folder.rstrip("/").lower().endswith(_APPLE_LIBRARY):
        return True
    return known in _OF_COPIES or known.startswith(_TRASH)


def has_image_suffix(name: str) -> bool:
    """Whether a file's name says that it is an image, be it one that is not read."""
    stem, suffix = os.path.splitext(name)
    return suffix.lower() in _SUFFIXES and not os.path.basename(stem).startswith(_APPLE_DOUBLE)


def lies_beside_its_picture(name: str, exists: Callable[[str], bool] = os.path.lexists) -> bool:
    """Whether a file is a camera's raw photo and the camera's own picture of it ``exists`` beside it."""
    # Asked of every image, and so without `os.path`: these suffixes are all of four letters.
    stem, suffix = name[:-4], name[-4:]
    return suffix.lower() in RAW_SUFFIXES and any(exists(stem + other) for other in _BESIDE_RAW)


def looks_like_image(head: bytes) -> bool:
    """Whether the first `HEAD_BYTES` of a file are those of an image."""
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    if head.startswith(b"BM"):
        # Two letters alone would take in many a text file; a bitmap's reserved bytes 6..9 are zero.
        return head[6:10] == b"\x00\x00\x00\x00"
    return head.startswith(_SIGNATURES) or is_portable(head)


def is_portable(head: bytes) -> bool:
    """Whether a file begins as one of PBM, PGM or PPM does."""
    return _PORTABLE.match(head) is not None


def is_passed_over(name: str, folder: str) -> bool:
    """Whether a folder of this name in ``folder`` holds copies of photos, or what a run has drawn of them."""
    # By its whole path, as "." says nothing of whose library it is.
    return holds_copies(name, os.path.abspath(folder)) or holds_overlays(name, Path(folder))


def _any_entries(folder: str) -> Iterator[Iterator[FolderEntry]]:
    with os.scandir(folder) as scan:
        yield map(_entry, scan)


def _entry(entry: os.DirEntry[str]) -> FolderEntry:
    try:
        return FolderEntry(entry.name, entry.is_dir(), entry.is_symlink() or _is_junction(entry))
    except OSError:  # a symbolic link to itself, or into a folder that may not be entered
        return FolderEntry(entry.name, is_folder=False, is_link=True)


def _is_junction(entry: os.DirEntry[str]) -> bool:
    """Whether it is what Windows has beside symbolic links: there the system has told so with the name."""
    return os.name == "nt" and getattr(entry.stat(follow_symlinks=False), "st_reparse_tag", 0) == _JUNCTION


def _is_image(path: str) -> bool:
    if has_image_suffix(path):
        return not lies_beside_its_picture(path)
    try:
        with open_regular(path) as stream:
            return looks_like_image(stream.read(HEAD_BYTES) or b"")
    except (OSError, ImageError):
        return False
