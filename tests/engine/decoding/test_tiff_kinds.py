from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from pc_engine.decoding.decode import decode_bytes
from pc_engine.errors import ImageError

GREY = (np.arange(40 * 56).reshape(40, 56) * 37 % 256).astype(np.uint8)
RGB = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
BITS, COMPRESSION, PHOTOMETRIC, MOST, PLANAR, EXTRA, FORMAT = 258, 259, 262, 281, 284, 338, 339
SIGNED, FLOATS, DEFLATE = 2, 3, 8


def tiff(pixels: np.ndarray, tags: dict[int, int] | None = None) -> bytes:
    """A TIFF of one strip for each plane: those of (plane, height, width) lie one behind the other."""
    tags = tags or {}
    order = ">" if pixels.dtype.byteorder == ">" else "<"
    height, width = pixels.shape[-2:] if tags.get(PLANAR) == 2 else pixels.shape[:2]
    planes = list(pixels) if tags.get(PLANAR) == 2 and pixels.ndim == 3 else [pixels]
    channels = pixels.size // (height * width)
    strips = [plane.tobytes() for plane in planes]
    if tags.get(COMPRESSION) == DEFLATE:
        strips = [zlib.compress(strip) for strip in strips]
    starts = [8 + sum(map(len, strips[:k])) for k in range(len(strips))]
    entries: dict[int, list[int]] = {256: [width], 257: [height], BITS: [8 * pixels.dtype.itemsize] * channels}
    entries |= {COMPRESSION: [1], PHOTOMETRIC: [2 if channels > 2 else 1], 273: starts, 277: [channels], 278: [height]}
    entries |= {279: [len(strip) for strip in strips], **{tag: [value] for tag, value in tags.items()}}
    data = b"".join(strips)
    tables = 8 + len(data) + 2 + 12 * len(entries) + 4
    directory, behind = struct.pack(order + "H", len(entries)), b""
    for tag, values in sorted(entries.items()):
        content = struct.pack(f"{order}{len(values)}I", *values)
        if len(values) > 1:
            behind, content = behind + content, struct.pack(order + "I", tables + len(behind))
        directory += struct.pack(order + "HHI", tag, 4, len(values)) + content
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data))
    return head + data + directory + bytes(4) + behind


def decoded(data: bytes, pixels: np.ndarray = GREY) -> np.ndarray:
    return decode_bytes(data, *pixels.shape[:2]).pixels


def check(data: bytes, grey: np.ndarray = GREY) -> None:
    np.testing.assert_array_equal(decoded(data), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [1, DEFLATE])
def test_kinds_that_are_read(order: str, compression: int) -> None:
    tags = {COMPRESSION: compression}
    check(tiff(GREY, tags))
    check(tiff((GREY.astype(np.uint16) * 257).astype(f"{order}u2"), tags))
    check(tiff((GREY / 255).astype(f"{order}f4"), {FORMAT: FLOATS, **tags}))
    np.testing.assert_array_equal(decoded(tiff(RGB, tags)), RGB)
    np.testing.assert_array_equal(decoded(tiff((RGB.astype(np.uint16) * 257).astype(f"{order}u2"), tags)), RGB)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [1, DEFLATE])
def test_signed_values_in_either_order_of_bytes(order: str, compression: int) -> None:
    tags = {COMPRESSION: compression, FORMAT: SIGNED}
    about_zero = GREY.astype(np.int64) - 128
    check(tiff(about_zero.astype(np.int8), tags))
    check(tiff((about_zero * 250).astype(f"{order}i2"), tags))
    check(tiff((about_zero * 10_000_000).astype(f"{order}i4"), tags))


@pytest.mark.parametrize("compression", [1, DEFLATE])
def test_unsigned_values_beyond_those_of_signed_ones(compression: int) -> None:
    values = GREY.astype("<u4") * np.uint32(16843009)
    assert values.max() > 2**31
    check(tiff(values, {COMPRESSION: compression}))


@pytest.mark.parametrize("compression", [1, DEFLATE])
def test_zero_may_be_white(compression: int) -> None:
    tags = {PHOTOMETRIC: 0, COMPRESSION: compression}
    check(tiff(GREY, tags), 255 - GREY)
    check(tiff(GREY.astype("<u2") * np.uint16(257), tags), 255 - GREY)
    check(tiff((GREY / 255).astype("<f4"), {FORMAT: FLOATS, **tags}), 255 - GREY)


def test_twelve_bits_in_sixteen() -> None:
    values = np.ceil(GREY * (4095 / 255)).astype(np.uint16)
    check(tiff(values))
    check(tiff(values, {MOST: 4095}))
    check(tiff(values, {MOST: 255}))
    check(tiff(values, {MOST: 65535}), (values // 257).astype(np.uint8))
    check(tiff(values, {PHOTOMETRIC: 0}), 255 - GREY)


def test_twelve_bits_without_a_gap_are_as_dark_as_they_are() -> None:
    values = np.arange(40 * 56, dtype=np.uint16).reshape(40, 56) % 512
    pairs = (values[:, ::2].astype(np.uint32) << 12) | values[:, 1::2]
    packed = np.stack([pairs >> 16, pairs >> 8 & 255, pairs & 255], axis=-1).astype(np.uint8).reshape(40, 84)
    check(tiff(packed, {256: 56, BITS: 12}), (values.astype(int) * 255 // 4095).astype(np.uint8))


@pytest.mark.parametrize("order", "<>")
def test_channels_one_behind_the_other(order: str) -> None:
    planes, tags = np.moveaxis(RGB, -1, 0), {PLANAR: 2}
    sixteen = (planes.astype(np.uint16) * 257).astype(f"{order}u2")
    np.testing.assert_array_equal(decoded(tiff(planes, tags)), RGB)
    np.testing.assert_array_equal(decoded(tiff(sixteen, {**tags, COMPRESSION: DEFLATE})), RGB)
    with pytest.raises(ImageError) as caught:
        decoded(tiff(sixteen, tags))
    assert str(caught.value) == (
        "It is a TIFF of a kind that cannot be read here (16 bits, 3 channels, planar): save it as 8- or 16-bit RGB."
    )


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [1, DEFLATE])
def test_a_single_channel_may_be_called_planar(order: str, compression: int) -> None:
    tags = {PLANAR: 2, COMPRESSION: compression}
    sixteen = (GREY.astype(np.uint16) * 257).astype(f"{order}u2")
    about_zero = GREY.astype(np.int64) - 128
    check(tiff(GREY, tags))
    check(tiff(GREY, {**tags, PHOTOMETRIC: 0}), 255 - GREY)
    check(tiff(sixteen, tags))
    check(tiff((about_zero * 250).astype(f"{order}i2"), {**tags, FORMAT: SIGNED}))
    check(tiff((about_zero * 10_000_000).astype(f"{order}i4"), {**tags, FORMAT: SIGNED}))
    check(tiff((GREY / 255).astype(f"{order}f4"), {**tags, FORMAT: FLOATS}))


def test_a_single_channel_of_four_bits_may_be_called_planar() -> None:
    nibbles = GREY[:, ::2] // 16 * 16 + GREY[:, 1::2] // 16
    check(tiff(nibbles, {PLANAR: 2, BITS: 4, 256: GREY.shape[1]}), GREY // 16 * 17)


@pytest.mark.parametrize(
    ("pixels", "tags", "kind", "colours"),
    [
        (RGB.astype("<f4"), {FORMAT: FLOATS}, "32-bit floats, 3 channels", "RGB"),
        (GREY.astype("<f2"), {FORMAT: FLOATS}, "16-bit floats, 1 channel", "greyscale"),
        (GREY.astype("<f8"), {FORMAT: FLOATS}, "64-bit floats, 1 channel", "greyscale"),
        (RGB[..., :2].astype("<u2"), {EXTRA: 2}, "16 bits, 2 channels", "greyscale"),
        (GREY.astype(">u2"), {PHOTOMETRIC: 0}, "16 bits, 1 channel, 0 is white", "greyscale"),
        (RGB.astype("<i2"), {FORMAT: SIGNED}, "16-bit signed integers, 3 channels", "RGB"),
        (np.stack([GREY, GREY]), {PLANAR: 2, EXTRA: 2}, "8 bits, 2 channels, planar", "greyscale"),
        (RGB, {COMPRESSION: 34887}, "8 bits, 3 channels, compression 34887", "RGB"),
    ],
)
def test_kinds_that_are_not_read(pixels: np.ndarray, tags: dict[int, int], kind: str, colours: str) -> None:
    with pytest.raises(ImageError) as caught:
        decoded(tiff(pixels, tags))
    assert str(caught.value) == (
        f"It is a TIFF of a kind that cannot be read here ({kind}): save it as 8- or 16-bit {colours}."
    )


@pytest.mark.parametrize("tags", [{BITS: 0}, {256: 0}, {277: 0}, {BITS: 1000}])
def test_headers_that_make_no_sense(tags: dict[int, int]) -> None:
    with pytest.raises(ImageError, match="truncated or damaged"):
        decoded(tiff(GREY, tags))
