from __future__ import annotations

import os
import sys
import tarfile
from pathlib import Path

import pytest

from pc_engine.errors import UsageError
from pc_engine.result import Result, error_result
from pc_engine.runs.photos import RunPhotos
from pc_engine.runs.writers import PartitionWriter


@pytest.fixture
def now(tmp_path: Path) -> Path:
    folder = tmp_path / "now"
    folder.mkdir()
    return folder


def photos(tmp_path: Path, now: Path, *paths: str) -> RunPhotos:
    """Return where the photos of a run over ``paths`` are found, which lie in ``now``."""
    run = tmp_path / "run"
    run.mkdir()
    with PartitionWriter(run, "jsonl") as writer:
        for path in paths:
            writer.write(Result(path, "ok", None, 4, 4, "c2p", "tiny", 0, "0"))
        writer.write(error_result("/elsewhere/broken.jpg", "It is broken.", mode="c2p", model="tiny"))
    return RunPhotos(run, now)


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.fsencode(name))


@pytest.mark.parametrize("before", ["/data/photos", "photos", "../photos", "."])
def test_photos_have_their_names_below_the_folder_that_they_shared(tmp_path: Path, now: Path, before: str) -> None:
    names = ("a.jpg", "b/a.jpg", "b/c.jpg")
    put(now, *names)
    found = photos(tmp_path, now, *(os.path.join(before, name) for name in names))
    for name in names:
        assert found.file(os.path.join(before, name)) == now / name
        assert found.read(os.path.join(before, name)) == name.encode()
        assert not found.is_gone(os.path.join(before, name))
    gone = os.path.join(before, "b/gone.jpg")
    assert found.is_gone(gone)
    assert found.file(gone) == now / "b/gone.jpg"
    assert found.file("/elsewhere/broken.jpg") == Path("/elsewhere/broken.jpg")


@pytest.mark.parametrize("below", ["2024", "photos/2024"])
def test_the_folder_may_be_one_above_that_which_they_shared(tmp_path: Path, now: Path, below: str) -> None:
    put(now / below, "b.jpg", "c.jpg")
    paths = [f"/data/photos/2024/{name}.jpg" for name in "abc"]
    found = photos(tmp_path, now, *paths)
    assert [found.is_gone(path) for path in paths] == [True, False, False]
    assert found.file(paths[0]) == now / below / "a.jpg"


def test_a_photo_of_the_same_name_in_another_folder_is_not_taken(tmp_path: Path, now: Path) -> None:
    put(now, "a.jpg", "one/a.jpg")
    found = photos(tmp_path, now, "/data/one/a.jpg", "/data/two/a.jpg")
    assert found.read("/data/one/a.jpg") == b"one/a.jpg"
    assert found.is_gone("/data/two/a.jpg")


def test_a_photo_beside_the_folder_is_not_taken(tmp_path: Path, now: Path) -> None:
    put(tmp_path / "photos", "a.jpg")
    assert photos(tmp_path, now, "../photos/a.jpg", "../photos/b.jpg").is_gone("../photos/a.jpg")


def test_photos_in_archives_are_found_in_these(tmp_path: Path, now: Path) -> None:
    put(now, "in/a.jpg", "t.parquet")
    with tarfile.open(now / "s.tar", "w") as archive:
        archive.add(now / "in/a.jpg", "in/a.jpg")
    paths = ("tar://in/a.jpg::/data/s.tar", "/data/t.parquet#1", "https://host/a.jpg")
    found = photos(tmp_path, now, *paths)
    assert found.read(paths[0]) == b"in/a.jpg"
    assert found.file(paths[1]) == now / "t.parquet#1"
    assert not found.is_gone(paths[1])
    assert found.file(paths[2]) is None


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file systems there hold no such names")
def test_names_that_are_not_utf_8_are_found(tmp_path: Path, now: Path) -> None:
    name = os.fsdecode(b"caf\xe9/\xff.jpg")
    put(now, name)
    found = photos(tmp_path, now, f"/data/{name}", "/data/b.jpg")
    assert found.read("/data/caf\\xe9/\\xff.jpg") == b"caf\xe9/\xff.jpg"


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no folder .*absent: name the one"):
        photos(tmp_path, tmp_path / "absent", "a.jpg")
