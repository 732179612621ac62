"""Which files are plain JPEGs, and of how many pixels, by their markers."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pc_engine.decoding.plain_jpeg import plain_jpeg


def encode(mode: str = "RGB", file_format: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((32, 24)).convert(mode).save(stream, file_format, **options)
    return stream.getvalue()


BASELINE = encode()
FRAME, SCAN = BASELINE.index(b"\xff\xc0"), BASELINE.index(b"\xff\xda")
BEHIND_FRAME = FRAME + 2 + int.from_bytes(BASELINE[FRAME + 2 : FRAME + 4], "big")
PLAIN = {
    "baseline": BASELINE,
    "4:4:4": encode(subsampling="4:4:4"),
    "grey": encode("L"),
    "EXIF": encode(exif=Image.Exif().tobytes()),
    "a comment": encode(comment=b"Adobe's \xff\xd9 \0 is no end here, and no marker of Adobe's"),
    "tables ahead of the frame": BASELINE[:FRAME]
    + BASELINE[BEHIND_FRAME:SCAN]
    + BASELINE[FRAME:BEHIND_FRAME]
    + BASELINE[SCAN:],
    "markers with more of 255 before them": BASELINE.replace(b"\xff\xdb", b"\xff\xff\xff\xdb"),
}
RGB = encode(keep_rgb=True)
OTHERS = {
    "progressive": encode(progressive=True),
    "cmyk": encode("CMYK"),
    "rgb in jpeg": RGB,
    "rgb in jpeg by Adobe's word alone": RGB.replace(b"R\x11\0G\x11\0B\x11\0", b"\x01\x11\0\x02\x11\0\x03\x11\0"),
    "rgb in jpeg by its components' names alone": RGB.replace(RGB[2:18], b""),
    "png": encode(file_format="PNG"),
    "cut off": BASELINE[: len(BASELINE) // 2],
    "cut off in its frame": BASELINE[: FRAME + 8],
    "empty": b"",
    "text": b"not an image at all",
    "two bytes": b"\xff\xd8",
    "no frame": b"\xff\xd8\xff\xd9" + bytes(20),
}


@pytest.mark.parametrize("name", PLAIN | OTHERS)
def test_plain_jpegs_are_told_from_all_else(name: str) -> None:
    data = (PLAIN | OTHERS)[name]
    assert plain_jpeg(data) == ((data, 32 * 24) if name in PLAIN else None)


@settings(max_examples=200)
@given(data=st.binary(max_size=60), cut=st.integers(0, 700))
def test_no_bytes_break_the_look_at_the_markers(data: bytes, cut: int) -> None:
    assert plain_jpeg(b"\xff\xd8" + data) is None
    plain_jpeg(BASELINE[:cut] + data)


def test_a_huge_jpeg_is_none_and_so_is_one_without_pixels() -> None:
    for sides in (b"\xff" * 4, bytes(4)):
        data = bytearray(BASELINE)
        data[FRAME + 5 : FRAME + 9] = sides
        assert plain_jpeg(bytes(data)) is None
    assert plain_jpeg(BASELINE, 32 * 24) is not None
    assert plain_jpeg(BASELINE, 32 * 24 - 1) is None
