"""What a JPEG 2000 file says of its depth, which Pillow does not tell."""

from __future__ import annotations

import re

# The codestream of a file of boxes, whose length takes 4 bytes or 8 more; it begins with the marker segments SOC and
# SIZ (ISO/IEC 15444-1, annexes A.5.1 and I.5.4). Other files are a codestream and no more.
_CODESTREAM = re.compile(rb"(?:\A|jp2c(?:.{8})?)(?=\xff\x4f\xff\x51)", re.DOTALL)
_FIRST_DEPTH = 42  # where that of the first component is, from the codestream on
_BITS = 16


def white_in_sixteen(data: bytes) -> int | None:
    """Return what white is once Pillow has brought a greyscale picture to 16 bits, by shifting its values.

    None if it was of 16 bits from the start, or says nothing that makes sense: then its values tell.
    """
    codestream = _CODESTREAM.search(data)
    if codestream is None or len(data) <= codestream.end() + _FIRST_DEPTH:
        return None
    depth = (data[codestream.end() + _FIRST_DEPTH] & 0x7F) + 1  # the highest bit says whether values are signed
    if depth == _BITS:
        return None
    return (2**depth - 1) << (_BITS - depth) if depth < _BITS else 2**_BITS - 1
