"""What a file is whose format is not read here, by its first bytes: its row then says so, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pc_engine.heif import heif_format

# Formats that are programs or pages for others to draw, and pictures that other libraries read.
_BY_SIGNATURE = (
    (b"%!PS", "an EPS or PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (b"%PDF", "a PDF file"),
    (b"8BPS", "a Photoshop file"),
    (b"gimp xcf", "a GIMP file"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"II\xbc\x01", "a JPEG XR picture"),
    (b"v/1\x01", "an OpenEXR picture"),
    (b"#?RADIANCE", "a Radiance picture"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"qoif", "a QOI picture"),
    (b"DDS ", "a DirectDraw texture"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a compressed file"),
    (b"\x1aE\xdf\xa3", "a video"),
)
# What holds files is no picture to convert, and photos of telephones come by thousands.
_ADVICE = {
    "a ZIP archive": "name it as zip://::FILE, or unpack it",
    "a compressed file": "unpack it",
    "a HEIC photo": "install what reads it with pip install 'pc-engine[heif]'",
}
# By the formats of `pc_engine.heif`.
_HEIF = {"AVIF": "an AVIF picture", "HEIF": "a HEIC photo"}
# ISO base media.
_BOX = b"ftyp"
# Nothing of it is tried twice: text made for that would take for ever.
_SVG = re.compile(
    rb"(?>\s+|<\?xml\b[^>]*>|<!--.*?-->|<!DOCTYPE\b[^\[>]*(?:\[.*?\])?\s*>)*+<svg\b", re.DOTALL | re.IGNORECASE
)
_TEXT_SEEN = 4096
# Raw photos of cameras are TIFF files whose first picture is a preview, often a small one: tags of TIFF say so, and the
# letters that Canon puts behind its header.
_SUBFILE, _REDUCED, _SUB_FILES, _DNG_VERSION = 254, 1, 330, 50706
_CANON, _CANON_AT = b"CR", 8
_MARK = b"\xef\xbb\xbf"


def advice_on(name: str, read: str) -> str:
    """Return what to do with a file of which `name_format` gave ``name``; ``read`` lists the formats that are read."""
    return _ADVICE.get(name, f"convert it to one of {read}")


def is_raw_photo(data: bytes, tags: Mapping[int, Any]) -> bool:
    """Whether a TIFF file with these tags is a camera's raw photo, of which Pillow would read a preview."""
    if _DNG_VERSION in tags or data.startswith(_CANON, _CANON_AT):
        return True
    subfile = tags.get(_SUBFILE)
    return isinstance(subfile, int) and bool(subfile & _REDUCED) and _SUB_FILES in tags


def name_format(data: bytes) -> str | None:
    """Return what a file is, as in "a PDF file", if it is known and not read here; else None."""
    for signature, name in _BY_SIGNATURE:
        if data.startswith(signature):
            return name
    if data[4:8] == _BOX:
        boxed = heif_format(data)
        return "a video" if boxed is None else _HEIF[boxed]
    return "an SVG drawing" if _SVG.match(data[:_TEXT_SEEN].removeprefix(_MARK)) else None
