from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pc_engine.decoding.decode import decode_bytes
from pc_engine.errors import ImageError

GREY = np.arange(40 * 56).reshape(40, 56) * 37 % 256
RGB = np.stack([GREY, GREY[::-1] // 2, 255 - GREY], axis=-1)


def pnm(pixels: np.ndarray, most: int) -> bytes:
    kind = b"P6" if pixels.ndim == 3 else b"P5"
    return kind + b" 56 40 %d\n" % most + pixels.astype(np.uint8 if most < 256 else ">u2").tobytes()


@pytest.mark.parametrize("pixels", [GREY, RGB])
@pytest.mark.parametrize("most", [1, 100, 254, 256, 1000, 4095, 65534, 65535])
def test_values_are_those_that_pillow_reads(pixels: np.ndarray, most: int) -> None:
    # Some are greater than the greatest.
    data = pnm(np.minimum(pixels * (most / 240), 255 if most < 256 else 65535), most)
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        expected = np.asarray(picture)
    if expected.dtype != np.uint8:
        expected = expected.astype(np.int64) * 255 // 65535
    if expected.ndim == 2:
        expected = np.stack([expected] * 3, axis=-1)
    np.testing.assert_array_equal(decode_bytes(data, 40, 56).pixels, expected)


@pytest.mark.parametrize("depth", [10, 12, 14])
def test_the_greatest_value_of_colours_of_sixteen_bits_tells_their_depth(depth: int) -> None:
    data = pnm(np.rint(RGB * ((2**depth - 1) / 255)), 65535)
    np.testing.assert_allclose(decode_bytes(data, 40, 56).pixels, RGB, atol=1)


def test_a_large_picture_is_not_read_value_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("by Pillow")

    monkeypatch.setattr("PIL.PpmImagePlugin.PpmDecoder.decode", read)
    assert decode_bytes(pnm(RGB * 16, 4095), 40, 56).pixels.max() == 254


@pytest.mark.parametrize("most", [100, 65535])
def test_a_file_that_ends_early_is_truncated(most: int) -> None:
    with pytest.raises(ImageError, match=r"truncated or damaged \(it ends before its last pixel\)\."):
        decode_bytes(pnm(RGB, most)[:-1], 40, 56)


def test_kinds_that_pillow_alone_writes_are_left_to_it() -> None:
    opaque = b"PyRGBA\n56 40\n100\n" + np.dstack([RGB // 3, np.full_like(GREY, 100)]).astype(np.uint8).tobytes()
    np.testing.assert_allclose(decode_bytes(opaque, 40, 56).pixels, RGB // 3 * 2.55, atol=1)
