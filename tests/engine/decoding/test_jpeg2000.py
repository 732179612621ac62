from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from pc_engine.decoding.decode import decode_bytes
from pc_engine.decoding.jpeg2000 import white_in_sixteen, with_whites

GREY = np.arange(40 * 56).reshape(40, 56) * 37 % 256
CODESTREAM = b"\xff\x4f\xff\x51"
DEPTH = 42
#: Bars of white, grey, orange and black in 12 bits, by openjpeg, in base 85.
BARS = {
    "lossless": (
        "0000CYEU2`4GM<}0000KW^{RQYH%_j00000YH%_j0000jYH%`W0000MX=r3}0000G0000G00RpL0000001sntY;pkr000005C8xH"
        "cWQ7lWB*V8Q2;Lh000005C8xG5C8xG00000000005C8xG5C8xG000000009E0RamE0Sf^E|55-9000010RRL900IA800cl_|6~9q"
        "00BdCWnpw>WFTUBAWv{*Zc0!^M<8}(a&u{KZXhx)H7+#&kN^q*00000{{R91li%Z1Pmv5c;z656b8<|w4I}^n!a`pehGGMt0000j"
        ";E=(E=srjAAN`3p@@{NFh59#{PHaK_DdB-?02KhhwEzl$U|NCIunY@O0H_89r~p(00@MI10fA};Mffl+Kmwo`7N7x83=2>Is0Ib7"
        "7U*EWwEzl$U|N6$Krk&p0-zWcpgHx11*ia20|L|lDgl9N02KhhwE<r&FfBj=pcodQ0Z<GJPyna~1*i%&fq`lO6#&4s01AL$T7U&W"
        "FfBkpgc0{Cp@C`u6#&4s01AL$T7U&WKhNYOI}He(hKc_$W#8Z^JGly-hKc`w|9}74"
    ),
    "lossy": (
        "|4;u>051Rl0000G0000G00000000000000G0000G000000000000RpF0Sf^E3jqQDQUDDB0ssL400aa80Equw00lx|0RLnFB>(|K"
        "a%Ew3Wn>^?c_2@4Wo}APMMofZWpZ<AZ*CwmE;TMR|BwI*000000HXi_|C8T)$WM_BIpRT^MstqwTmS%JAussmkN^MxG3LDZ+O++M"
        "=EL)0`LP0t68}Qx!}DSJu>9D5Y(F+1n-A5gG6?}-d*;LsoP5}UmXDhdAfl5ij%-2wDdB-?02KhhwEzl$U|NB4LJ{{Vp@C`u6#&4s"
        "01AL$T7U&WI||RRC_4=Zora13Fk~&yj7U4V3Y~_D43CNb*#"
    ),
}


def of_depth(depth: int, share: float = 1) -> np.ndarray:
    """The grey picture as values of so many bits, of which only a share is used."""
    return np.rint(GREY * ((2**depth - 1) / 255 * share)).astype(np.uint16)


def header(depth: int) -> bytes:
    """The first bytes of a codestream of one component of so many bits, some below 0."""
    return CODESTREAM + bytes(DEPTH - len(CODESTREAM) - 1) + bytes([1, 0x80 | depth - 1, 1, 1])


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
    stream = header(12)
    assert white_in_sixteen(stream) == 4095 << 4
    assert white_in_sixteen(b"\0\0\0\x0cjP  " + b"\0\0\0\x40jp2c" + stream) == 4095 << 4
    assert white_in_sixteen(b"\0\0\0\x0cjP  " + b"\0\0\0\x01jp2c" + b"\xff\xff\0\0\0\0\n\xff" + stream) == 4095 << 4
    # A small picture in the metadata is not the picture.
    assert white_in_sixteen(b"\0\0\0\x0cjP  uuid" + bytes(16) + header(8) + b"\0\0\0\x40jp2c" + stream) == 4095 << 4


@pytest.mark.parametrize("depth", [16, 20, 38])
def test_no_more_than_sixteen_bits_are_left(depth: int) -> None:
    assert white_in_sixteen(header(depth)) == (None if depth == 16 else 65535)


def test_a_header_that_is_cut_off_says_nothing() -> None:
    assert white_in_sixteen(b"") is None
    assert white_in_sixteen(header(12)[:DEPTH]) is None
    assert white_in_sixteen(b"jp2c") is None


@pytest.mark.parametrize("kind", BARS)
def test_white_of_colours_of_more_than_eight_bits_is_not_black(kind: str) -> None:
    bars = np.repeat([[255, 255, 255], [128, 128, 128], [255, 64, 0], [0, 0, 0]], 4, axis=0)
    decoded = decode_bytes(base64.b85decode(BARS[kind]), 16, 16).pixels
    np.testing.assert_allclose(decoded, np.broadcast_to(bars, (16, 16, 3)), atol=2)


def test_white_of_nine_bits_is_not_black() -> None:
    for boxes in (False, True):
        decoded = decode_bytes(jpeg2000(of_depth(9), 9, boxes=boxes), *GREY.shape).pixels[..., 0]
        np.testing.assert_allclose(decoded, GREY, atol=1)


def test_eight_bits_are_left_as_they_are() -> None:
    buffer = io.BytesIO()
    picture = Image.fromarray(np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1).astype(np.uint8))
    picture.save(buffer, "JPEG2000")
    assert with_whites(picture, buffer.getvalue()) is picture
