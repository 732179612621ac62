"""TIFF files of kinds that Pillow reads as other pixels than are in them, or does not read: told by their tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import COMPRESSION_INFO, TiffImageFile

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_STRIPS, _SAMPLES, _MOST, _PLANAR, _TILES, _FORMAT = 273, 277, 281, 284, 324, 339
_UNCOMPRESSED, _WHITE_IS_ZERO = 1, 0
_TOGETHER, _SEPARATE = 1, 2
_GREY_AND_ALPHA = 2
_UNSIGNED, _SIGNED, _FLOATS = 1, 2, 3
_NUMBERS = {_SIGNED: "signed integers", _FLOATS: "floats", 5: "complex integers", 6: "complex numbers"}
_MOST_BITS = 128
# What a page is to the others, by bits (TIFF 6.0, NewSubfileType). A pyramid has fewer pages than these.
_SUBFILE_TYPE, _COPY_OR_MASK, _PAGES_LOOKED_AT = 254, 1 | 4, 32
# The codec hands over values in the machine's order of bytes; of these Pillow takes them to be in the file's.
_NATIVE = {"F;32BF": "F;32NF", "I;32BS": "I;32NS", "I;16BS": "I;16NS"}


def prepare_tiff(header: TiffImageFile) -> str | None:
    """Make ready a file that Pillow has opened and not yet read; return why it is not to be read, or None.

    The sentence is one for the file's row.
    """
    tags = header.tag_v2
    if _is_raw_and_separate(tags) and _channels(tags) == 1:
        # A single channel is the same either way, but not to Pillow, which would look at the first letter of its kind.
        tags[_PLANAR] = _TOGETHER
        header._setup()
    header.tile = [
        tile._replace(args=(_NATIVE.get(tile.args[0], tile.args[0]), *tile.args[1:]))
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple)
        else tile
        for tile in header.tile
    ]
    return _sentence(tags) if _is_mixed_up(tags) else None


def unread_kind(tags: Mapping[int, Any]) -> str | None:
    """Return the sentence on a file with these tags, which Pillow does not open; None where they make no sense."""
    sides = [tags.get(tag) for tag in (_WIDTH, _HEIGHT)]
    if not all(isinstance(side, int) and side > 0 for side in sides) or not tags.keys() & {_STRIPS, _TILES}:
        return None
    bits = _numbers(tags, _BITS)
    if not bits or not all(0 < n <= _MOST_BITS for n in bits) or _channels(tags) is None:
        return None
    return _sentence(tags)


def grey_samples(image: Image.Image) -> np.ndarray:
    """Return the values of a greyscale picture that has been read, as they are in its file."""
    values = np.asarray(image)
    if has_signed_bytes(image):
        return values.view(np.int8)
    if image.mode == "I" and isinstance(image, TiffImageFile) and _format(image.tag_v2) == _UNSIGNED:
        return values.view(np.uint32) if 32 in _numbers(image.tag_v2, _BITS) else values
    return values


def has_signed_bytes(image: Image.Image) -> bool:
    """Whether a picture is of integers from -128 to 127, which Pillow takes for 0 to 255."""
    return image.mode == "L" and isinstance(image, TiffImageFile) and _format(image.tag_v2) == _SIGNED


def is_negative(image: Image.Image) -> bool:
    """Whether the least values of a greyscale picture are white, and Pillow leaves them so."""
    if not isinstance(image, TiffImageFile) or image.mode == "L":
        return False
    return bool(image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)


def has_pages(header: TiffImageFile) -> bool:
    """Whether there are pages behind the first that are neither smaller copies of it, as of thumbnails, nor masks."""
    for number in range(1, _PAGES_LOOKED_AT):
        try:
            header.seek(number)
        except EOFError:
            return False
        if not int(header.tag_v2.get(_SUBFILE_TYPE, 0)) & _COPY_OR_MASK:
            return True
    return False


def is_separate(tags: Mapping[int, Any]) -> bool:
    """Whether the channels lie one behind the other."""
    return bool(tags.get(_PLANAR) == _SEPARATE)


def white_of(image: Image.Image) -> int | None:
    """Return which value is white, if the file says so."""
    if not isinstance(image, TiffImageFile):
        return None
    bits = _numbers(image.tag_v2, _BITS)
    packed = 2 ** bits[0] - 1 if len(bits) == 1 and 8 < bits[0] < 16 else None
    return max(_numbers(image.tag_v2, _MOST), default=packed)


def _is_raw_and_separate(tags: Mapping[int, Any]) -> bool:
    """Whether the channels lie uncompressed one behind the other."""
    return is_separate(tags) and tags.get(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED


def _is_mixed_up(tags: Mapping[int, Any]) -> bool:
    """Whether Pillow takes the samples of separate channels for others, or for nothing that it knows.

    Of their kind it looks at the first letter; and it puts no transparency beside grey.
    """
    if not _is_raw_and_separate(tags):
        return False
    bits = set(_numbers(tags, _BITS))
    is_plain = tags.get(_PHOTOMETRIC) != _WHITE_IS_ZERO and tags.get(_FILL_ORDER, 1) == 1
    return not (is_plain and bits in ({1}, {8}) and _channels(tags) != _GREY_AND_ALPHA)


def _sentence(tags: Mapping[int, Any]) -> str:
    channels = _channels(tags) or 1
    colours = "RGB" if channels > 2 else "greyscale"
    return (
        f"It is a TIFF of a kind that cannot be read here ({', '.join(_described(tags, channels))}): save it as 8- or "
        f"16-bit {colours}."
    )


def _described(tags: Mapping[int, Any], channels: int) -> Iterator[str]:
    bits = max(_numbers(tags, _BITS), default=1)
    numbers = _NUMBERS.get(_format(tags))
    yield f"{bits} bits" if numbers is None else f"{bits}-bit {numbers}"
    yield "1 channel" if channels == 1 else f"{channels} channels"
    if is_separate(tags) and channels > 1:
        yield "planar"
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        yield "0 is white"
    compression = tags.get(_COMPRESSION, _UNCOMPRESSED)
    if compression not in COMPRESSION_INFO:
        yield f"compression {compression}"


def _channels(tags: Mapping[int, Any]) -> int | None:
    channels = tags.get(_SAMPLES, 1)
    return channels if isinstance(channels, int) and channels > 0 else None


def _format(tags: Mapping[int, Any]) -> int:
    """Return what the samples are; one kind for all, or that of the first."""
    return next(iter(_numbers(tags, _FORMAT)), _UNSIGNED)


def _numbers(tags: Mapping[int, Any], tag: int) -> tuple[int, ...]:
    value = tags.get(tag, ())
    return tuple(n for n in (value if isinstance(value, tuple) else (value,)) if isinstance(n, int))
