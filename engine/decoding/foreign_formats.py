"""What a file is whose format is not read here, by its first bytes: its row then says so, and what to do."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from pc_engine.decoding.heif import heif_format
from pc_engine.sources.folders import TIFF

#: What `name_format` calls a raw photo of a camera.
RAW_PHOTO = "a camera's raw photo"
# Formats that are programs or pages for others to draw, and pictures that other libraries read.
_BY_SIGNATURE = (
    (b"%!PS", "an EPS or PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "an EPS file"),
    (b"%PDF", "a PDF file"),
    (b"8BPS", "a Photoshop file"),
    (b"gimp xcf", "a GIMP file"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"II\xbc\x01", "a JPEG XR picture"),
    (b"v/1\x01", "an OpenEXR picture"),
    (b"#?RADIANCE", "a Radiance picture"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"qoif", "a QOI picture"),
    (b"DDS ", "a DirectDraw texture"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a compressed file"),
    (b"BZh", "a compressed file"),
    (b"\xfd7zXZ\x00", "a compressed file"),
    (b"\x28\xb5\x2f\xfd", "a compressed file"),  # zstd
    (b"7z\xbc\xaf\x27\x1c", "a compressed file"),
    (b"Rar!\x1a\x07", "a compressed file"),
    (b"\x1aE\xdf\xa3", "a video"),
    (b"FUJIFILMCCD-RAW", RAW_PHOTO),
    (b"IIRO", RAW_PHOTO),  # Olympus
    (b"IIRS", RAW_PHOTO),
    (b"MMOR", RAW_PHOTO),
    (b"IIU\x00", RAW_PHOTO),  # Panasonic and Leica
    (b"II\x1a\x00\x00\x00HEAPCCDR", RAW_PHOTO),  # Canon, before 2004
    (b"\x00MRM", RAW_PHOTO),  # Minolta
    (b"FOVb", RAW_PHOTO),  # Sigma
)
# What holds files is no picture to convert, and photos of telephones come by thousands.
_ADVICE = {
    RAW_PHOTO: "develop it to JPEG or TIFF",
    "a ZIP archive": "name it as zip://::FILE, or unpack it",
    "a compressed file": "unpack it",
    "a HEIC photo": "install what reads it with pip install 'pc-engine[heif]'",
}
# By the formats of `pc_engine.decoding.heif`.
_HEIF = {"AVIF": "an AVIF picture", "HEIF": "a HEIC photo"}
# ISO base media, and its brand of Canon's CR3.
_BOX, _CR3 = b"ftyp", b"crx "
# Nothing of it is tried twice: text made for that would take for ever.
_SVG = re.compile(
    rb"(?>\s+|<\?xml\b[^>]*>|<!--.*?-->|<!DOCTYPE\b[^\[>]*(?:\[.*?\])?\s*>)*+<svg\b", re.DOTALL | re.IGNORECASE
)
_TEXT_SEEN = 4096
# Most raw photos of cameras are TIFF files whose first picture is a preview, often a small one, or the values of the
# sensor: tags of TIFF say so, and the letters that Canon and Phase One put behind its header.
_SUBFILE, _REDUCED, _SUB_FILES, _DNG_VERSION = 254, 1, 330, 50706
_PHOTOMETRIC, _OF_A_SENSOR = 262, (32803, 34892)
_BIG_TIFF = b"+"
_BEHIND_HEADER, _BEHIND_HEADER_AT = (b"CR", b"IIII", b"MMMM"), 8


def advice_on(name: str, read: str) -> str:
    """Return what to do with a file of which `name_format` gave ``name``; ``read`` lists the formats that are read."""
    return _ADVICE.get(name, f"convert it to one of {read}")


def is_raw_photo(data: bytes, tags: Mapping[int, Any]) -> bool:
    """Whether a TIFF file with these tags is a camera's raw photo, of which Pillow would read a preview at best."""
    if _DNG_VERSION in tags or data.startswith(_BEHIND_HEADER, _BEHIND_HEADER_AT):
        return True
    if tags.get(_PHOTOMETRIC) in _OF_A_SENSOR:
        return True
    subfile = tags.get(_SUBFILE)
    return isinstance(subfile, int) and bool(subfile & _REDUCED) and _SUB_FILES in tags


def name_format(data: bytes) -> str | None:
    """Return what a file is, as in "a PDF file", if it is known and not read here; else None."""
    for signature, name in _BY_SIGNATURE:
        if data.startswith(signature):
            return name
    if data.startswith(TIFF):
        return RAW_PHOTO if is_raw_photo(data, first_tags(data)) else None
    if data[4:8] == _BOX:
        if data[8:12] == _CR3:
            return RAW_PHOTO
        boxed = heif_format(data)
        return "a video" if boxed is None else _HEIF[boxed]
    return "an SVG drawing" if _SVG.match(data[:_TEXT_SEEN].removeprefix(codecs.BOM_UTF8)) else None


def first_tags(data: bytes) -> Mapping[int, Any]:
    """Return the tags of the first picture of a TIFF file that Pillow does not open; none where they make no sense."""
    try:
        tags = ImageFileDirectory_v2(data[:16] if _BIG_TIFF in data[2:4] else data[:8])
        stream = BytesIO(data)
        stream.seek(tags.next)
        tags.load(stream)
        return dict(tags)
    except Exception:  # Pillow raises whatever the bytes lead it to
        return {}
