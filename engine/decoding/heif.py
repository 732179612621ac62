"""AVIF pictures and HEIC photos, both files of HEIF (ISO 23008-12): which of them a file is, and whether it is read.

Pillow reads AVIF where it was built with libavif, as its wheels are. A telephone's HEIC is read by the package
pillow-heif, if it is installed.
"""

from __future__ import annotations

import functools
from typing import Literal

from PIL import Image, features

#: Pillow's name of the format.
HeifFormat = Literal["AVIF", "HEIF"]

# The file's first box names its kind, its major brand and, behind a version, the brands that it is compatible with.
_BOX, _MAJOR, _COMPATIBLE, _BRAND = slice(4, 8), 8, 16, 4
_AVIF = (b"avif", b"avis")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
# Of these the compatible brands say what is inside.
_ANY = (b"mif1", b"msf1")
#: First bytes of a file that `heif_format` wants to see.
HEAD_BYTES = 128


def heif_format(head: bytes) -> HeifFormat | None:
    """Return which format the file that begins with ``head`` is in; None if it is no picture of HEIF."""
    if head[_BOX] != b"ftyp":
        return None
    end = min(int.from_bytes(head[: _BOX.start]), HEAD_BYTES)
    brands = [head[start : start + _BRAND] for start in (_MAJOR, *range(_COMPATIBLE, end, _BRAND))]
    if brands[0] in _ANY:
        return "AVIF" if any(brand in _AVIF for brand in brands) else "HEIF"
    if brands[0] in _AVIF:
        return "AVIF"
    return "HEIF" if brands[0] in _HEIC else None


def is_read(name: HeifFormat) -> bool:
    """Whether the format is read here."""
    return bool(features.check("avif")) if name == "AVIF" else _has_heif()


@functools.cache
def _has_heif() -> bool:
    """Let Pillow open HEIC files, and return whether it can."""
    if "HEIF" not in Image.OPEN:
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            return False
        # Each decoding thread has an image of its own. What lies beside the picture in a file is not looked at.
        register_heif_opener(decode_threads=1, thumbnails=False, depth_images=False, aux_images=False)
    return True
