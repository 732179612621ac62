"""Colours of 16 bits, of which Pillow keeps the highest 8: what is in the others, where those leave a picture dark."""

from __future__ import annotations

import sys
from io import BytesIO

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from pc_engine.decoding.eight_bits import DARK, MOST, to_eight_bits
from pc_engine.decoding.tiff_kinds import is_separate, white_of

_MODES = ("RGB", "RGBX", "RGBA")
_COLOURS = 3
_NATIVE = "L" if sys.byteorder == "little" else "B"


def swapped_kind(image: ImageFile.ImageFile) -> str | None:
    """Return the name that Pillow has for a picture's kind of values with their bytes exchanged.

    The picture is opened, and not read yet. None if it is not of colours of 16 bits, or Pillow cannot exchange them.
    """
    if not image.tile or (isinstance(image, TiffImageFile) and is_separate(image.tag_v2)):
        return None
    args = image.tile[0].args
    mode, semicolon, order = str(args if isinstance(args, str) or not args else args[0]).partition(";16")
    if not semicolon or mode not in _MODES or "transparency" in image.info:
        return None
    return f"{mode};16{'B' if order.replace('N', _NATIVE) == 'L' else 'L'}"


def with_lower_bits(image: ImageFile.ImageFile, data: bytes, swapped: str) -> Image.Image:
    """Return a picture of colours of 16 bits that has been read as one of 8, as dark as grey ones are taken to be.

    Where its highest 8 bits leave it dark, or the file says what white is, the same file is read once more for its
    lower ones.

    Parameters
    ----------
    image
        As Pillow has read it.
    data
        Its file.
    swapped
        What `swapped_kind` said before that.
    """
    white = white_of(image)
    colours = image.getextrema()[:_COLOURS]
    if white == MOST or (white is None and max(most for _, most in colours) > DARK >> 8):  # type: ignore[misc]
        return image
    high = np.asarray(image)
    values = high[..., :_COLOURS].astype(np.uint16) << 8
    with Image.open(BytesIO(data), formats=(image.format or "",)) as other:
        other.tile = [
            tile._replace(args=(swapped, *tile.args[1:]) if isinstance(tile.args, tuple) else swapped)
            for tile in other.tile
        ]
        values |= np.asarray(other)[..., :_COLOURS]
    colours_of_eight = to_eight_bits(values, white)
    if image.mode != "RGBA":
        return Image.fromarray(colours_of_eight)
    return Image.fromarray(np.dstack([colours_of_eight, high[..., _COLOURS]]))
