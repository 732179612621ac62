from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, TiffImagePlugin, TiffTags

from pc_engine.decoding.decode import MAX_PIXELS, Limits, decode_bytes, decode_image, display_image, lift_pillow_limit
from pc_engine.decoding.pixel_room import BYTES_PER_PIXEL
from pc_engine.errors import ImageError

SIZE = (60, 90)  # height, width of the decoded picture: two thirds of the picture's own
ORIENTATION = 0x0112


def photo(width: int = 135, height: int = 90) -> Image.Image:
    """A picture without symmetry: a gradient of each colour and a white corner mark."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    pixels = np.stack([40 + 180 * x, 40 + 180 * y, 120 - 80 * x * y], axis=-1)
    picture = Image.fromarray(pixels.astype(np.uint8))
    ImageDraw.Draw(picture).rectangle((width // 9, height // 6, width // 3, height // 3), fill="white")
    return picture


def encode(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, file_format, **options)
    return stream.getvalue()


def expected(picture: Image.Image) -> np.ndarray:
    resized = picture.convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized).astype(np.float64)


def difference(data: bytes, picture: Image.Image) -> float:
    """Decode, check the form, and return the mean absolute difference from ``picture`` in grey levels."""
    decoded = decode_bytes(data, *SIZE)
    assert decoded.pixels.shape == (*SIZE, 3)
    assert decoded.pixels.dtype == np.uint8
    assert (decoded.width, decoded.height) == picture.size
    return float(np.abs(decoded.pixels - expected(picture)).mean())


@pytest.mark.parametrize(
    ("file_format", "options", "tolerance"),
    [
        ("JPEG", {"quality": 95}, 2.0),
        ("JPEG", {"quality": 95, "progressive": True}, 2.0),
        ("JPEG", {"quality": 95, "subsampling": "4:2:0"}, 2.0),
        ("JPEG", {"quality": 95, "keep_rgb": True}, 2.0),
        ("PNG", {}, 0.6),
        ("WEBP", {"lossless": True}, 0.6),
        ("WEBP", {"quality": 95}, 3.0),
        ("BMP", {}, 0.6),
        ("DIB", {}, 0.6),
        ("TIFF", {}, 0.6),
        ("TIFF", {"big_tiff": True}, 0.6),
        ("PPM", {}, 0.6),
        ("JPEG2000", {}, 0.6),
        ("JPEG2000", {"no_jp2": True}, 0.6),
        ("TIFF", {"compression": "tiff_lzw"}, 0.6),
        ("TIFF", {"compression": "jpeg", "quality": 95}, 2.0),
        ("GIF", {}, 8.0),  # 256 colours
    ],
)
def test_formats_give_the_picture(file_format: str, options: dict[str, Any], tolerance: float) -> None:
    assert difference(encode(photo(), file_format, **options), photo()) < tolerance


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000"])
def test_grey_pictures_become_rgb(file_format: str) -> None:
    grey = photo().convert("L")
    assert difference(encode(grey, file_format), grey) < 3


@pytest.mark.parametrize("marker", [True, False])
def test_cmyk_jpegs_are_inverted_as_adobe_stores_them(marker: bool) -> None:
    cmyk = photo().convert("CMYK")
    data = encode(cmyk, "JPEG", quality=95)
    start = data.index(b"\xff\xee")
    if not marker:
        data = data[:start] + data[start + 2 + struct.unpack(">H", data[start + 2 : start + 4])[0] :]
    assert difference(data, cmyk) < 3


def test_cmyk_tiff() -> None:
    cmyk = photo().convert("CMYK")
    assert difference(encode(cmyk, "TIFF"), cmyk) < 1


def test_palette_and_one_bit_pictures() -> None:
    palette = photo().quantize(64)
    assert difference(encode(palette, "PNG"), palette) < 1
    bits = photo().convert("1")
    assert difference(encode(bits, "PNG"), bits) < 1
    assert difference(encode(bits, "TIFF", compression="group4"), bits) < 1


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    grey = np.asarray(photo().convert("L"))
    for file_format in ("PNG", "TIFF"):
        sixteen = Image.fromarray(grey.astype(np.uint16) * 257)
        assert difference(encode(sixteen, file_format), Image.fromarray(grey)) < 1
    big_endian = Image.fromarray((grey.astype(np.uint16) * 257).astype(">u2"))
    assert difference(encode(big_endian, "TIFF"), Image.fromarray(grey)) < 1


def test_sixteen_bit_rgb_png_keeps_its_colours() -> None:
    pixels = np.asarray(photo()).astype(np.uint16) * 257
    assert difference(png16(pixels), photo()) < 1


def png16(pixels: np.ndarray) -> bytes:
    """A 16-bit RGB PNG, which Pillow reads but does not write."""
    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return png(header, zlib.compress(rows))


def png(header: bytes, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 9.0), (0.0, 1e6)])
def test_float_tiffs_are_scaled_to_the_range_of_a_screen(low: float, high: float) -> None:
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    data = encode(Image.fromarray(low + ramp * np.float32(high - low)), "TIFF")
    pixels = decode_bytes(data, 64, 64).pixels
    np.testing.assert_allclose(pixels[:, :, 0], np.rint(ramp * 255), atol=1)
    assert (pixels[..., 0] == pixels[..., 2]).all()


@pytest.mark.parametrize("value", [-5.0, 70000.0, float("nan"), float("inf")])
def test_float_tiffs_of_one_value_are_black(value: float) -> None:
    data = encode(Image.fromarray(np.full((4, 4), value, np.float32)), "TIFF")
    assert not decode_bytes(data, 4, 4).pixels.any()


def test_transparency_is_laid_over_white() -> None:
    red = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    red.paste((0, 0, 0, 0), (4, 0, 8, 8))
    red.paste((0, 0, 0, 128), (0, 0, 4, 4))
    for data in (encode(red, "PNG"), encode(red, "WEBP", lossless=True, exact=True), encode(red, "TIFF")):
        pixels = decode_bytes(data, 8, 8).pixels
        np.testing.assert_array_equal(pixels[6, 1], (255, 0, 0))
        np.testing.assert_array_equal(pixels[6, 6], (255, 255, 255))
        np.testing.assert_allclose(pixels[1, 1], (127, 127, 127), atol=1)


def test_transparent_palettes_and_colour_keys_are_laid_over_white() -> None:
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 255, 255, 0, 0])
    palette.paste(1, (0, 0, 4, 8))
    key = Image.new("RGB", (8, 8), (1, 2, 3))
    key.paste((255, 0, 0), (0, 0, 4, 8))
    for data in (
        encode(palette, "PNG", transparency=0),
        encode(palette, "PNG", transparency=b"\x00\xff"),
        encode(palette, "GIF", transparency=0),
        encode(key, "PNG", transparency=(1, 2, 3)),
        encode(Image.fromarray(np.tile(np.uint8([76] * 4 + [9] * 4), (8, 1))), "PNG", transparency=9),
    ):
        pixels = decode_bytes(data, 8, 8).pixels
        assert pixels[4, 1].max() >= 76
        assert pixels[4, 1].min() < 80
        np.testing.assert_array_equal(pixels[4, 6], (255, 255, 255))


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_an_animated_picture_gives_its_first_frame(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    lossless = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **lossless)
    np.testing.assert_array_equal(decode_bytes(data, 4, 4).pixels[0, 0], (255, 0, 0))


def test_several_jpegs_in_one_file_give_the_first() -> None:
    frames = [photo(), Image.new("RGB", (135, 90), "blue")]
    data = encode(frames[0], "MPO", save_all=True, append_images=frames[1:], quality=95)
    assert difference(data, photo()) < 2


def turned(picture: Image.Image, orientation: int) -> Image.Image:
    """Store ``picture`` so that a viewer that honours ``orientation`` shows it upright."""
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # to be shown turned by 90 degrees clockwise
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    return picture if undo is None else picture.transpose(undo)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_exif_orientation_gives_the_upright_picture(file_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 95} if file_format in ("JPEG", "WEBP") else {}
    for picture in (photo(), photo(700, 400)):  # the second is decoded at a smaller scale where the format allows
        data = encode(turned(picture, orientation), file_format, exif=exif, **options)
        assert difference(data, picture) < 4


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(value: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    assert difference(encode(photo(), "JPEG", quality=95, exif=exif), photo()) < 2


def with_damaged_exif(cut: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010F] = "a camera with a name that lies outside the directory"
    return encode(photo(), "JPEG", quality=95, exif=exif.tobytes()[:cut] + b"\xff\xff\xff\xff")


# Pillow warns of such files. Its warnings are left to the caller: the command line ignores them for the whole process,
# which is the only way that is safe with threads.
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("cut", range(6, 40, 3))
def test_damaged_exif_does_not_cost_the_image(cut: int) -> None:
    decoded = decode_bytes(with_damaged_exif(cut), *SIZE)
    assert {decoded.width, decoded.height} == set(photo().size)


def test_a_warning_that_the_caller_made_an_error_is_the_images_error() -> None:
    with pytest.raises(ImageError, match="Corrupt EXIF data"):
        decode_bytes(with_damaged_exif(12), *SIZE)
    # Just above Pillow's limit for a warning; there are no pixels, so that this costs nothing before they are read.
    large = png(struct.pack(">IIBBBBB", 10_000, 9_000, 8, 2, 0, 0, 0), zlib.compress(b""))
    with pytest.raises(ImageError, match="90000000 pixels"):
        decode_bytes(large, *SIZE)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3), (3001, 2)])
@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_extreme_shapes(file_format: str, size: tuple[int, int]) -> None:
    decoded = decode_bytes(encode(Image.new("RGB", size, (10, 200, 30)), file_format), *SIZE)
    assert (decoded.width, decoded.height) == size
    np.testing.assert_allclose(decoded.pixels, np.broadcast_to((10, 200, 30), (*SIZE, 3)), atol=3)


@pytest.mark.parametrize("size", [(640, 480), (1000, 333), (333, 1000)])
def test_decoding_a_jpeg_at_a_smaller_scale_changes_little(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    texture = Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    data = encode(texture, "JPEG", quality=92)
    scaled = display_image(data, at_least=(64, 64)).picture
    full = display_image(data).picture
    assert full.size == size
    assert scaled.width < full.width
    assert min(scaled.size) >= 64
    small = np.asarray(full.resize((64, 64), Image.Resampling.BILINEAR), np.float64)
    assert np.abs(decode_bytes(data, 64, 64).pixels - small).mean() < 2.5


@pytest.mark.parametrize("orientation", [1, 6])
def test_an_odd_jpeg_that_is_left_to_pillow_is_decoded_at_a_smaller_scale_too(
    orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    odd = encode(turned(photo(800, 400), orientation), "JPEG", quality=95, exif=exif)
    monkeypatch.setattr("simplejpeg.decode_jpeg", Mock(side_effect=ValueError))
    scaled = display_image(odd, at_least=(100, 100))
    assert (scaled.width, scaled.height) == (800, 400)
    assert scaled.picture.size == (200, 100)
    assert difference(odd, photo(800, 400)) < 4
    assert display_image(odd).picture.size == (800, 400)


def test_a_jpeg_is_decoded_at_the_scale_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (512, 512, 3), np.uint8)).save(path, quality=95)
    full, fine, coarse = (decode_image(path, 64, 64, oversampling=scale).pixels for scale in (None, 4, 1))
    default = decode_image(path, 64, 64).pixels
    np.testing.assert_array_equal(default, decode_image(path, 64, 64, oversampling=2).pixels)
    error = [np.abs(pixels.astype(int) - full).mean() for pixels in (fine, default, coarse)]
    assert 0 < error[0] < error[1] < error[2]


def test_small_pictures_are_enlarged() -> None:
    decoded = decode_bytes(encode(photo(9, 6), "JPEG", quality=95), 60, 90)
    assert decoded.pixels.shape == (60, 90, 3)
    assert (decoded.width, decoded.height) == (9, 6)


#: What is read with the packages of `dev`.
FORMATS = "JPEG, PNG, WebP, AVIF, HEIC, BMP, TIFF, GIF, JPEG 2000, PPM"


def failure(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(path, *SIZE)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    assert failure(tmp_path / "empty.jpg") == "The file is empty (0 bytes)."


@pytest.mark.parametrize("content", [b"hello, world\n" * 40, b"\0" * 1000, b"\xff\xd8"])
def test_a_file_that_is_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.jpg"
    path.write_bytes(content)
    assert "not an image" in failure(path)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file(tmp_path: Path, file_format: str, share: float) -> None:
    data = encode(photo(300, 200), file_format)
    path = tmp_path / "cut"
    path.write_bytes(data[: int(len(data) * share)])
    assert failure(path).startswith(("The file is truncated or damaged (", "It is not an image in a supported format"))


def test_the_name_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(encode(photo(), "JPEG", quality=95))
    decoded = decode_image(path, *SIZE)
    assert np.abs(decoded.pixels - expected(photo())).mean() < 2


def test_a_folder_a_missing_file_and_a_pipe(tmp_path: Path) -> None:
    assert "folder" in failure(tmp_path)
    assert failure(tmp_path / "gone.jpg") == "The file cannot be read: No such file or directory."
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    assert failure(pipe) == "It is not a regular file."  # reading it would wait for ever


def test_a_file_too_large_for_a_picture_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "disk.img.jpg"
    with path.open("wb") as stream:
        stream.truncate(3 << 30)  # sparse: takes no room
    assert "larger than 2 GiB" in failure(path)


def test_a_path_that_no_file_can_have() -> None:
    assert "cannot be read" in failure(Path("a\0b.jpg"))


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    path.write_bytes(encode(photo(), "PNG"))
    assert decode_image(path, *SIZE).width == photo().width


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encode(photo(), "PNG"))
    path.chmod(0)
    assert failure(path) == "The file cannot be read: Permission denied."


def test_a_header_that_claims_too_many_pixels_is_refused_before_they_are_allocated(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0), zlib.compress(b"\0" * 1000)))
    assert f"{MAX_PIXELS:,}" in failure(path)


def test_the_limit_holds_where_pillows_own_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    data = png(struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0), zlib.compress(b""))
    with pytest.raises(ImageError, match="100000 x 100000 pixels, more than the limit"):
        decode_bytes(data, *SIZE)


def test_a_limit_of_ones_own_is_held_by_the_header_for_every_format() -> None:
    for file_format in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000"):
        data = encode(photo(), file_format)
        assert decode_bytes(data, *SIZE, limits=Limits(135 * 90)).width == 135
        with pytest.raises(ImageError, match=r"It has 135 x 90 pixels, more than the limit of 12,149: .*--max-pixels"):
            decode_bytes(data, *SIZE, limits=Limits(135 * 90 - 1))


def test_a_limit_above_pillows_own_holds_once_that_is_lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data = encode(photo(), "PNG")
    with pytest.raises(ImageError, match="more than 2,000 pixels, the limit"):
        decode_bytes(data, *SIZE)
    lift_pillow_limit(2000)
    assert Image.MAX_IMAGE_PIXELS == 1000
    lift_pillow_limit(135 * 90)
    # Its warning is at half of that.
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(data))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    lift_pillow_limit(135 * 90)
    assert Image.MAX_IMAGE_PIXELS is None


@pytest.mark.parametrize(
    ("file_format", "options", "held"),
    [
        ("PNG", {}, 800 * 600),
        ("WEBP", {}, 800 * 600),
        ("JPEG", {"progressive": True}, 800 * 600),
        ("JPEG", {}, 400 * 300),
        ("JPEG", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}, 400 * 300),
    ],
)
def test_room_is_asked_for_as_many_pixels_as_decoding_holds(
    file_format: str, options: dict[str, Any], held: int
) -> None:
    asked: list[int] = []

    @contextmanager
    def room(pixels: int) -> Iterator[None]:
        asked.append(pixels)
        yield
        asked.append(0)

    data = encode(photo(800, 600), file_format, **options)
    decode_bytes(data, 150, 150, limits=Limits(room=room))
    display_image(data, limits=Limits(room=room))
    assert asked == [held, 0, 800 * 600, 0]


@pytest.mark.parametrize(
    ("file_format", "mode", "taken"),
    [
        ("JPEG2000", "RGB", 20),
        ("JPEG2000", "RGBA", 25),
        ("JPEG2000", "L", 16),
        ("PNG", "RGB", 16),
        ("PNG", "RGBA", 20),
        ("WEBP", "RGBA", 28),
        ("WEBP", "RGB", 16),
        ("TIFF", "F", 34),
        ("TIFF", "I", 34),
    ],
)
def test_a_picture_that_takes_more_memory_counts_as_more_pixels(file_format: str, mode: str, taken: int) -> None:
    asked: list[int] = []

    def room(pixels: int) -> AbstractContextManager[None]:
        asked.append(pixels)
        return nullcontext()

    picture = photo(320, 200).convert(mode)
    if mode == "RGBA":
        picture.putalpha(100)
    decode_bytes(encode(picture, file_format), 150, 150, limits=Limits(room=room))
    assert asked == [320 * 200 * taken // BYTES_PER_PIXEL]


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "an EPS or PostScript file"),
        (b"\xc5\xd0\xd3\xc6 \0\0\0", "an EPS file"),
        (b"%PDF-1.7\n", "a PDF file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a --><!DOCTYPE svg>\n<svg/>", "an SVG drawing"),
        (b"<?xml version='1.0'?><!DOCTYPE svg [<!ENTITY a 'aa'>]><svg>&a;</svg>", "an SVG drawing"),
        (b"\0\0\0\x1cftypmp42\0\0\0\0", "a video"),
        (b"8BPS\0\x01", "a Photoshop file"),
    ],
)
def test_a_file_of_another_format_is_named_and_said_what_to_do(tmp_path: Path, start: bytes, what: str) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(start + b"\0" * 200)
    assert failure(path) == f"It is {what}, which cannot be read here: convert it to one of {FORMATS}."


@pytest.mark.parametrize("heic", [False, True])
def test_what_is_read_depends_on_what_is_installed(heic: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.jpg").write_bytes(b"shopping list")
    monkeypatch.setattr("pc_engine.decoding.decode.is_read", lambda name: heic or name == "AVIF")
    shown = FORMATS if heic else FORMATS.replace(" HEIC,", "")
    assert failure(tmp_path / "notes.jpg") == f"It is not an image in a supported format ({shown})."


SUBFILE, SUB_FILES, DNG_VERSION = 254, 330, 50706


@pytest.mark.parametrize("tags", [{DNG_VERSION: b"\x01\x04\0\0"}, {SUBFILE: 1, SUB_FILES: 8}])
def test_a_raw_photo_is_not_taken_for_its_preview(tags: dict[int, Any]) -> None:
    described = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        described.tagtype[tag] = TiffTags.BYTE if isinstance(value, bytes) else TiffTags.LONG
        described[tag] = value
    with pytest.raises(ImageError, match=r"a camera's raw photo, .*: develop it to JPEG or TIFF\."):
        decode_bytes(encode(photo(), "TIFF", tiffinfo=described), *SIZE)


def test_a_raw_photo_of_canon_is_told_by_its_header() -> None:
    entries = (256, 257, 258, 259, 262, 273, 277, 278, 279)
    numbers = (1, 1, 8, 1, 1, 0, 1, 1, 1)
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in zip(entries, numbers, strict=True))
    directory = struct.pack("<H", len(entries)) + directory + bytes(4)
    plain = b"II*\0" + struct.pack("<I", 16) + bytes(8) + directory
    assert decode_bytes(plain, *SIZE).width == 1
    for letters in (b"CR\2\0", b"IIII"):
        with pytest.raises(ImageError, match="a camera's raw photo"):
            decode_bytes(plain[:8] + letters + plain[12:], *SIZE)


def test_a_raw_photo_that_pillow_does_not_open_is_told_by_its_tags() -> None:
    # As Pentax writes them: the first picture is the sensor's values, in a compression of its own.
    tags = {256: 4, 257: 4, 258: 16, 259: 65535, 262: 32803, 273: 8, 277: 1, 278: 4, 279: 9}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in tags.items())
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(40)
    with pytest.raises(ImageError, match="a camera's raw photo"):
        decode_bytes(data, *SIZE)
    with pytest.raises(ImageError, match="truncated or damaged"):
        decode_bytes(data[:40], *SIZE)


@pytest.mark.parametrize(
    "start",
    [
        b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
        b"FUJIFILMCCD-RAW 0201",
        b"IIRO\x08\0\0\0",
        b"IIRS\x08\0\0\0",
        b"MMOR\0\0\0\x08",
        b"IIU\0\x18\0\0\0",
        b"II\x1a\0\0\0HEAPCCDR",
        b"\0MRM\0\1",
        b"FOVb\0\0\3\0",
    ],
)
def test_a_raw_photo_of_a_form_of_its_own_is_told_by_its_first_bytes(start: bytes) -> None:
    with pytest.raises(
        ImageError, match=r"a camera's raw photo, which cannot be read here: develop it to JPEG or TIFF"
    ):
        decode_bytes(start + bytes(200), *SIZE)


def test_a_tiff_whose_first_picture_is_a_smaller_one_alone_is_read() -> None:
    described = TiffImagePlugin.ImageFileDirectory_v2()
    described[SUBFILE] = 1
    assert difference(encode(photo(), "TIFF", tiffinfo=described), photo()) < 1


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (
            b"PK\x03\x04",
            "It is a ZIP archive, which cannot be read here: name it as zip://::FILE, or unpack it.",
        ),
        *(
            (start, "It is a compressed file, which cannot be read here: unpack it.")
            for start in (
                b"\x1f\x8b\x08",
                b"BZh9",
                b"\xfd7zXZ\0",
                b"\x28\xb5\x2f\xfd",
                b"7z\xbc\xaf'\x1c",
                b"Rar!\x1a\x07",
            )
        ),
    ],
)
def test_what_holds_files_is_not_to_be_converted(tmp_path: Path, start: bytes, expected: str) -> None:
    path = tmp_path / "photos.zip"
    path.write_bytes(start + b"\0" * 200)
    assert failure(path) == expected


@pytest.mark.parametrize(
    "text",
    [
        b"<?xml version='1.0'?><note>svg</note>",
        b"<html><svg/></html>",
        b" " * 5000 + b"<svg>",
        b"<!---->" * 500,  # what a careless pattern would take an age for
        b"<!DOCTYPE [>]>" * 200,
    ],
)
def test_other_text_is_not_taken_for_a_drawing(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.png").write_bytes(text)
    assert "not an image in a supported format" in failure(tmp_path / "a.png")


def test_reasons_are_one_plain_line_that_is_the_same_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image) -> None:
        raise OSError(f"bad\n\x1b[31m data of {object()!r} " + "x" * 500)

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(ImageError) as caught:
        decode_bytes(encode(photo(), "PNG"), *SIZE)
    message = str(caught.value)
    assert message.startswith("The file is truncated or damaged (bad ")
    assert "0x" not in message
    assert message.isprintable()
    assert len(message) < 250


NOISY = """
import io, sys
from PIL import Image
from pc_engine.decoding.decode import decode_bytes, silence_codecs
from pc_engine.errors import ImageError
if sys.argv[1] == "silent":
    silence_codecs()
stream = io.BytesIO()
Image.effect_noise((64, 64), 50).convert("1").save(stream, "TIFF", compression="group4")
whole = stream.getvalue()
damaged = [whole[:200] + bytes([k]) * 40 + whole[240:] for k in range(256)]
# Too many samples a pixel, of which Pillow speaks itself.
damaged.append(bytes.fromhex("49492a00080000000400") + b"".join(
    bytes.fromhex(one) for one in ("000104000100000008000000", "010104000100000008000000", "150103000100000040000000",
    "110104000100000000000000", "00000000")))
refused = 0
for data in damaged:
    try:
        decode_bytes(data, 8, 8)
    except ImageError:
        refused += 1
assert refused, refused
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="Pillow's libtiff is found by its symbols here")
def test_codecs_do_not_print_about_damaged_files_once_they_are_silenced() -> None:
    said = {
        how: subprocess.run([sys.executable, "-c", NOISY, how], capture_output=True, text=True, check=True).stderr
        for how in ("silent", "as they are")
    }
    assert said["silent"] == ""
    assert "Fax4Decode" in said["as they are"]


SEEDS = {
    file_format: encode(photo(24, 16), file_format, **options)
    for file_format, options in (
        ("JPEG", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}),
        ("PNG", {}),
        ("WEBP", {}),
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("GIF", {}),
    )
}


@settings(max_examples=150)
@given(
    file_format=st.sampled_from(sorted(SEEDS)),
    edits=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=12),
    keep=st.floats(0.2, 1),
)
def test_damaged_bytes_give_a_picture_or_an_image_error(
    file_format: str, edits: list[tuple[float, int]], keep: float
) -> None:
    data = bytearray(SEEDS[file_format])
    for place, value in edits:
        data[int(place * len(data))] = value
    try:
        decoded = decode_bytes(bytes(data[: int(len(data) * keep)]), 8, 8)
    except ImageError as error:
        assert str(error).endswith(".")  # noqa: PT017 (either outcome is right)
    else:
        assert decoded.pixels.shape == (8, 8, 3)
        assert decoded.width > 0
        assert decoded.height > 0


def test_threads_decode_what_one_does() -> None:
    files = [*SEEDS.values(), *(encode(photo(200 + k, 150), "JPEG") for k in range(6))] * 4
    alone = [decode_bytes(data, *SIZE).pixels for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda data: decode_bytes(data, *SIZE).pixels, files))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.data
def test_real_photos_decode_as_pillow_decodes_them(data_directory: Path) -> None:
    photos = sorted((data_directory / "coco").rglob("*.jpg"))[:8]
    assert photos
    for path in photos:
        with Image.open(path) as picture:
            assert difference(path.read_bytes(), picture.convert("RGB")) < 3


@pytest.mark.parametrize("most", [1000, 4095, 65534])
def test_a_pgm_of_fewer_than_sixteen_bits_is_taken_by_its_word(most: int) -> None:
    values = np.linspace(0, most / 5, 64).reshape(8, 8)
    for data in (
        b"P5 8 8 %d\n" % most + values.astype(">u2").tobytes(),
        b"P2 8 8 %d\n" % most + b" ".join(b"%d" % value for value in values.ravel()),
    ):
        decoded = decode_bytes(data, 8, 8, oversampling=None).pixels[..., 0]
        np.testing.assert_allclose(decoded, values.astype(int) * 255 / most, atol=1)


@pytest.mark.parametrize(("most", "white"), [(4095, 4095), (200, 1023)])
def test_a_pgm_of_sixteen_bits_tells_its_depth_by_its_values(most: int, white: int) -> None:
    values = np.linspace(0, most, 64).reshape(8, 8).astype(">u2")
    decoded = decode_bytes(b"P5 8 8 65535\n" + values.tobytes(), 8, 8, oversampling=None).pixels[..., 0]
    np.testing.assert_allclose(decoded, values * (255 / white), atol=1)


def test_a_pgm_of_many_comments_is_refused_before_they_are_read() -> None:
    with pytest.raises(ImageError, match="more than 10,000 comments"):
        decode_bytes(b"P2 900 900 255 " + b"#\n" * 10_001, 8, 8)


@pytest.mark.parametrize("file_format", ["GIF", "TIFF", "PNG", "WEBP", "AVIF", "MPO"])
def test_further_pictures_in_a_file_are_noticed_save_those_of_a_jpeg(file_format: str) -> None:
    pictures = [photo(), photo().transpose(Image.Transpose.ROTATE_180), photo()]
    several = encode(pictures[0], file_format, save_all=True, append_images=pictures[1:])
    assert decode_bytes(several, *SIZE).has_others == (file_format != "MPO")
    assert not decode_bytes(encode(pictures[0], file_format), *SIZE).has_others


def test_a_damaged_second_picture_costs_nothing() -> None:
    first = photo(40, 30).quantize(8)
    data = encode(first, "GIF", save_all=True, append_images=[first.transpose(Image.Transpose.ROTATE_180)])
    alone = decode_bytes(data, *SIZE).pixels
    for kept in range(len(encode(first, "GIF")), len(data), 7):
        np.testing.assert_array_equal(decode_bytes(data[:kept], *SIZE).pixels, alone)


@pytest.mark.parametrize(("kinds", "others"), [((1, 1), False), ((4,), False), ((1, 0), True), ((2,), True)])
def test_thumbnails_and_masks_of_a_tiff_are_no_further_pictures(kinds: tuple[int, ...], others: bool) -> None:
    stream = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(stream, True) as writer:
        Image.new("RGB", (64, 48)).save(writer, "TIFF")
        writer.newFrame()
        for kind in kinds:
            Image.new("RGB", (8, 6)).save(writer, "TIFF", tiffinfo={254: kind})
            writer.newFrame()
    image = decode_bytes(stream.getvalue(), 8, 8)
    assert (image.width, image.height, image.has_others) == (64, 48, others)
