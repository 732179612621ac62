from __future__ import annotations

import errno
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pc_engine.decoding.decode import decode_bytes
from pc_engine.errors import ImageError, UsageError
from pc_engine.sources import SourceImage, as_source_image, iter_images, read_file, read_image
from pc_engine.sources.image import broken_image, local_image, open_regular


def test_a_path_becomes_the_image_in_that_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"bytes")
    image = as_source_image(tmp_path / "a.jpg")
    assert image.name == str(tmp_path / "a.jpg")
    assert image.read() == read_image(image.name) == b"bytes"


def test_an_image_stays_as_it_is() -> None:
    image = SourceImage("s3://bucket/a.jpg", lambda: b"")
    assert as_source_image(image) is image


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (SourceImage(Path("a.jpg"), lambda: b""), r"The name of an image is .*Path\('a.jpg'\), expected text"),  # type: ignore[arg-type]
        (SourceImage.from_bytes(7, b""), "The name of an image is 7, expected text"),  # type: ignore[arg-type]
        (
            SourceImage("a", b"bytes"),
            r"read of 'a' is of type bytes, .*: give the bytes as SourceImage.from_bytes",
        ),  # type: ignore[arg-type]
    ],
)
def test_an_image_without_a_name_or_what_reads_it_is_said(image: SourceImage, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        as_source_image(image)


def test_nothing_is_read_before_its_turn(tmp_path: Path) -> None:
    image = local_image(tmp_path / "later.jpg")
    (tmp_path / "later.jpg").write_bytes(b"there now")
    assert image.read() == b"there now"


def test_images_go_to_other_processes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"bytes")
    assert pickle.loads(pickle.dumps(local_image(tmp_path / "a.jpg"))).read() == b"bytes"


def test_what_cannot_be_listed_says_why_when_it_is_read() -> None:
    image = broken_image("shard.tar", "It broke off.")
    assert image.name == "shard.tar"
    with pytest.raises(ImageError, match="It broke off"):
        image.read()


def refusal(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        read_file(path)
    return str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no FIFOs here")
def test_a_file_that_a_fifo_replaces_before_it_is_opened_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"bytes")
    looked_at = os.stat

    def replace(name: object) -> os.stat_result:
        status = looked_at(name)  # type: ignore[arg-type]
        path.unlink()
        os.mkfifo(path)
        return status

    open_before = len(os.listdir("/dev/fd"))
    with monkeypatch.context() as patched:
        patched.setattr("pc_engine.sources.image.os.stat", replace)
        assert refusal(path) == "It is not a regular file."
        path.unlink()
        path.write_bytes(b"bytes")
        with pytest.raises(ImageError, match="not a regular file"):
            open_regular(path)
    assert len(os.listdir("/dev/fd")) == open_before


@pytest.mark.skipif(not Path("/dev/zero").is_char_device(), reason="there are no devices here")
def test_links_to_devices_and_to_nothing_are_refused(tmp_path: Path) -> None:
    for name, target in (("zero", "/dev/zero"), ("tty", "/dev/tty"), ("gone", "nowhere"), ("loop", "loop")):
        (tmp_path / name).symlink_to(target)
    assert refusal(tmp_path / "zero") == refusal(tmp_path / "tty") == "It is not a regular file."
    assert refusal(tmp_path / "gone") == "The file cannot be read: No such file or directory."
    assert refusal(tmp_path / "loop") == "The file cannot be read: Too many levels of symbolic links."


def test_a_file_that_grows_while_it_is_read_is_not_read_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jpg"
    path.write_bytes(b"bytes")
    monkeypatch.setattr("pc_engine.sources.image.MAX_BYTES", 5 << 20)
    # Somebody writes to it as fast as it is read.
    monkeypatch.setattr("pc_engine.sources.image.os.read", lambda _, n: b"\0" * n)
    assert "the limit" in refusal(path)


@pytest.mark.parametrize("size", [0, 1, 4096, 3_000_000])
def test_a_file_is_read_whole_whatever_its_size_was_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = tmp_path / "a.jpg"
    content = os.urandom(2_500_000)
    path.write_bytes(content)
    assert read_file(path) == content
    status = os.stat(path)
    monkeypatch.setattr(
        "pc_engine.sources.image.os.stat",
        lambda _: SimpleNamespace(st_mode=status.st_mode, st_size=size),  # as of files under /proc
    )
    found = read_file(path)
    monkeypatch.undo()
    assert found == content


def test_a_disk_that_fails_while_it_is_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"bytes")

    def fail(*_: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("pc_engine.sources.retries.PAUSE", 0.0)
    monkeypatch.setattr("pc_engine.sources.image.os.read", fail)
    assert refusal(path) == "The file cannot be read: Input/output error."


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.EMFILE])
def test_a_network_disk_that_fails_for_a_moment_costs_no_row_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"bytes")
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        archive.add(tmp_path / "photos/a.jpg", "a.jpg")
    failed: set[str] = set()

    def fail_first(call: Any, name: str) -> Any:
        def called(*arguments: Any, **options: Any) -> Any:
            if name not in failed:
                failed.add(name)
                raise OSError(number, os.strerror(number))
            return call(*arguments, **options)

        return called

    monkeypatch.setattr("pc_engine.sources.retries.PAUSE", 0.0)
    (image, member) = iter_images([tmp_path / "photos", tmp_path / "s.tar"])
    for module, name in (("folders.os", "scandir"), ("image.os", "open")):
        monkeypatch.setattr(f"pc_engine.sources.{module}.{name}", fail_first(getattr(os, name), name))
    monkeypatch.setattr("pc_engine.sources.tar_shards.open", fail_first(open, "span"), raising=False)
    assert image.read() == member.read() == b"bytes"
    assert [image.name for image in iter_images([tmp_path / "photos"])] == [f"{tmp_path}/photos/a.jpg"]
    assert failed == {"scandir", "open", "span"}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_pixels_in_memory_are_decoded_as_those_of_a_file_are(mode: str, tmp_path: Path) -> None:
    levels = np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8)
    if mode == "I;16":
        picture = Image.fromarray(levels[..., 0].astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(levels).convert(mode)
    picture.save(tmp_path / "a.tif")
    expected = decode_bytes((tmp_path / "a.tif").read_bytes(), 20, 20)
    found = decode_bytes(SourceImage.from_pixels("a", picture).read(), 20, 20)
    assert (found.width, found.height) == (60, 40)
    np.testing.assert_array_equal(found.pixels, expected.pixels)


def test_files_in_memory_are_each_images_own() -> None:
    images = [SourceImage.from_bytes(str(k), data, count=k) for k, data in enumerate((b"a", b"b", memoryview(b"c")))]
    assert [(image.name, image.read(), image.count) for image in images] == [
        ("0", b"a", 0),
        ("1", b"b", 1),
        ("2", b"c", 2),
    ]
    data = bytearray(b"before")
    image = SourceImage.from_bytes("a", data)
    data[:] = b"after"
    assert pickle.loads(pickle.dumps(image)).read() == b"before"


@pytest.mark.parametrize("data", ["text", None, np.zeros((4, 4, 3), np.uint8), [1, 2]])
def test_what_is_no_file_is_refused(data: Any) -> None:
    with pytest.raises(UsageError, match=r"The file of 'a' is of type .*, expected bytes"):
        SourceImage.from_bytes("a", data)


@pytest.mark.parametrize("shape", [(40, 60, 3), (40, 60)])
def test_an_array_is_a_picture_of_red_green_and_blue_or_of_grey(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, shape, np.uint8)
    image = SourceImage.from_pixels("a", pixels[::-1], count=2)
    assert (image.name, image.count, image.error) == ("a", 2, None)
    decoded = decode_bytes(pickle.loads(pickle.dumps(image)).read(), 40, 60).pixels
    np.testing.assert_array_equal(decoded, np.broadcast_to(pixels[::-1].reshape(40, 60, -1), (40, 60, 3)))


def test_an_orientation_that_a_picture_holds_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40), "red").save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as picture:
        found = decode_bytes(SourceImage.from_pixels("a", picture).read(), 20, 20)
    assert (found.width, found.height) == (40, 60)


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4, 3), np.float32), np.zeros((3, 4, 4), np.uint8), np.zeros((0, 4), np.uint8), None, b"abc"]
)
def test_what_is_no_picture_is_refused(pixels: object) -> None:
    with pytest.raises(UsageError, match=r"The pixels of 'a' are of type .*, expected uint8 of shape"):
        SourceImage.from_pixels("a", pixels)


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(UsageError, match="The picture 'a' is 0 x 5 pixels"):
        SourceImage.from_pixels("a", Image.new("RGB", (0, 5)))


def test_what_numpy_cannot_take_is_said_as_it_says_it() -> None:
    class Tensor:
        def __array__(self, *_: object, **__: object) -> np.ndarray:
            raise TypeError("Use Tensor.cpu() to copy it first.")

    with pytest.raises(
        UsageError, match=r"The pixels of 'a' cannot become an array: Use Tensor.cpu\(\) to copy it first"
    ):
        SourceImage.from_pixels("a", Tensor())


@pytest.mark.parametrize("mode", ["L", "P", "RGB"])
def test_what_is_to_be_seen_through_is_seen_through(mode: str, tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4), (255, 0, 0)).convert(mode)
    picture.info["transparency"] = (255, 0, 0) if mode == "RGB" else picture.getpixel((0, 0))
    picture.save(tmp_path / "a.png")
    expected = decode_bytes((tmp_path / "a.png").read_bytes(), 4, 4).pixels
    assert (expected == 255).all()
    np.testing.assert_array_equal(decode_bytes(SourceImage.from_pixels("a", picture).read(), 4, 4).pixels, expected)


@pytest.mark.parametrize(("mode", "plain"), [("HSV", "RGB"), ("YCbCr", "RGB"), ("La", "LA"), ("RGBa", "RGBA")])
def test_modes_that_no_file_has_are_converted(mode: str, plain: str) -> None:
    picture = Image.new("RGB", (4, 4), (250, 130, 10)).convert(plain).convert(mode)
    found = decode_bytes(SourceImage.from_pixels("a", picture).read(), 4, 4).pixels
    np.testing.assert_array_equal(found, np.asarray(picture.convert(plain).convert("RGB")))


def test_sixteen_bits_in_the_machines_order_are_those_of_any() -> None:
    values = (np.arange(16, dtype=np.uint16) * 4000).tobytes()
    expected, found = (Image.frombytes(mode, (4, 4), values) for mode in ("I;16", "I;16N"))
    pixels = [decode_bytes(SourceImage.from_pixels("a", picture).read(), 4, 4).pixels for picture in (expected, found)]
    np.testing.assert_array_equal(*pixels)
    assert len(np.unique(pixels[0])) == 16


def test_a_picture_that_is_open_is_counted_by_several_threads(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (600, 800, 3), np.uint8)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture, ThreadPoolExecutor(8) as pool:
        image = SourceImage.from_pixels("a", picture)
        files = list(pool.map(lambda _: image.read(), range(16)))
    assert len({*files}) == 1
