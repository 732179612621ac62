"""From the words on the command line to a stream of images: files, folders, globs, and ``demo:``.

Listing streams: folders are walked as the run goes on, in an order that is the same on every machine.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from pc_engine.errors import UsageError
from pc_engine.sources.image import SourceImage, local_image

DEMO = "demo:"
DEMO_DIRECTORY = Path(__file__).parents[1] / "embedded" / "demo"

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff", ".gif"})

# First bytes of the formats that are read, to recognise an image whose name does not say so.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM", b"II*\x00", b"MM\x00*", b"GIF8")


def iter_images(
    sources: Iterable[str | os.PathLike[str]], without: str | os.PathLike[str] | None = None
) -> Iterator[SourceImage]:
    """Yield the images of ``sources`` in a stable order.

    A file named directly is yielded whatever its name, so that a bad one gets its row. In a folder, which is walked
    recursively, a file takes part if its suffix or its first bytes are those of an image.

    Parameters
    ----------
    sources
        Folders, files, globs, or ``"demo:"``.
    without
        A folder that is not entered, such as that of the pictures which the run itself writes.

    Raises
    ------
    UsageError
        If a source does not exist or a glob matches nothing. Raised before the first image is yielded.
    """
    checked = [_checked(source) for source in sources]
    if not checked:
        raise UsageError("No source was given: name a folder, a file, a glob such as 'photos/*.jpg', or 'demo:'.")
    return _walk_all(checked, None if without is None else os.path.realpath(without))


def _checked(source: str | os.PathLike[str]) -> str:
    text = os.fspath(source)
    if text == DEMO:
        return os.fspath(DEMO_DIRECTORY)
    if os.path.isdir(text) and not os.access(text, os.R_OK | os.X_OK):
        raise UsageError(f"The folder '{text}' cannot be listed: check its permissions.")
    if os.path.lexists(text) or (glob.has_magic(text) and next(glob.iglob(text, recursive=True), None)):
        return text
    what = "The pattern matches nothing" if glob.has_magic(text) else "There is no file or folder"
    raise UsageError(f"{what}: '{text}'. Name a folder, a file, a glob such as 'photos/*.jpg', or 'demo:'.")


def _walk_all(sources: Iterable[str], without: str | None) -> Iterator[SourceImage]:
    for source in sources:
        if not os.path.lexists(source):
            yield from _walk_matches(source, without)
        else:
            yield from _walk(source, without)


def _walk_matches(pattern: str, without: str | None) -> Iterator[SourceImage]:
    folders: set[PurePath] = set()
    for match in sorted(glob.iglob(pattern, recursive=True)):
        path = PurePath(match)
        # "**" matches a folder and then all that lies in it, which was walked with the folder already.
        if folders.isdisjoint(path.parents):
            if os.path.isdir(match):
                folders.add(path)
            yield from _walk(match, without)


def _walk(source: str, without: str | None) -> Iterator[SourceImage]:
    if os.path.isdir(source):
        yield from _walk_folder(source, without, frozenset())
    else:
        yield local_image(Path(source))


def _walk_folder(folder: str, without: str | None, ancestors: frozenset[tuple[int, int]]) -> Iterator[SourceImage]:
    if without is not None and os.path.realpath(folder) == without:
        return
    try:
        identity = os.stat(folder)
        key = (identity.st_dev, identity.st_ino)
        if key in ancestors:  # a symbolic link that leads back up
            return
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError:
        yield local_image(Path(folder))  # decoding it fails with the reason, so that it gets its row
        return
    for entry in entries:
        if _is_folder(entry):
            yield from _walk_folder(entry.path, without, ancestors | {key})
        elif _looks_like_image(entry):
            yield local_image(Path(entry.path))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symbolic link to itself, or into a folder that may not be entered
        return False


def _looks_like_image(entry: os.DirEntry[str]) -> bool:
    if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
        return True
    try:
        if not entry.is_file():  # never open a FIFO or a device: it may block for ever
            return False
        with open(entry.path, "rb") as stream:
            head = stream.read(12)
    except OSError:
        return False
    if head.startswith(b"RIFF"):
        return head[8:12] == b"WEBP"
    if head.startswith(b"BM"):
        # Two letters alone would take in many a text file; a bitmap's reserved bytes 6..9 are zero.
        return head[6:10] == b"\x00\x00\x00\x00"
    return head.startswith(_SIGNATURES)
