from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pc_engine.decoding.decode import decode_bytes
from pc_engine.decoding.jpeg2000 import white_in_sixteen

GREY = np.arange(40 * 56).reshape(40, 56) * 37 % 256
CODESTREAM = b"\xff\x4f\xff\x51"
DEPTH = 42


def of_depth(depth: int, share: float = 1) -> np.ndarray:
    """The grey picture as values of so many bits, of which only a share is used."""
    return np.rint(GREY * ((2**depth - 1) / 255 * share)).astype(np.uint16)


def jpeg2000(values: np.ndarray, depth: int, *, boxes: bool) -> bytes:
    """A file that says it is of so many bits, which Pillow does not write: values are stored about half of white."""
    raised = values + np.uint16((1 << 15) - (1 << depth - 1))
    buffer = io.BytesIO()
    Image.fromarray(raised).save(buffer, "JPEG2000", no_jp2=not boxes)
    data = bytearray(buffer.getvalue())
    data[data.index(CODESTREAM) + DEPTH] = depth - 1
    if boxes:
        data[data.index(b"ihdr") + 14] = depth - 1
    return bytes(data)


@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("depth", [10, 12, 14, 15])
@pytest.mark.parametrize("share", [1, 0.5, 0.12])
def test_a_file_of_fewer_than_sixteen_bits_is_taken_by_its_word(depth: int, share: float, boxes: bool) -> None:
    decoded = decode_bytes(jpeg2000(of_depth(depth, share), depth, boxes=boxes), *GREY.shape).pixels[..., 0]
    np.testing.assert_allclose(decoded, GREY * share, atol=1.5)
    if share == 1:
        assert decoded.max() == 255


@pytest.mark.parametrize("boxes", [False, True])
def test_values_of_a_file_of_sixteen_bits_tell_their_depth(boxes: bool) -> None:
    for values, expected in ((of_depth(12), GREY), (of_depth(16, 0.5), GREY // 2)):
        decoded = decode_bytes(jpeg2000(values, 16, boxes=boxes), *GREY.shape).pixels[..., 0]
        np.testing.assert_allclose(decoded, expected, atol=1)


def test_the_codestream_is_found_behind_boxes_of_any_length() -> None:
    stream = CODESTREAM + bytes(DEPTH - len(CODESTREAM)) + bytes([11])
    assert white_in_sixteen(stream) == 4095 << 4
    assert white_in_sixteen(b"\0\0\0\x0cjP  " + b"\0\0\0\x40jp2c" + stream) == 4095 << 4
    assert white_in_sixteen(b"\0\0\0\x0cjP  " + b"\0\0\0\x01jp2c" + b"\xff\xff\0\0\0\0\n\xff" + stream) == 4095 << 4
    # A small picture in the metadata is not the picture.
    small = stream[:-1] + bytes([7])
    assert white_in_sixteen(b"\0\0\0\x0cjP  uuid" + bytes(16) + small + b"\0\0\0\x40jp2c" + stream) == 4095 << 4


@pytest.mark.parametrize("depth", [16, 20, 38])
def test_no_more_than_sixteen_bits_are_left(depth: int) -> None:
    stream = CODESTREAM + bytes(DEPTH - len(CODESTREAM)) + bytes([0x80 | depth - 1])
    assert white_in_sixteen(stream) == (None if depth == 16 else 65535)


def test_a_header_that_is_cut_off_says_nothing() -> None:
    assert white_in_sixteen(b"") is None
    assert white_in_sixteen(CODESTREAM + bytes(38)) is None
    assert white_in_sixteen(b"jp2c") is None
