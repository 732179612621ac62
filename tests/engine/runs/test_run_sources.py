from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pc_engine.errors import UsageError
from pc_engine.runs.run_sources import FOLDERS, lost_folders, named_folders, with_earlier_folders


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "photos/in").mkdir(parents=True)
    (tmp_path / "photos/in/a.jpg").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path.resolve()


def state(*sources: str, n: int = 5) -> dict[str, Any]:
    return {"n": n, FOLDERS: named_folders(sources)}


def test_folders_are_found_by_their_real_paths(here: Path) -> None:
    photos = str(here / "photos")
    assert named_folders(["photos/", "./photos"]) == {photos: "photos"}
    assert named_folders(["link", "."]) == {photos: "link", str(here): "."}
    assert named_folders([f"file://{photos}"]) == {photos: photos}
    assert named_folders(["photos/in/a.jpg", "s3://bucket/photos", "@list.txt", "*.jpg", "demo:"]) == {}


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (["photos"], ["photos"]),
        (["photos"], ["./photos/"]),
        (["photos"], ["photos/in"]),
        (["photos/in"], ["photos"]),
        (["."], ["photos/in"]),
        (["photos"], ["other"]),
        (["{here}/photos"], ["{here}"]),
        (["{here}/photos"], ["file://{here}/photos"]),
        # The same command goes on, whatever its sources are to each other.
        (["photos", "link/in", "{here}/photos/in"], ["photos", "link/in", "{here}/photos/in"]),
        (["photos", "link/in"], ["photos", "link/in", "other"]),
    ],
)
def test_photos_that_have_the_names_they_had_go_on(here: Path, before: list[str], now: list[str]) -> None:
    first, second = ([each.format(here=here) for each in sources] for sources in (before, now))
    folders = with_earlier_folders(state(*first), [state(*first)], second, Path("run"))
    assert folders == {**named_folders(first), **named_folders(second)}


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("photos", "{here}/photos"),
        ("{here}/photos", "photos"),
        ("photos", "link"),
        ("photos", "link/in"),
        ("link/in", "photos"),
        ("{here}", "photos/in"),
        ("photos", "photos/../photos"),
        ("photos", "file://{here}/photos"),
    ],
)
def test_photos_by_another_name_are_not_counted_twice(here: Path, before: str, now: str) -> None:
    first, second = (each.format(here=here) for each in (before, now))
    for own in (state(first), {}):
        with pytest.raises(
            UsageError,
            match=r"run has rows of the photos in .* under another name: name them as before",
        ):
            with_earlier_folders(own, [state(first)], [second], Path("run"))
    # Of a run that has no row, nothing could be counted twice.
    folders = with_earlier_folders(state(first, n=0), [state(first, n=0)], [second], Path("run"))
    assert folders == named_folders([second])


@pytest.mark.parametrize("known", [{}, {FOLDERS: None}, {FOLDERS: ["photos"]}, {FOLDERS: {"/": 3}}, {"n": "5"}])
def test_what_a_changed_file_says_is_not_believed(here: Path, known: dict[str, object]) -> None:
    changed = {"n": 5, **known}
    assert with_earlier_folders(changed, [changed], ["photos"], Path("run")) == named_folders(["photos"])


def test_many_folders_are_compared_in_no_time(here: Path) -> None:
    known = {"n": 1, FOLDERS: {f"/photos/{k}": f"../{k}" for k in range(20_000)}}
    for k in range(300):
        (here / f"{k}").mkdir()
    begin = time.thread_time()
    folders = with_earlier_folders(known, [known], [f"{k}" for k in range(300)], Path("run"))
    assert len(folders) == 20_300
    assert time.thread_time() - begin < 10


def test_a_folder_that_is_gone_is_missed_where_another_is_new(here: Path) -> None:
    before = state("photos", "other")
    assert lost_folders([before], ["photos"]) == []
    (here / "link").unlink()
    (here / "photos").rename(here / "renamed")
    assert lost_folders([before], ["renamed"]) == ["photos"]
    assert lost_folders([{**before, "waiting": 5}], ["renamed"]) == []  # none of them has a row
    assert lost_folders([before], ["other"]) == []
    assert lost_folders([before], ["@list.txt"]) == []
    assert lost_folders([{}], ["renamed"]) == []
