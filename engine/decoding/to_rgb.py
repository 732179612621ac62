"""From a picture that Pillow has opened to 8-bit RGB, whatever its file holds: of more bits, transparent, grey."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFile

from pc_engine.decoding import jpeg2000
from pc_engine.decoding.eight_bits import MOST, to_eight_bits
from pc_engine.decoding.pixel_room import BYTES_PER_PIXEL
from pc_engine.decoding.pnm import read_scaled
from pc_engine.decoding.sixteen_bit_colours import swapped_kind, with_lower_bits
from pc_engine.decoding.tiff_kinds import grey_samples, has_signed_bytes, is_negative, white_of

# What is taken for each pixel at the worst, measured on 9 megapixels: of floats and of integers beyond 16 bits; of a
# transparent picture, its copies and the white below it; of one whose colours are read twice. The decoders of some
# formats add their own.
_OF_WIDE, _OF_TRANSPARENT, _OF_SIXTEEN, _OF_DECODER = 34, 20, 26, {"WEBP": 8, "AVIF": 4, "HEIF": 4}


def to_rgb(image: ImageFile.ImageFile, data: bytes) -> Image.Image:
    """Return the pixels of a picture that Pillow has opened from a file's bytes as 8-bit RGB, over white.

    Whatever Pillow's decoders raise on damaged files goes through.
    """
    if (scaled := read_scaled(image, data)) is not None:
        return scaled.convert("RGB")
    top = _white_of_scaled(image, data)  # of which more is known before the pixels are read
    swapped = swapped_kind(image)
    image.load()
    if image.mode.startswith("I;16") or image.mode in ("I", "F") or has_signed_bytes(image):
        samples = grey_samples(image)
        if image.format == "PPM":  # of which Pillow makes 32 bits
            samples = samples.astype(np.uint16)
        grey = to_eight_bits(samples, white_of(image) if top is None else top)
        return Image.fromarray(255 - grey if is_negative(image) else grey).convert("RGB")
    picture: Image.Image = image
    if image.format == "JPEG2000":
        picture = jpeg2000.with_whites(image, data)
    elif swapped is not None:
        picture = with_lower_bits(image, data, swapped)
    if picture.has_transparency_data:
        coloured = picture.convert("RGBA")
        white = Image.new("RGBA", coloured.size, "white")
        return Image.alpha_composite(white, coloured).convert("RGB")
    return picture.convert("RGB")


def bytes_per_pixel(image: ImageFile.ImageFile, data: bytes) -> int:
    """Return how much memory `to_rgb` takes at its worst for each pixel of a picture that is not read yet."""
    if image.format == "JPEG2000":
        return jpeg2000.bytes_per_pixel(len(image.getbands()), data)
    if image.mode in ("I", "F"):
        return BYTES_PER_PIXEL if image.format == "PPM" else _OF_WIDE
    if swapped_kind(image) is not None:
        return _OF_SIXTEEN
    if image.has_transparency_data:
        return _OF_TRANSPARENT + _OF_DECODER.get(image.format or "", 0)
    return BYTES_PER_PIXEL


def _white_of_scaled(image: ImageFile.ImageFile, data: bytes) -> int | None:
    """Return what white is where Pillow brings values to 16 bits that are of others by the word of their file."""
    if image.format == "JPEG2000":
        return jpeg2000.white_in_sixteen(data)
    if image.format != "PPM" or image.mode != "I" or not image.tile:
        return None
    args = image.tile[0].args
    return MOST if isinstance(args, tuple) and args[-1] != MOST else None
