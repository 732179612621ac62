"""The pictures in a run's folder ``overlays``: how they are called, and so which files there are not a run's to remove.

``beach-0123456789ab.jpg``: the photo's own name, and a digest of its path, as names repeat between folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pc_engine.sources.folders import can_be_read
from pc_engine.sources.resolve import image_stem
from pc_engine.sources.run_folders import OVERLAYS

# In bytes, as file systems limit a name to 255 of them.
_LONGEST_STEM = 120
# Of the path's digest: enough to tell a million photos of one name apart.
_DIGEST_BYTES = 6
_UNDECODABLE = re.compile("[\ud800-\udfff]")
_NAME = re.compile(rf".*-[0-9a-f]{{{2 * _DIGEST_BYTES}}}\.jpg", re.DOTALL)


def picture_name(image: str) -> str:
    """Return the name of the picture that is drawn of the image that a row's ``path`` names; it is always the same."""
    # No "?" in place of what cannot be decoded: Windows has no such names.
    stem = _UNDECODABLE.sub("_", image_stem(image)).encode()[:_LONGEST_STEM].decode("utf-8", "ignore")
    return f"{stem}-{hashlib.blake2b(os.fsencode(image), digest_size=_DIGEST_BYTES).hexdigest()}.jpg"


def remove_pictures(directory: Path) -> int:
    """Remove the pictures that a run drew, and their folder if nothing else is in it; return how many they were."""
    removed = 0
    for path in _files(directory / OVERLAYS):
        if _NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)
            removed += 1
    if removed:
        with contextlib.suppress(OSError):  # there is something else
            (directory / OVERLAYS).rmdir()
    return removed


def undrawn_picture(directory: Path) -> str | None:
    """Return the name of an image in the folder ``overlays`` of a directory that no run drew; None if there is none."""
    names = (path.name for path in _files(directory / OVERLAYS) if can_be_read(path))
    return min((name for name in names if not _NAME.fullmatch(name)), default=None)


def _files(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):  # there is no such folder
        yield from (path for path in folder.iterdir() if path.is_file())
