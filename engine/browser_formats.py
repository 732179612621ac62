"""Which photos browsers show when they are given the file, as pages do that refer to photos where they lie."""

from __future__ import annotations

from pathlib import Path, PurePath

# Safari shows these two, other browsers do not.
_HIDDEN = frozenset({".heic", ".heif", ".hif", ".tif", ".tiff"})
_WEBP = ".webp"
# The chunk that tells what else is in a WebP file stands first where there is such a thing; Exif data is one.
_EXTENDED, _FLAGS, _EXIF = b"VP8X", 20, 0x08


def is_shown(name: str) -> bool:
    """Whether browsers show a file of this name, by its ending."""
    return PurePath(name).suffix.lower() not in _HIDDEN


def is_shown_upright(file: Path) -> bool:
    """Whether browsers show a file as it is displayed here; of one that is not there, whether they would by its name.

    They leave the orientation in a WebP's Exif data aside, so one that has such data is not.
    """
    if file.suffix.lower() != _WEBP:
        return is_shown(file.name)
    try:
        with file.open("rb") as stream:
            head = stream.read(_FLAGS + 1)
    except (OSError, ValueError):  # ValueError: a name that no file system can hold
        return True
    return not (head[12:16] == _EXTENDED and len(head) > _FLAGS and head[_FLAGS] & _EXIF)
