"""JPEG 2000 of more than 8 bits: what a file says of its depth, which Pillow does not tell, and white that it loses."""

from __future__ import annotations

import re
from io import BytesIO

from PIL import Image, ImageChops

# The codestream of a file of boxes, whose length takes 4 bytes or 8 more; it begins with the marker segments SOC and
# SIZ (ISO/IEC 15444-1, annexes A.5.1 and I.5.4). Other files are a codestream and no more.
_BEGIN = b"\xff\x4f\xff\x51"
_BOX = re.compile(rb"jp2c(?:.{8})?(?=" + re.escape(_BEGIN) + rb")", re.DOTALL)
# Where in the codestream the number of components is, and the depth of the first, each of which has 3 bytes.
_COMPONENTS, _FIRST_DEPTH, _DEPTH_STEP = 40, 42, 3
_SIGNED = 0x80  # beside a depth
_EIGHT, _BITS = 8, 16
_COD, _TILE = b"\xff\x52", b"\xff\x90"
_WAVELETS = 13  # where they are said, from the marker COD on
# Tables by which 8-bit values are looked up: which are black, and which are in the brighter half.
_BLACK = [255, *[0] * 255]
_BRIGHT = [*[0] * 128, *[255] * 128]
# By the number of channels, measured on 9 megapixels.
_BYTES = {1: 16, 2: 21, 3: 20, 4: 25}
_BYTES_OF_DEEP = {1: 16, 2: 24, 3: 31, 4: 38}


def white_in_sixteen(data: bytes) -> int | None:
    """Return what white is once Pillow has brought a greyscale picture to 16 bits, by shifting its values.

    None if it was of 16 bits from the start, or says nothing that makes sense: then its values tell.
    """
    depths = _depths(data)
    if not depths:
        return None
    depth = (data[depths[0]] & ~_SIGNED) + 1
    if depth == _BITS:
        return None
    return ((1 << depth) - 1) << (_BITS - depth) if depth < _BITS else (1 << _BITS) - 1


def bytes_per_pixel(channels: int, data: bytes) -> int:
    """Return what Pillow and `with_whites` take at their worst: 32 bits for each channel, and the copies."""
    return _BYTES_OF_DEEP[channels] if _deep(data) else _BYTES[channels]


def with_whites(picture: Image.Image, data: bytes) -> Image.Image:
    """Return a picture of 8 bits that Pillow has decoded from a file of more, with white where it has black instead.

    Pillow rounds values to 8 bits, and takes 256 for 0: a file that has black is decoded once more, as of another depth
    than it says. Values of a lossy one are in proportion to its depth, so that one of 8 bits needs no rounding. Those
    of a lossless one are not: with one bit more they are from 64 to 191, and black that is bright there was white.
    """
    deep = _deep(data)
    bands = picture.split()
    if not deep or picture.mode in ("P", "PA") or all(band.getextrema()[0] for band in bands):
        return picture
    lossless, changed = _is_lossless(data), bytearray(data)
    for place in deep:
        changed[place] = data[place] + 1 if lossless else data[place] & _SIGNED | (_EIGHT - 1)
    with Image.open(BytesIO(changed), formats=("JPEG2000",)) as other:
        others = other.split()
    if not lossless:
        return Image.merge(picture.mode, others)
    return Image.merge(picture.mode, [_with_white(*pair) for pair in zip(bands, others, strict=True)])


def _with_white(band: Image.Image, darker: Image.Image) -> Image.Image:
    lost = ImageChops.darker(band.point(_BLACK), darker.point(_BRIGHT))
    return ImageChops.lighter(band, lost)


def _is_lossless(data: bytes) -> bool:
    """Whether the wavelets are those of whole numbers, by the marker segment COD of the codestream (annex A.6.1)."""
    start = _codestream(data)
    place = len(data) if start is None else start + 2
    while (marker := data[place : place + 2]).startswith(b"\xff") and marker not in (_COD, _TILE):
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return marker == _COD and data[place + _WAVELETS : place + _WAVELETS + 1] == b"\1"


def _deep(data: bytes) -> list[int]:
    """Return where the depth is of each component that is of more than 8 bits."""
    return [place for place in _depths(data) if data[place] & ~_SIGNED >= _EIGHT]


def _depths(data: bytes) -> range:
    """Return where the depth of each component is, less 1 and with a bit for signed values; empty if it is cut off."""
    if (start := _codestream(data)) is None:
        return range(0)
    count = int.from_bytes(data[start + _COMPONENTS : start + _FIRST_DEPTH])
    places = range(start + _FIRST_DEPTH, start + _FIRST_DEPTH + count * _DEPTH_STEP, _DEPTH_STEP)
    return places if places and places[-1] < len(data) else range(0)


def _codestream(data: bytes) -> int | None:
    """Return where the codestream begins; None where there is none."""
    if data.startswith(_BEGIN):
        return 0
    box = _BOX.search(data)
    return None if box is None else box.end()
