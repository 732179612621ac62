"""From a picture that Pillow has opened to 8-bit RGB, whatever its file holds: of more bits, transparent, grey."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFile

from pc_engine.decoding.eight_bits import to_eight_bits
from pc_engine.decoding.jpeg2000 import white_in_sixteen, with_whites
from pc_engine.decoding.tiff_kinds import grey_samples, has_signed_bytes, is_negative, white_of

# The greatest value of 16 bits.
_MOST = 65535


def to_rgb(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    """Return the pixels of a picture that Pillow has opened from a file's bytes as 8-bit RGB, over white.

    Whatever Pillow's decoders raise on damaged files goes through.
    """
    top = _white_of_scaled(image, data)  # of which more is known before the pixels are read
    image.load()
    if image.mode.startswith("I;16") or image.mode in ("I", "F") or has_signed_bytes(image):
        samples = grey_samples(image)
        if image.format == "PPM":  # of which Pillow makes 32 bits
            samples = samples.astype(np.uint16)
        grey = to_eight_bits(samples, white_of(image) if top is None else top)
        return Image.fromarray(255 - grey if is_negative(image) else grey).convert("RGB")
    picture = with_whites(image, data) if image.format == "JPEG2000" else image
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        return Image.alpha_composite(white, coloured).convert("RGB")
    return picture.convert("RGB")


def _white_of_scaled(image: ImageFile.ImageFile, data: bytes) -> int | None:
    """Return what white is where Pillow brings values to 16 bits that are of others by the word of their file."""
    if image.format == "JPEG2000":
        return white_in_sixteen(data)
    if image.format != "PPM" or image.mode != "I" or not image.tile:
        return None
    args = image.tile[0].args
    return _MOST if isinstance(args, tuple) and args[-1] != _MOST else None
