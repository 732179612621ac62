from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from pc_engine.converters import DATASET_FORMATS
from pc_engine.errors import PcEngineError, UsageError

FILES = ("coco", "cvat")
FOLDERS = tuple(name for name in DATASET_FORMATS if name not in FILES)


@pytest.mark.parametrize("to", DATASET_FORMATS)
def test_an_earlier_data_set_is_replaced_only_if_that_is_asked_for(two_modes, make_row, save, tmp_path, to) -> None:
    out = tmp_path / "set"
    save(two_modes.boxes, to, out)
    before = contents(out)
    with pytest.raises(UsageError, match="replace it with --fresh"):
        save(two_modes.ellipses, to, out)
    assert contents(out) == before
    save([make_row("photos/new.jpg")], to, out, fresh=True)
    save([make_row("photos/new.jpg")], to, tmp_path / "other")
    assert contents(out) == contents(tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == ["other", "set"]


def contents(path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files if file.name != "conversion.json"}


@pytest.mark.parametrize("to", FILES)
def test_a_file_is_written_where_only_what_is_open_for_writing_can_be_synced(
    two_modes, save, tmp_path, monkeypatch, to
) -> None:
    fcntl = pytest.importorskip("fcntl")
    sync = os.fsync

    def sync_as_windows_does(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & (os.O_WRONLY | os.O_RDWR) == 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync_as_windows_does)
    save(two_modes.boxes, to, tmp_path / "set")
    assert (tmp_path / "set").stat().st_size > 0


@pytest.mark.parametrize("to", FOLDERS)
def test_the_present_folder_is_filled_and_stays_the_same_one(two_modes, save, tmp_path, monkeypatch, to) -> None:
    (tmp_path / "set").mkdir()
    inode = (tmp_path / "set").stat().st_ino
    save(two_modes.ellipses, to, tmp_path / "other")
    monkeypatch.chdir(tmp_path / "set")
    for rows, fresh in ((two_modes.boxes, False), (two_modes.ellipses, True)):
        save(rows, to, Path("."), fresh=fresh)
        assert (tmp_path / "set").stat().st_ino == inode
    assert contents(Path(".")) == contents(tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == ["other", "set"]


@pytest.mark.parametrize("to", FOLDERS)
@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_no_conversion_made_is_never_replaced(two_modes, save, tmp_path, to, fresh) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").touch()
    with pytest.raises(UsageError, match=rf"photos holds a\.jpg, which no conversion to {to} wrote: choose another"):
        save(two_modes.boxes, to, photos, fresh=fresh)
    assert os.listdir(tmp_path) == ["photos"]


def test_a_data_set_that_somebody_made_by_hand_is_never_replaced(two_modes, save, tmp_path) -> None:
    (tmp_path / "set/labels").mkdir(parents=True)
    with pytest.raises(UsageError, match="set holds labels, which no conversion to yolo wrote"):
        save(two_modes.boxes, "yolo", tmp_path / "set", fresh=True)


def test_what_was_added_to_a_data_set_is_not_removed(two_modes, save, tmp_path) -> None:
    save(two_modes.boxes, "yolo", tmp_path / "set")
    (tmp_path / "set/images").mkdir()  # copies of the photos in the place of a link
    (tmp_path / "set/images/a.jpg").touch()
    with pytest.raises(UsageError, match="set holds images, which no"):
        save(two_modes.boxes, "yolo", tmp_path / "set", fresh=True)
    assert (tmp_path / "set/images/a.jpg").exists()


@pytest.mark.parametrize(
    ("to", "added"),
    [
        ("voc", "Annotations/mine.xml"),
        ("voc", "Annotations/b/new/mine.xml"),
        ("voc", "ImageSets/Main/train.txt"),
        ("yolo", "labels/b/mine.txt"),
        ("yolo", "labels/mine.cache"),
    ],
)
@pytest.mark.parametrize("fresh", [False, True])
def test_what_was_added_to_a_folder_of_a_data_set_is_not_removed(two_modes, save, tmp_path, to, added, fresh) -> None:
    save(two_modes.boxes, to, tmp_path / "set")
    (tmp_path / "set" / added).parent.mkdir(exist_ok=True)
    (tmp_path / "set" / added).write_text("mine")
    with pytest.raises(UsageError, match=f"set holds {added}, which no conversion to {to} wrote: choose another"):
        save(two_modes.boxes, to, tmp_path / "set", fresh=fresh)
    assert (tmp_path / "set" / added).read_text() == "mine"


def test_what_was_removed_and_what_a_reader_left_is_in_nobodys_way(two_modes, save, tmp_path) -> None:
    save(two_modes.boxes, "yolo", tmp_path / "set")
    (tmp_path / "set/labels/a.txt").unlink()
    (tmp_path / "set/labels/empty").mkdir()
    for cache in ("labels.cache", "labels/b.cache"):
        (tmp_path / "set" / cache).touch()
    save(two_modes.boxes, "yolo", tmp_path / "set", fresh=True)
    save(two_modes.boxes, "yolo", tmp_path / "other")
    assert contents(tmp_path / "set") == contents(tmp_path / "other")


@pytest.mark.parametrize(
    "said", ["", "[]", "{}", '{"files": {"Annotations/a.xml": 1}}', '{"files": [7]}', "[" * 100_000]
)
def test_what_a_description_does_not_name_is_not_removed(two_modes, save, tmp_path, said) -> None:
    save(two_modes.boxes, "voc", tmp_path / "set")
    (tmp_path / "set/conversion.json").write_text(said)
    with pytest.raises(UsageError, match="which no conversion to voc wrote"):
        save(two_modes.boxes, "voc", tmp_path / "set", fresh=True)
    assert (tmp_path / "set/Annotations/a.xml").exists()


def test_a_data_set_of_another_format_is_not_replaced(two_modes, save, tmp_path) -> None:
    save(two_modes.boxes, "csv", tmp_path / "set")
    with pytest.raises(UsageError, match=r"set holds counts\.csv, which no conversion to voc wrote"):
        save(two_modes.boxes, "voc", tmp_path / "set", fresh=True)


@pytest.mark.parametrize("to", FOLDERS)
def test_an_empty_folder_is_taken(two_modes, save, tmp_path, to) -> None:
    (tmp_path / "set").mkdir()
    save(two_modes.boxes, to, tmp_path / "set")
    assert json.loads((tmp_path / "set/conversion.json").read_text())["format"] == to


@pytest.mark.parametrize("to", DATASET_FORMATS)
def test_a_file_is_no_folder_and_a_folder_no_file(two_modes, save, tmp_path, to) -> None:
    out = tmp_path / "set"
    if to in FILES:
        out.mkdir()
        message = rf"is a folder, but {to} is one file: name it, such as .*set/{to}\."
    else:
        out.touch()
        message = f"is not a folder, but {to} makes"
    with pytest.raises(UsageError, match=message):
        save(two_modes.boxes, to, out, fresh=True)
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize(("to", "holds"), [("csv", r"counts\.csv"), ("label-studio", r"tasks\.json")])
def test_a_folder_is_not_called_as_a_file(two_modes, save, tmp_path, to, holds) -> None:
    for name in ("set.csv", "set.JSON"):
        message = rf"is called as a file, but {to} makes a folder, with {holds} in it: name that, such as .*/set\."
        with pytest.raises(UsageError, match=message):
            save(two_modes.boxes, to, tmp_path / name)
    assert os.listdir(tmp_path) == []
    (tmp_path / "set.csv").mkdir()  # which somebody wants
    save(two_modes.boxes, to, tmp_path / "set.csv")


@pytest.mark.parametrize("to", FILES)
@pytest.mark.parametrize("fresh", [False, True])
def test_a_file_that_no_conversion_made_is_never_replaced(two_modes, save, tmp_path, to, fresh) -> None:
    save(two_modes.boxes, next(name for name in FILES if name != to), tmp_path / "other")
    (tmp_path / "photo").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "run.json").write_text('{"info": {"description": "COCO 2017 Dataset"}}')
    before = contents(tmp_path)
    for name in before:
        with pytest.raises(UsageError, match=f"{name} exists, and no conversion to {to} wrote it: choose another"):
            save(two_modes.boxes, to, tmp_path / name, fresh=fresh)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("to", FILES)
@pytest.mark.parametrize("fresh", [False, True])
def test_nothing_in_a_run_is_replaced_or_added_to_its_rows(two_modes, save, write_rows, tmp_path, to, fresh) -> None:
    run = write_rows(tmp_path / "run", two_modes.boxes)
    before = contents(run)
    for name in (*before, "part-00001.jsonl", "run.json", "corrections.jsonl"):
        with pytest.raises(UsageError, match=f"{name} would be taken for a file of the run in its folder: choose"):
            save(two_modes.boxes, to, run / name, fresh=fresh)
    assert contents(run) == before
    save(two_modes.boxes, to, run / "labels")


def test_a_place_that_cannot_be_written_is_wrong_use(two_modes, save, tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        save(two_modes.boxes, "coco", tmp_path / "file/run.json")


@pytest.mark.parametrize("to", DATASET_FORMATS)
def test_what_a_killed_conversion_left_is_swept_away(two_modes, save, tmp_path, to) -> None:
    (tmp_path / ".set.new/labels").mkdir(parents=True)
    (tmp_path / ".set.new/labels/a.txt").touch()
    save(two_modes.boxes, to, tmp_path / "set")
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("to", FOLDERS)
def test_a_data_set_that_somebody_looks_into_is_waited_for(two_modes, save, tmp_path, open_for_a_moment, to) -> None:
    save(two_modes.boxes, to, tmp_path / "set")
    save(two_modes.ellipses, to, tmp_path / "set", fresh=True)
    assert [path.name for path in open_for_a_moment] == [".set.new", "set"]
    assert os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("to", FOLDERS)
def test_an_earlier_data_set_comes_back_where_the_new_one_cannot_come(
    two_modes, save, tmp_path, monkeypatch, to
) -> None:
    save(two_modes.boxes, to, tmp_path / "set")
    before = contents(tmp_path / "set")
    replace = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if path.name == ".set.new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PcEngineError, match=r"set cannot be written \(Input/output error\): make room"):
        save(two_modes.ellipses, to, tmp_path / "set", fresh=True)
    assert contents(tmp_path / "set") == before
    assert os.listdir(tmp_path) == ["set"]
