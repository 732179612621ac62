"""Plain JPEGs, told from all else by their headers: baseline, of 8 bits, grey or YCbCr, complete."""

from __future__ import annotations

import struct
from typing import NamedTuple

from pc_engine.decoding.decode import MAX_PIXELS

_START = b"\xff\xd8"
_END_OF_PICTURE = b"\xff\xd9"
_END, _SCAN, _ADOBE, _BASELINE = 0xD9, 0xDA, 0xEE, 0xC0
# Markers that say the frame's kind and size, and the three among their numbers that say other things.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_RGB = b"RGB"
# A segment begins with 255, its marker and the length of what follows the marker; a frame with its bits, height, width
# and number of components.
_SEGMENT, _FRAME = struct.Struct(">BBH"), struct.Struct(">BHHB")


class PlainJpeg(NamedTuple):
    """The bytes of a plain JPEG, and how many pixels it has."""

    data: bytes
    pixels: int


def plain_jpeg(data: bytes, max_pixels: int = MAX_PIXELS) -> PlainJpeg | None:
    """Return ``data`` with its pixels if it is a plain JPEG of ``max_pixels`` at most, else None.

    Looks at the markers ahead of the picture, in any order of segments, and for the one that ends it.
    """
    if not data.startswith(_START):
        return None
    place, is_ycc, last = 2, True, len(data) - _SEGMENT.size
    while place <= last:
        lead, marker, length = _SEGMENT.unpack_from(data, place)
        if lead != 0xFF:
            return None
        if marker == 0xFF:  # markers may be preceded by any number of these
            place += 1
            continue
        if marker in (_SCAN, _END):
            return None
        if marker in _FRAMES:
            complete = is_ycc and marker == _BASELINE and data.rfind(_END_OF_PICTURE) > place
            pixels = _plain_frame_pixels(data[place + 4 : place + 2 + length]) if complete else 0
            return PlainJpeg(data, pixels) if 0 < pixels <= max_pixels else None
        if marker == _ADOBE:
            segment = data[place + 4 : place + 2 + length]
            if segment[:5] == b"Adobe":
                is_ycc = len(segment) < 12 or segment[11] != 0  # 0: three components are RGB
        place += 2 + length
    return None


def _plain_frame_pixels(segment: bytes) -> int:
    """Return the pixels of a frame of 8 bits, with one component or three that are no RGB; else 0."""
    if len(segment) < _FRAME.size:
        return 0
    bits, height, width, components = _FRAME.unpack_from(segment)
    names = segment[6 : 6 + 3 * components : 3]
    pixels: int = height * width
    return pixels if bits == 8 and components in (1, 3) and names != _RGB else 0
