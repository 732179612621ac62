"""Which photos browsers show when they are given the file, as pages do that refer to photos where they lie."""

from __future__ import annotations

from pathlib import Path, PurePath

from pc_engine.decoding.heif import HEAD_BYTES, heif_format
from pc_engine.errors import ImageError
from pc_engine.sources.folders import JPEG_2000, TIFF, is_portable
from pc_engine.sources.image import open_regular

# Safari shows HEIC, TIFF and JPEG 2000, other browsers do not.
_HIDDEN = frozenset({".heic", ".heif", ".hif", ".tif", ".tiff", ".btf", ".jp2", ".pbm", ".pgm", ".pnm", ".ppm"})
# The chunk that tells what else is in a WebP file stands first where there is such a thing; Exif data is one.
_WEBP, _EXTENDED, _FLAGS, _EXIF = b"WEBP", b"VP8X", 20, 0x08


def is_shown(name: str) -> bool:
    """Whether browsers show a file of this name, by its ending."""
    return PurePath(name).suffix.lower() not in _HIDDEN


def is_shown_upright(file: Path) -> bool:
    """Whether browsers show a file as it is displayed here, by its first bytes: HEIC photos may be called ``a.jpg``.

    They leave the orientation in a WebP's Exif data aside, so one that has such data is not. A file that cannot be read
    is taken by its name.
    """
    try:
        with open_regular(file) as stream:
            head = stream.read(HEAD_BYTES)
    except (OSError, ValueError, ImageError):  # ValueError: a name that no file system can hold
        return is_shown(file.name)
    if head[8:16] == _WEBP + _EXTENDED:
        return len(head) > _FLAGS and not head[_FLAGS] & _EXIF
    return heif_format(head) != "HEIF" and not head.startswith((*TIFF, *JPEG_2000)) and not is_portable(head)
