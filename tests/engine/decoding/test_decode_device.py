"""Which files go to the codec, and that every file has the outcome that it has on the CPU. No GPU takes part."""

from __future__ import annotations

import io
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pc_engine.decoding.decode import DecodedImage, decode_bytes, display_image
from pc_engine.decoding.decode_device import (
    TOLERANCE,
    BatchDecoder,
    DecodedBatch,
    DeviceDecoder,
    Resize,
)
from pc_engine.decoding.nvimagecodec import NvImageCodec
from pc_engine.errors import ImageError, MissingPackageError
from pc_engine.kernels.array_module import to_host
from pc_engine.selection.candidates import probe_images

SIZE = (64, 96)
ORIENTATION = 0x0112


def photo(width: int = 320, height: int = 240, seed: int = 0) -> Image.Image:
    return Image.fromarray(probe_images(height, width, 1, seed)[0])


def encode(picture: Image.Image, file_format: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, file_format, **options)
    return stream.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(photo(), quality=90, exif=exif.tobytes())


PLAIN = {
    "baseline": encode(photo(), quality=90),
    "4:4:4": encode(photo(), quality=90, subsampling="4:4:4"),
    "grey": encode(photo().convert("L")),
    "turned": turned(6),
}
OTHERS = {
    "progressive": encode(photo(), progressive=True),
    "cmyk": encode(photo().convert("CMYK")),
    "rgb in jpeg": encode(photo(), keep_rgb=True),
    "png": encode(photo(), "PNG"),
    "webp": encode(photo(), "WEBP"),
    "cut off": PLAIN["baseline"][: len(PLAIN["baseline"]) // 2],
    "empty": b"",
    "text": b"not an image at all",
    "two bytes": b"\xff\xd8",
    "no frame": b"\xff\xd8\xff\xd9" + bytes(20),
}
ALL = PLAIN | OTHERS
TURNED = {f"orientation {k}": turned(k) for k in range(1, 9)}


class FakeCodec:
    """Decodes on the host; ``refused`` are files that it gives None for."""

    def __init__(self, refused: Sequence[bytes] = ()) -> None:
        self.refused = refused
        self.seen: list[bytes] = []

    def decode(self, data: Sequence[bytes]) -> list[np.ndarray | None]:
        self.seen += data
        return [None if one in self.refused else np.asarray(display_image(one).picture) for one in data]


def on_the_cpu(data: bytes) -> DecodedImage | str:
    """The picture, or the sentence why there is none."""
    try:
        return decode_bytes(data, *SIZE)
    except ImageError as error:
        return str(error)


def check_outcomes(files: Mapping[str, bytes], batch: DecodedBatch) -> None:
    """Every file has the pixels, size or error that it has on the CPU; what the CPU decoded, to the last value."""
    pixels = iter(to_host(batch.pixels))
    for name, size, error in zip(files, batch.sizes, batch.errors, strict=True):
        expected = on_the_cpu(files[name])
        if isinstance(expected, str):
            assert (size, error) == (None, expected), name
            continue
        assert error is None, name
        assert size == (expected.width, expected.height), name
        difference = np.abs(next(pixels).astype(int) - expected.pixels).mean()
        assert difference <= (0 if name in OTHERS else TOLERANCE), name
    assert next(pixels, None) is None


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as opened:
        yield opened


@pytest.mark.parametrize("refused", [(), (PLAIN["4:4:4"],), tuple(PLAIN.values())])
def test_every_file_has_the_outcome_it_has_on_the_cpu(
    refused: tuple[bytes, ...], pool: ThreadPoolExecutor, resize_on_host: Resize
) -> None:
    codec = FakeCodec(refused)
    batch = BatchDecoder(codec, resize_on_host, np, pool).decode(list(ALL.values()), *SIZE)
    assert codec.seen == list(PLAIN.values())
    assert batch.on_device == len(PLAIN) - len(refused)
    check_outcomes(ALL, batch)


PIECES = [encode(photo(*size)) for size in ((320, 240), (100, 100), (90, 110), (900, 700), (8, 8))]


@pytest.mark.parametrize(
    ("limit", "pieces"),
    [(None, [5]), (630_000, [3, 1, 1]), (630_064, [3, 2]), (640_000, [3, 2]), (10**7, [5])],
)
def test_photos_are_decoded_in_pieces_that_fit_and_come_out_the_same(
    limit: int | None, pieces: list[int], pool: ThreadPoolExecutor, resize_on_host: Resize
) -> None:
    files: list[Any] = [OTHERS["png"], *PIECES[:2], OTHERS["text"], *PIECES[2:], ImageError("It is gone.")]
    whole = BatchDecoder(FakeCodec([PIECES[2]]), resize_on_host, np, pool).decode(files, *SIZE)
    codec = PieceCodec(resize_on_host, [PIECES[2]])
    batch = BatchDecoder(codec, codec.resize, np, pool, piece_pixels=limit, settle=codec.settle).decode(files, *SIZE)
    assert codec.pieces == pieces
    assert codec.settled == len(pieces)
    assert codec.seen == PIECES
    np.testing.assert_array_equal(batch.pixels, whole.pixels)
    assert (batch.sizes, batch.errors, batch.on_device) == (whole.sizes, whole.errors, whole.on_device)


def test_a_photo_larger_than_a_piece_is_left_to_the_cpu(pool: ThreadPoolExecutor, resize_on_host: Resize) -> None:
    codec = FakeCodec()
    decoder = BatchDecoder(codec, resize_on_host, np, pool, piece_pixels=320 * 240)
    assert [decoder.takes(one) is not None for one in PIECES] == [True, True, True, False, True]
    batch = decoder.decode(PIECES, *SIZE)
    assert codec.seen == [*PIECES[:3], PIECES[4]]
    np.testing.assert_array_equal(batch.pixels[3], decode_bytes(PIECES[3], *SIZE).pixels)


class PieceCodec(FakeCodec):
    """Looks that a piece is freed before the next one begins, and not before its resizing is waited for."""

    def __init__(self, resize: Resize, refused: Sequence[bytes] = ()) -> None:
        super().__init__(refused)
        self.resize_images = resize
        self.pieces: list[int] = []
        self.alive: list[weakref.ref[np.ndarray]] = []
        self.resized = self.settled = 0

    def decode(self, data: Sequence[bytes]) -> list[np.ndarray | None]:
        assert not [one for one in self.alive if one() is not None]
        self.pieces.append(len(data))
        decoded = [None if one is None else one.copy() for one in super().decode(data)]
        self.alive = [weakref.ref(one) for one in decoded if one is not None]
        return decoded

    def resize(self, images: Sequence[np.ndarray], slots: Sequence[int], pixels: np.ndarray) -> None:
        self.resize_images(images, slots, pixels)
        self.resized += 1

    def settle(self) -> None:
        assert all(one() is not None for one in self.alive)
        self.settled += 1
        assert self.settled == self.resized


def test_a_batch_of_none_and_a_batch_without_any_good_file(pool: ThreadPoolExecutor, resize_on_host: Resize) -> None:
    decoder = BatchDecoder(FakeCodec(), resize_on_host, np, pool)
    assert decoder.decode([], *SIZE).pixels.shape == (0, *SIZE, 3)
    batch = decoder.decode([b"", b"text"], *SIZE)
    assert batch.sizes == (None, None)
    assert batch.pixels.shape == (0, *SIZE, 3)
    assert all(batch.errors)


def test_a_file_that_could_not_be_opened_keeps_its_place_and_its_reason(
    pool: ThreadPoolExecutor, resize_on_host: Resize
) -> None:
    decoder = BatchDecoder(FakeCodec(), resize_on_host, np, pool)
    batch = decoder.decode([PLAIN["grey"], ImageError("It is gone."), PLAIN["turned"]], *SIZE)
    assert batch.errors == (None, "It is gone.", None)
    assert [size is None for size in batch.sizes] == [False, True, False]


@pytest.mark.parametrize("side", [700, 2000])
def test_full_decoding_stays_near_the_scaled_one_of_the_cpu(
    side: int, pool: ThreadPoolExecutor, resize_on_host: Resize
) -> None:
    data = [encode(photo(side, side * 3 // 4, seed), quality=90) for seed in range(2)]
    batch = BatchDecoder(FakeCodec(), resize_on_host, np, pool).decode(data, 224, 224)
    for pixels, content in zip(batch.pixels, data, strict=True):
        assert np.abs(pixels.astype(int) - decode_bytes(content, 224, 224).pixels).mean() <= TOLERANCE


def test_without_cupy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(MissingPackageError, match=r"'cupy' is needed to decode"):
        DeviceDecoder("cuda:0", 1)


def test_nvimagecodec_itself_on_the_host_gives_the_same(pool: ThreadPoolExecutor, resize_on_host: Resize) -> None:
    pytest.importorskip("nvidia.nvimgcodec", reason="nvImageCodec is not installed")
    files = ALL | TURNED
    batch = BatchDecoder(NvImageCodec(-1), resize_on_host, np, pool).decode(list(files.values()), *SIZE)
    assert batch.on_device == len(PLAIN | TURNED)
    check_outcomes(files, batch)


def test_the_codec_of_these_tests_is_libjpeg_as_that_of_the_engine() -> None:
    pixels = np.asarray(display_image(PLAIN["baseline"]).picture)
    np.testing.assert_array_equal(pixels, simplejpeg.decode_jpeg(PLAIN["baseline"], "RGB"))


@pytest.mark.gpu
def test_on_a_gpu_every_file_has_the_outcome_it_has_on_the_cpu() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    pytest.importorskip("nvidia.nvimgcodec", reason="nvImageCodec is not installed")
    if not cupy.is_available():
        pytest.skip("CuPy finds no GPU")
    files = ALL | TURNED
    decoder = DeviceDecoder("cuda:0", 2)
    try:
        batch = decoder.decode(list(files.values()), *SIZE)
    finally:
        decoder.close()
    assert isinstance(batch.pixels, cupy.ndarray)
    assert batch.on_device == len(PLAIN | TURNED)
    check_outcomes(files, batch)
