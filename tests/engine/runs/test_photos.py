from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from pc_engine.errors import ImageError
from pc_engine.runs.photos import RunPhotos, small_picture
from pc_engine.sources import iter_images
from pc_engine.sources.stored_names import stored_name

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


def test_a_picture_may_have_the_pixels_that_the_run_found_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pc_engine.runs.photos.MAX_PIXELS", 2000)
    with pytest.raises(ImageError, match="more than the limit of 2,000"):
        small_picture(jpeg((60, 40)), 16)
    with Image.open(io.BytesIO(small_picture(jpeg((60, 40)), 16, pixels=60 * 40))) as picture:
        assert max(picture.size) == 16


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pillow_lets_a_picture_pass_that_the_run_let_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pc_engine.runs.photos.MAX_PIXELS", 2000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert small_picture(jpeg((60, 40)), 16, pixels=60 * 40)


def test_what_is_no_picture_has_none() -> None:
    with pytest.raises(ImageError, match="not an image"):
        small_picture(b"no picture", 160)


def test_photos_are_found_from_the_present_folder_and_from_those_above_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("here/photos", "there/photos", "there/runs/run"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "there/photos/a.jpg").write_bytes(b"there")
    (tmp_path / "here/photos/b.jpg").write_bytes(b"here")
    run = tmp_path / "there/runs/run"
    monkeypatch.chdir(tmp_path)
    assert RunPhotos(run).file("photos/a.jpg") == tmp_path / "there/photos/a.jpg"
    assert RunPhotos(run).read("photos/a.jpg") == b"there"
    assert RunPhotos(run).file("photos/gone.jpg") == tmp_path / "there/photos/gone.jpg"  # where its folder is
    monkeypatch.chdir(tmp_path / "here")
    assert RunPhotos(run).file("photos/b.jpg") == tmp_path / "here/photos/b.jpg"
    assert RunPhotos(run).file("photos/gone.jpg") == tmp_path / "here/photos/gone.jpg"
    assert RunPhotos(run).file(str(tmp_path / "b.jpg")) == tmp_path / "b.jpg"
    assert RunPhotos(run).file("nowhere/a.jpg") == tmp_path / "here/nowhere/a.jpg"
    assert RunPhotos(run).file("https://example.org/a.jpg") is None
    assert RunPhotos(run).file("nul\0/a.jpg") is not None


def test_photos_are_found_from_the_folder_that_the_run_was_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("started/sub", "started/photos", "here/photos", "runs/run"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "started/photos/a.jpg").write_bytes(b"started")
    (tmp_path / "here/photos/a.jpg").write_bytes(b"here")
    run = tmp_path / "runs/run"
    monkeypatch.chdir(tmp_path / "here")
    for shard, folder in enumerate(("gone", "started/sub", "started"), start=1):
        said = {"shard": [shard, 3], "folder": str(tmp_path / folder)}
        (run / f"run-{shard}-of-3.json").write_text(json.dumps(said))
    assert RunPhotos(run).read("../photos/a.jpg") == b"started"
    assert RunPhotos(run).read("photos/a.jpg") == b"started"
    assert RunPhotos(run).file("b.jpg") == tmp_path / "started/sub/b.jpg"
    for said_folder in ("started", ".", "", 7, None, "\0", "/" + "x" * 10_000, "\ud800"):
        (run / "run-2-of-3.json").write_text(json.dumps({"shard": [2, 3], "folder": said_folder}))
        (run / "run-3-of-3.json").write_text(json.dumps({"shard": [3, 3], "folder": said_folder}))
        assert RunPhotos(run).read("photos/a.jpg") == b"here"


def test_a_folder_of_the_same_name_does_not_hide_the_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("here/photos", "there/photos", "there/run"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "there/photos/a.jpg").write_bytes(b"there")
    (tmp_path / "there/b.jpg").write_bytes(b"beside the run")
    monkeypatch.chdir(tmp_path / "here")
    photos = RunPhotos(tmp_path / "there/run")
    assert photos.read("photos/a.jpg") == b"there"
    assert photos.read("b.jpg") == b"beside the run"
    assert photos.file("gone.jpg") == tmp_path / "there/gone.jpg"


def test_archives_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there/run").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    picture = jpeg((8, 8))
    with tarfile.open(tmp_path / "there/s.tar", "w") as archive:
        member = tarfile.TarInfo("in/a.jpg")
        member.size = len(picture)
        for _ in range(2):
            archive.addfile(member, io.BytesIO(picture))
    with zipfile.ZipFile(tmp_path / "there/z.zip", "w") as zipped:
        zipped.writestr("in/a.jpg", picture)
    parquet.write_table(pa.table({"image": [picture]}), tmp_path / "there/t.parquet")
    monkeypatch.chdir(tmp_path / "there")
    names = [image.name for image in iter_images(["s.tar", "zip://in/a.jpg::z.zip", "t.parquet"])]
    assert len(names) == 4
    monkeypatch.chdir(tmp_path / "here")
    for name in names:
        assert RunPhotos(tmp_path / "there/run").read(name) == picture


def test_photos_elsewhere_are_read_at_their_addresses(tmp_path: Path) -> None:
    with fsspec.open("memory://photos-elsewhere/a.jpg", "wb") as stream:
        stream.write(b"a photo")
    assert RunPhotos(tmp_path).read("memory://photos-elsewhere/a.jpg") == b"a photo"


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file systems there hold no such names")
def test_names_that_are_not_utf_8_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / os.fsdecode(b"there/caf\xe9")
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(b"a photo")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    photos = RunPhotos(tmp_path / "there/run")
    name = stored_name(os.fsdecode(b"caf\xe9/\xff.jpg"))
    assert photos.file(name) == folder / os.fsdecode(b"\xff.jpg")
    assert photos.read(name) == b"a photo"


def test_a_photo_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        RunPhotos(tmp_path).read(str(tmp_path / "gone.jpg"))
