"""PGM and PPM whose greatest value is not 255, which Pillow reads value by value: nine seconds a megapixel."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFile

from pc_engine.decoding.eight_bits import to_eight_bits

# Of other modes are kinds of PNM that Pillow alone writes.
_MODES = ("L", "I", "RGB")
_EIGHT, _MOST = 255, 65535
# A picture of at most 14 bits has no greater value.
_DARK = (1 << 14) - 1


def read_scaled(image: ImageFile.ImageFile, data: bytes) -> Image.Image | None:
    """Return the pixels of such a file, opened and not yet read, as 8 bits, grey or RGB; None of others.

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
    if white == _MOST and values.max() <= _DARK:
        return Image.fromarray(to_eight_bits(values))
    # As Pillow rounds them: grey of more than 8 bits goes to 16 first.
    top = _MOST if image.mode == "I" else _EIGHT
    scale = np.minimum(np.rint(np.arange(1 << 8 * values.itemsize) / white * top), top)
    eight = (scale if top == _EIGHT else scale * _EIGHT // _MOST).astype(np.uint8)
    return Image.fromarray(eight[values])
