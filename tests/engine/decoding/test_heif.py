from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from pc_engine.decoding import heif
from pc_engine.decoding.decode import decode_bytes
from pc_engine.decoding.heif import heif_format, is_read
from pc_engine.errors import ImageError

ORIENTATION = 0x0112


def head(*brands: bytes, size: int | None = None) -> bytes:
    """The first box of a file: its major brand, a version, and the brands that it is compatible with."""
    content = brands[0] + bytes(4) + b"".join(brands[1:])
    return (8 + len(content) if size is None else size).to_bytes(4) + b"ftyp" + content


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (head(b"heic", b"mif1", b"heic"), "HEIF"),
        (head(b"hevc"), "HEIF"),
        (head(b"avif", b"avif", b"mif1", b"miaf"), "AVIF"),
        (head(b"avis"), "AVIF"),
        (head(b"mif1", b"miaf", b"avif"), "AVIF"),
        (head(b"mif1", b"heic", b"hevc"), "HEIF"),
        (head(b"mif1", b"heic") + b"avif", "HEIF"),  # behind the box
        (head(b"msf1", size=2**32 - 1), "HEIF"),
        (head(b"mp42", b"mp42", b"heic"), None),
        (head(b"qt  "), None),
        (b"\0\0\0\x18ftyp", None),
        (b"", None),
        (b"\xff\xd8\xff\xe0" * 9, None),
    ],
)
def test_the_brands_say_what_a_file_is(start: bytes, expected: str | None) -> None:
    assert heif_format(start + bytes(64)) == expected


def encode(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, file_format, **options)
    return stream.getvalue()


@pytest.fixture(params=["AVIF", "HEIF"])
def file_format(request: pytest.FixtureRequest) -> str:
    """A format that is read here."""
    if request.param == "HEIF":
        pytest.importorskip("pillow_heif")
    elif not features.check("avif"):
        pytest.skip("Pillow was built without libavif")
    assert is_read(request.param)
    return str(request.param)


def photo() -> Image.Image:
    """A picture without symmetry, 128 x 64: black, with one corner red and one white."""
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:32, :64], pixels[32:, 64:] = (255, 0, 0), 255
    return Image.fromarray(pixels)


def corners(data: bytes, *, size: tuple[int, int] = (128, 64)) -> list[str]:
    """The colours of the quarters, row by row."""
    decoded = decode_bytes(data, 4, 4)
    assert (decoded.width, decoded.height) == size
    named = {(True, False): "red", (True, True): "white", (False, False): "black"}
    return [named[bool(red > 200), bool(green > 200)] for red, green, _ in decoded.pixels[::3, ::3].reshape(-1, 3)]


def test_pictures_are_read(file_format: str) -> None:
    assert corners(encode(photo(), file_format, quality=90)) == ["red", "black", "black", "white"]


def test_transparency_is_laid_over_white(file_format: str) -> None:
    picture = photo().convert("RGBA")
    picture.paste((0, 0, 0, 0), (64, 0, 128, 32))
    assert corners(encode(picture, file_format, quality=95)) == ["red", "white", "black", "white"]


# As `Image.transpose` names what undoes it, and the quarters as displayed.
_TURNED = {
    1: (None, (128, 64), ["red", "black", "black", "white"]),
    3: (Image.Transpose.ROTATE_180, (128, 64), ["white", "black", "black", "red"]),
    6: (Image.Transpose.ROTATE_90, (64, 128), ["black", "red", "white", "black"]),
    8: (Image.Transpose.ROTATE_270, (64, 128), ["black", "white", "red", "black"]),
}


@pytest.mark.parametrize("orientation", _TURNED)
def test_a_turned_picture_is_shown_upright_and_not_turned_twice(file_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    _, size, quarters = _TURNED[orientation]
    assert corners(encode(photo(), file_format, quality=90, exif=exif.tobytes()), size=size) == quarters


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_that_is_cut_short_is_said(file_format: str, share: float) -> None:
    data = encode(photo(), file_format, quality=90)
    with pytest.raises(ImageError, match=r"^The file is truncated or damaged"):
        decode_bytes(data[: int(len(data) * share)], 4, 4)


def test_no_other_decoder_sees_such_a_file(file_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(photo(), file_format)
    seen: list[Any] = []
    opened = Image.open
    monkeypatch.setattr(Image, "open", lambda stream, formats: seen.append(formats) or opened(stream, formats=formats))
    decode_bytes(data, 4, 4)
    assert seen == [(file_format,)]


def test_a_heic_photo_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heif, "_has_heif", lambda: False)
    with pytest.raises(ImageError) as caught:
        decode_bytes(head(b"heic", b"mif1") + bytes(99), 4, 4)
    assert str(caught.value) == (
        "It is a HEIC photo, which cannot be read here: install what reads it with pip install 'pc-engine[heif]'."
    )


def test_without_the_package_there_is_no_heic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert not heif._has_heif.__wrapped__()


def test_an_avif_that_pillow_cannot_read_is_to_be_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda _: False)
    with pytest.raises(
        ImageError, match=r"^It is an AVIF picture, which cannot be read here: convert it to one of JPEG"
    ):
        decode_bytes(head(b"avif") + bytes(99), 4, 4)
