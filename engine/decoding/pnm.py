"""PBM, PGM and PPM that Pillow takes long for: value by value where the greatest is not 255, or with many comments."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFile

from pc_engine.decoding.eight_bits import DARK, MOST, to_eight_bits

# Of other modes are kinds of PNM that Pillow alone writes.
_MODES = ("L", "I", "RGB")
_EIGHT = 255
# Of files that are written out as text, Pillow copies the text behind each comment: millions take minutes.
_WRITTEN_OUT, _MOST_COMMENTS = (b"P1", b"P2", b"P3"), 10_000


def refusal_of_comments(data: bytes) -> str | None:
    """Return why a file is not read if it is one of too many comments."""
    if data.startswith(_WRITTEN_OUT) and data.count(b"#") > _MOST_COMMENTS:
        return f"It has more than {_MOST_COMMENTS:,} comments: save it anew."
    return None


def read_scaled(image: ImageFile.ImageFile, data: bytes) -> Image.Image | None:
    """Return the pixels of a file in binary whose greatest value is not 255 as 8 bits, grey or RGB; None of others.

    The file is opened, and not read yet: Pillow would take nine seconds a megapixel.

    Raises
    ------
    ValueError
        If the file ends before its last pixel.
    """
    if image.format != "PPM" or image.mode not in _MODES or not image.tile or image.tile[0].codec_name != "ppm":
        return None
    tile = image.tile[0]
    white = int(tile.args[-1])  # type: ignore[index]
    shape = (image.height, image.width, 3) if image.mode == "RGB" else (image.height, image.width)
    size = int(np.prod(shape, dtype=np.int64))
    kind = np.dtype(np.uint8 if white <= _EIGHT else ">u2")
    if len(data) - tile.offset < size * kind.itemsize:
        raise ValueError("it ends before its last pixel")
    values = np.frombuffer(data, kind, size, tile.offset).reshape(shape)
    if white == MOST and values.max() <= DARK:
        return Image.fromarray(to_eight_bits(values))
    # As Pillow rounds them: grey of more than 8 bits goes to 16 first.
    top = MOST if image.mode == "I" else _EIGHT
    scale = np.minimum(np.rint(np.arange(1 << 8 * values.itemsize) / white * top), top)
    eight = (scale if top == _EIGHT else scale * _EIGHT // MOST).astype(np.uint8)
    return Image.fromarray(eight[values])
