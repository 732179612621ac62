from __future__ import annotations

import os
from functools import reduce
from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pc_engine.converters.naming import label_file, local_folder, name_of, place_among, place_of, placed
from pc_engine.runs.moved_photos import shared_folder
from pc_engine.runs.photos import RunPhotos


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("a.jpg", ("a.jpg",)),
        ("photos//b/./a.jpg", ("photos", "b", "a.jpg")),
        ("../a.jpg", ("..", "a.jpg")),
        ("/data/a.jpg", ("/", "data", "a.jpg")),
        ("odd::name.jpg", ("odd::name.jpg",)),
        ("s3://bucket/b/a.jpg", ("s3://", "bucket", "b", "a.jpg")),
        ("tar://b/./a.jpg::/data/shard-0.tar", ("/", "data", "shard-0.tar", "b", "a.jpg")),
        ("tar://a.jpg::s3://bucket/shard.tar", ("s3://", "bucket", "shard.tar", "a.jpg")),
        ("zip://a.jpg::tar://in.zip::out.tar", ("out.tar", "in.zip", "a.jpg")),
        ("photos/rows.parquet#17", ("photos", "rows.parquet#17")),
        ("caf\\xe9.jpg", ("caf\\xe9.jpg",)),
    ],
)
def test_a_place_goes_from_the_outermost_folder_inwards(path: str, place: tuple[str, ...]) -> None:
    assert place_of(path) == place


@pytest.mark.parametrize("path", ["a.jpg", "photos/a.jpg", "/data/a.jpg", "s3://bucket/a.jpg", "写真/naïve.jpg"])
def test_a_place_is_named_as_it_was(path: str) -> None:
    assert name_of(place_of(path)) == path


def folder_of(*paths: str) -> str:
    return name_of(reduce(shared_folder, map(place_of, paths), None) or ())


def test_the_shared_folder_holds_all_images() -> None:
    assert folder_of("photos/a.jpg") == "photos"
    assert folder_of("photos/a.jpg", "photos/b.jpg") == "photos"
    assert folder_of("photos/x/a.jpg", "photos/xy/a.jpg") == "photos"
    assert folder_of("photos/a.jpg", "photos/x/a.jpg", "photos/x/y/b.jpg") == "photos"
    assert folder_of("photos/x/a.jpg", "photos/x") == "photos"
    assert folder_of("a.jpg", "photos/b.jpg") == ""
    assert folder_of("/data/a.jpg", "/other/b.jpg") == "/"
    assert folder_of("/data/a.jpg", "data/a.jpg") == ""
    assert folder_of("tar://a.jpg::/data/0.tar", "tar://a.jpg::/data/1.tar") == "/data"
    assert folder_of("s3://one/a.jpg", "s3://two/a.jpg") == "s3://"


@given(st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map("/".join), min_size=1, max_size=6))
def test_the_shared_folder_does_not_depend_on_the_order(paths: list[str]) -> None:
    folder = folder_of(*paths)
    assert folder == folder_of(*reversed(paths))
    assert all(path.startswith(folder) for path in paths)


@pytest.mark.parametrize(
    ("path", "file"),
    [
        ("b/a.jpg", "b/a.txt"),
        ("a.JPEG", "a.txt"),
        ("a.b.png", "a.b.txt"),
        ("photo", "photo.txt"),
        (".jpg", ".jpg.txt"),
        ("version.2", "version.2.txt"),
        ("rows.parquet#17", "rows.parquet#17.txt"),
        ("/data/a.jpg", "_/data/a.txt"),
        ("../../etc/a.jpg", "__/__/etc/a.txt"),
        ("s3://bucket/a.jpg", "s3/bucket/a.txt"),
        ("tar://../../a.jpg::0.tar", "0.tar/__/__/a.txt"),
        ("caf\\xe9.jpg", "caf\\xe9.txt"),
        ("写真 📷.webp", "写真 📷.txt"),
        ("nul\0.jpg", "nul_.txt"),
    ],
)
def test_a_label_file_is_named_after_its_image(path: str, file: str) -> None:
    assert label_file(place_of(path), ".txt") == PurePath(file)


@given(st.text(st.sampled_from("./\\:aé\0~\n"), min_size=1))
def test_a_label_file_never_leaves_its_folder(path: str) -> None:
    for name in (path, f"tar://{path}::0.tar", f"s3://{path}"):
        if place_of(name):
            file = label_file(place_of(name), ".txt")
            assert not file.is_absolute()
            assert ".." not in file.parts
            assert "\0" not in str(file)


def test_a_folder_of_this_machine_is_found_and_others_are_not(tmp_path, monkeypatch) -> None:
    (tmp_path / "photos/x").mkdir(parents=True)
    (tmp_path / "photos/x/a.jpg").touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    photos = RunPhotos(tmp_path / "run")
    path = str(tmp_path / "photos/x/a.jpg")
    assert local_folder(place_of(str(tmp_path / "photos")), path, photos) == tmp_path / "photos"
    assert local_folder(("photos",), "photos/./x/a.jpg", photos) == tmp_path / "photos"
    assert local_folder((), "photos/x/a.jpg", photos) == tmp_path
    assert local_folder((), "gone.jpg", photos) is None
    assert local_folder(("other",), "photos/x/a.jpg", photos) is None
    assert local_folder(("gone",), "gone/a.jpg", photos) is None
    assert local_folder(("s3://", "bucket"), "s3://bucket/a.jpg", photos) is None


def test_a_folder_may_be_named_otherwise_than_the_rows_name_it(tmp_path, monkeypatch) -> None:
    (tmp_path / "photos/x").mkdir(parents=True)
    (tmp_path / "photos/x/a.jpg").touch()
    monkeypatch.chdir(tmp_path / "photos")
    photos = RunPhotos(tmp_path / "run")
    for folder in ("photos", str(tmp_path / "photos"), "."):
        assert place_among(folder, "photos/x/a.jpg", photos) == (("photos",), ())
    assert place_among("x", str(tmp_path / "photos/x/a.jpg"), photos) == (place_of(str(tmp_path / "photos/x")), ())
    assert place_among(str(tmp_path), "photos/x/a.jpg", photos) == ((), ())
    assert place_among("s3://bucket", "photos/x/a.jpg", photos) == (("s3://", "bucket"), ())
    assert place_among("..", "../photos/x/a.jpg", photos) == (("..",), ())


def test_a_folder_above_the_one_that_relative_paths_begin_in_is_an_absolute_one(tmp_path, monkeypatch) -> None:
    (tmp_path / "photos/x").mkdir(parents=True)
    (tmp_path / "photos/x/a.jpg").touch()
    monkeypatch.chdir(tmp_path / "photos")
    start = place_of(str(tmp_path / "photos"))
    for folder in ("..", str(tmp_path)):
        assert place_among(folder, "x/a.jpg", RunPhotos(tmp_path / "run")) == (start[:-1], start)
    assert place_among("/", "x/a.jpg", RunPhotos(tmp_path / "run")) == (("/",), start)


def test_a_folder_on_another_drive_is_an_absolute_one(tmp_path, monkeypatch) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a.jpg").touch()
    monkeypatch.chdir(tmp_path)

    def relpath(*_: object) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", relpath)
    places = place_of(os.path.abspath("/d")), place_of(str(tmp_path))
    assert place_among("/d", "x/a.jpg", RunPhotos(tmp_path / "run")) == places


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("b/a.jpg", ("/", "data", "photos", "b", "a.jpg")),
        ("../a.jpg", ("/", "data", "a.jpg")),
        ("../../../../a.jpg", ("/", "a.jpg")),
        ("/b/a.jpg", ("/", "b", "a.jpg")),
        ("s3://b/a.jpg", ("s3://", "b", "a.jpg")),
        ("tar://a.jpg::0.tar", ("/", "data", "photos", "0.tar", "a.jpg")),
        ("tar://a.jpg::/b/0.tar", ("/", "b", "0.tar", "a.jpg")),
    ],
)
def test_a_relative_path_is_placed_below_the_folder_that_it_begins_in(path: str, place: tuple[str, ...]) -> None:
    assert placed(path, ("/", "data", "photos")) == place
    assert placed(path, ()) == place_of(path)
