from __future__ import annotations

import struct
import zlib
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest

from pc_engine.decoding.decode import Limits, decode_bytes
from pc_engine.decoding.pixel_room import BYTES_PER_PIXEL

GREY = np.arange(40 * 56).reshape(40, 56) * 37 % 256
RGB = np.stack([GREY, GREY[::-1] // 2, 255 - GREY], axis=-1)
ALPHA = np.full((40, 56, 1), 65535)
ALPHA[:9] = 0
COMPRESSION, MOST, PLANAR, EXTRA = 259, 281, 284, 338
DEFLATE, UNASSOCIATED = 8, 2


def of_depth(depth: int) -> np.ndarray:
    """The colours as a camera of so many bits writes them into 16."""
    return np.rint(RGB * ((2**depth - 1) / 255)).astype(np.uint16)


def png(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits, which Pillow reads but does not write."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    packed = [struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def tiff(pixels: np.ndarray, order: str = "<", tags: dict[int, int] | None = None) -> bytes:
    """A TIFF of 16 bits, in one strip."""
    height, width, channels = pixels.shape
    strip = pixels.astype(f"{order}u2").tobytes()
    if (tags or {}).get(COMPRESSION) == DEFLATE:
        strip = zlib.compress(strip)
    values = {256: width, 257: height, 258: 16, COMPRESSION: 1, 262: 2, 273: 8, 277: channels, 278: height}
    values |= {279: len(strip), **(tags or {})}
    entries = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in sorted(values.items()))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(strip))
    return head + strip + struct.pack(order + "H", len(values)) + entries + bytes(4)


def check(data: bytes, expected: np.ndarray, atol: float = 1) -> None:
    np.testing.assert_allclose(decode_bytes(data, *expected.shape[:2]).pixels, expected, atol=atol)


@pytest.mark.parametrize("depth", [10, 12, 14, 16])
def test_the_greatest_value_of_all_channels_tells_the_depth(depth: int) -> None:
    check(png(of_depth(depth)), RGB)
    for order in "<>":
        check(tiff(of_depth(depth), order), RGB)
        check(tiff(of_depth(depth), order, {COMPRESSION: DEFLATE}), RGB)


@pytest.mark.parametrize("depth", [12, 16])
def test_transparency_is_of_sixteen_bits(depth: int) -> None:
    pixels = np.concatenate([of_depth(depth), ALPHA], axis=-1)
    over_white = np.where(ALPHA == 0, 255, RGB)
    check(png(pixels), over_white)
    check(tiff(pixels, tags={EXTRA: UNASSOCIATED}), over_white)


def test_pictures_that_are_not_dark_keep_their_highest_eight_bits() -> None:
    values = np.arange(2**16).reshape(256, 256, 1) // [1, 2, 3]
    check(png(values), values >> 8, atol=0)
    check(tiff(values), values >> 8, atol=0)


def test_a_tiff_that_says_what_white_is_is_taken_by_its_word() -> None:
    dark = of_depth(12) // 8
    check(tiff(dark, tags={MOST: 4095}), RGB / 8)
    check(tiff(dark, tags={MOST: 65535}), dark >> 8, atol=0)
    check(tiff(of_depth(15), tags={MOST: 2**15 - 1}), RGB)
    check(tiff(of_depth(12), tags={MOST: 255}), RGB)


def test_what_is_read_twice_counts_as_more_pixels() -> None:
    asked: list[int] = []

    def room(pixels: int) -> AbstractContextManager[None]:
        asked.append(pixels)
        return nullcontext()

    for data in (png(of_depth(16)), tiff(of_depth(16))):
        decode_bytes(data, 40, 56, limits=Limits(room=room))
    assert asked == [40 * 56 * 26 // BYTES_PER_PIXEL] * 2
