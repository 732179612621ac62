from __future__ import annotations

import os
from pathlib import Path

import pytest

from pc_engine.errors import UsageError
from pc_engine.run_sources import FOLDERS, named_folders, with_earlier_folders


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos/in").mkdir(parents=True)
    (tmp_path / "photos/in/a.jpg").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path.resolve()


def test_folders_are_found_by_their_real_paths(here: Path) -> None:
    photos = str(here / "photos")
    assert named_folders(["photos/", "./photos"]) == {photos: "photos"}
    assert named_folders(["link"]) == {photos: "link"}
    assert named_folders(["link/in/a.jpg", "."]) == {f"{photos}/in": "link/in", str(here): "."}
    assert named_folders(["s3://bucket/photos", "@list.txt", "*.jpg", "demo:"]) == {}


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("photos", "photos"),
        ("photos", "./photos/"),
        ("photos", "photos/in"),
        ("photos/in", "photos"),
        (".", "photos/in/a.jpg"),
        ("photos", "other"),
        ("{here}/photos", "{here}/photos/in/../in"),
        ("{here}/photos", "{here}"),
    ],
)
def test_photos_that_have_the_names_they_had_go_on(here: Path, before: str, now: str) -> None:
    first, second = (named_folders([each.format(here=here)]) for each in (before, now))
    assert with_earlier_folders({FOLDERS: first}, second, Path("run")) == {**first, **second}


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("photos", "{here}/photos"),
        ("{here}/photos", "photos"),
        ("photos", "link"),
        ("photos", "link/in"),
        ("link/in/a.jpg", "photos"),
        ("{here}", "photos/in"),
        ("photos", "other/../../{name}/photos"),
    ],
)
def test_photos_by_another_name_are_not_counted_twice(here: Path, before: str, now: str) -> None:
    first, second = (named_folders([each.format(here=here, name=here.name)]) for each in (before, now))
    with pytest.raises(UsageError, match=r"run has rows of the photos in .* by another name: name them as before"):
        with_earlier_folders({FOLDERS: first}, second, Path("run"))


@pytest.mark.parametrize("known", [{}, {FOLDERS: None}, {FOLDERS: ["photos"]}, {FOLDERS: {"/": 3}}])
def test_what_a_changed_file_says_is_not_believed(here: Path, known: dict[str, object]) -> None:
    folders = named_folders(["photos"])
    assert with_earlier_folders(known, folders, Path("run"))[os.path.realpath("photos")] == "photos"
