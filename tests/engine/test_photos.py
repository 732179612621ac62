from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from pc_engine.errors import ImageError
from pc_engine.photos import RunPhotos, small_picture

SIDEWAYS = 6  # turned by 90 degrees to be displayed


def jpeg(size: tuple[int, int], orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.new("RGB", size, "red").save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def test_a_small_picture_is_upright_and_no_longer_than_asked_for() -> None:
    with Image.open(io.BytesIO(small_picture(jpeg((800, 400), SIDEWAYS), 160))) as picture:
        assert (picture.format, picture.size) == ("WEBP", (80, 160))
    with Image.open(io.BytesIO(small_picture(jpeg((60, 40)), 160))) as picture:
        assert picture.size == (60, 40)


def test_what_is_no_picture_has_none() -> None:
    with pytest.raises(ImageError, match="not an image"):
        small_picture(b"no picture", 160)


def test_photos_are_found_from_the_present_folder_and_from_those_above_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("here/photos", "there/photos", "there/runs/run"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "there/photos/a.jpg").write_bytes(b"there")
    run = tmp_path / "there/runs/run"
    monkeypatch.chdir(tmp_path)
    assert RunPhotos(run).file("photos/a.jpg") == tmp_path / "there/photos/a.jpg"
    assert RunPhotos(run).read("photos/a.jpg") == b"there"
    monkeypatch.chdir(tmp_path / "here")
    assert RunPhotos(run).file("photos/a.jpg") == tmp_path / "here/photos/a.jpg"
    assert RunPhotos(run).file(str(tmp_path / "b.jpg")) == tmp_path / "b.jpg"
    assert RunPhotos(run).file("nowhere/a.jpg") == tmp_path / "here/nowhere/a.jpg"
    assert RunPhotos(run).file("https://example.org/a.jpg") is None
    assert RunPhotos(run).file("nul\0/a.jpg") is not None


def test_a_photo_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        RunPhotos(tmp_path).read(str(tmp_path / "gone.jpg"))
