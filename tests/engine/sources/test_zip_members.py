from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.zip import ZipFileSystem

from pc_engine.errors import ImageError
from pc_engine.sources import count_images, iter_images, read_image
from pc_engine.sources.zip_members import is_zip_member


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The archives that were opened."""
    found: list[str] = []
    begin = ZipFileSystem.__init__

    def counted(self: Any, fo: str, **options: Any) -> None:
        found.append(fo)
        begin(self, fo, **options)

    monkeypatch.setattr(ZipFileSystem, "__init__", counted)
    return found


def write(path: Path, content: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for k in range(20):
            archive.writestr(f"in/{k}.jpg", f"{content} {k}" if k else "")
    return path


@pytest.mark.parametrize("address", ["{}", "file://{}"])
def test_members_are_read_out_of_one_archive_that_stays_open(tmp_path: Path, opened: list[str], address: str) -> None:
    archive = address.format(write(tmp_path / "a.zip", "old"))
    for k in (*range(20), 3, 0):
        assert read_image(f"zip://in/{k}.jpg::{archive}") == (f"old {k}".encode() if k else b"")
    assert len(opened) == 1
    write(tmp_path / "a.zip", "newer")
    assert read_image(f"zip://in/4.jpg::{archive}") == b"newer 4"
    write(tmp_path / "b.zip", "other")
    assert read_image(f"zip://in/4.jpg::{address.format(tmp_path / 'b.zip')}") == b"other 4"
    assert len(opened) == 3


@pytest.mark.parametrize("name", ["zip://in/20.jpg::{}/a.zip", "zip://in/1.jpg::{}/gone.zip", "zip://::{}/a.zip"])
def test_what_is_not_there_is_an_error_of_the_image(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pc_engine.sources.retries.PAUSE", 0.0)
    write(tmp_path / "a.zip", "a")
    for _ in range(2):
        with pytest.raises(ImageError):
            read_image(name.format(tmp_path))
        assert read_image(f"zip://in/1.jpg::{tmp_path}/a.zip") == b"a 1"


def test_names_with_colons_are_listed_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pc_engine.sources.retries.PAUSE", 0.0)
    members = ["a::b.png", "c.png", "d/x.png::y.png", "e:/f.png", "t.txt::n.png"]
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for member in (*members, "a.png::notes.txt"):
            archive.writestr(member, member)
    passed_over: list[str] = []
    images = list(iter_images([f"zip://::{tmp_path}/z.zip"], passed_over=passed_over.append))
    assert sorted(image.name for image in images) == [f"zip://{member}::{tmp_path}/z.zip" for member in members]
    for image in images:
        member = image.name.removeprefix("zip://").removesuffix(f"::{tmp_path}/z.zip")
        assert image.read() == read_image(image.name) == member.encode()
    assert passed_over == [f"zip://a.png::notes.txt::{tmp_path}/z.zip"]


def test_a_member_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pc_engine.sources.image.MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("large.jpg", bytes(5000))
        archive.writestr("small.jpg", b"small")
    for _ in range(2):
        with pytest.raises(ImageError, match="limit"):
            read_image(f"zip://large.jpg::{tmp_path}/a.zip")
        assert read_image(f"zip://small.jpg::{tmp_path}/a.zip") == b"small"


def test_names() -> None:
    assert is_zip_member("zip://a.jpg::photos.zip")
    assert not is_zip_member("zip://::photos.zip")
    assert not is_zip_member("zip://a.jpg")
    assert not is_zip_member("simplecache::zip://a.jpg::photos.zip")


@pytest.mark.parametrize("source", ["a.zip", "*.zip", "@list.txt", "./a.zip", "{here}/a.zip"])
def test_an_archive_is_listed_by_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    write(tmp_path / "a.zip", "a")
    (tmp_path / "list.txt").write_text("a.zip\n")
    monkeypatch.chdir(tmp_path)
    source = source.replace("{here}", str(tmp_path))
    images = list(iter_images([source]))
    assert [image.name for image in images][:2] == [
        f"zip://in/{k}.jpg::{images[0].name.split('::')[1]}" for k in (0, 1)
    ]
    assert images[5].read() == read_image(images[5].name)
    assert count_images([source]) == len(images) == 20


def test_an_archive_in_a_folder_is_none_of_its_photos_and_a_damaged_one_says_why(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"PK" + bytes(100))
    assert list(iter_images([tmp_path])) == []
    (image,) = iter_images([tmp_path / "bad.zip"])
    assert image.name == str(tmp_path / "bad.zip")
    with pytest.raises(ImageError):
        image.read()
