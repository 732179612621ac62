from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pc_engine.errors import ImageError
from pc_engine.sources import folders
from pc_engine.sources.folders import sorted_entries, walk_folder

NAME = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(names=st.sets(NAME, max_size=20), held=st.integers(1, 7))
def test_whatever_number_of_names_is_held_the_listing_is_the_sorted_one(
    names: set[str], held: int, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("names")
    for name in names:
        (folder / name).touch()
    monkeypatch.setattr(folders, "NAMES_HELD", held)
    groups = list(sorted_entries(str(folder)))
    assert [entry.name for group in groups for entry in group] == sorted(os.listdir(folder))
    assert all(len(group) <= held for group in groups)


def test_what_comes_and_goes_between_passes_neither_doubles_nor_loses_anything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "NAMES_HELD", 3)
    for k in range(10, 20):
        (tmp_path / f"{k}.jpg").touch()
    groups = sorted_entries(str(tmp_path))
    seen = [entry.name for entry in next(groups)]
    (tmp_path / "10.jpg").unlink()  # seen already
    (tmp_path / "13.jpg").unlink()  # not yet
    (tmp_path / "05.jpg").touch()  # too late
    (tmp_path / "165.jpg").touch()
    seen += [entry.name for group in groups for entry in group]
    assert seen == [f"{k}.jpg" for k in ("10", "11", "12", "14", "15", "16", "165", "17", "18", "19")]


def test_an_empty_folder_has_one_group(tmp_path: Path) -> None:
    assert list(sorted_entries(str(tmp_path))) == [[]]


def test_a_folder_that_vanishes_between_passes_gets_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "NAMES_HELD", 2)
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(4):
        (folder / f"{k}.jpg").touch()
    images = walk_folder(str(folder), None)
    seen = [next(images).name]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert [*seen, *(image.name for image in images)] == [f"{folder}/0.jpg", f"{folder}/1.jpg", str(folder)]


def test_memory_does_not_grow_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "NAMES_HELD", 100)

    def peak(n: int) -> int:
        folder = tmp_path / str(n)
        folder.mkdir()
        for k in range(n):
            (folder / f"{k:06d}.jpg").touch()
        tracemalloc.start()
        try:
            assert sum(1 for _ in walk_folder(str(folder), None)) == n
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(200)
    assert peak(4_000) < 1.3 * peak(400)


@pytest.mark.parametrize("held", [1, 3, 100])
def test_in_any_order_everything_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(folders, "NAMES_HELD", held)
    for name in ("c/1.jpg", "c/2.jpg", "b.jpg", "a.jpg", "a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images = [image.name for image in walk_folder(str(tmp_path), None, in_order=False)]
    assert sorted(images) == [image.name for image in walk_folder(str(tmp_path), None)]


def test_names_are_those_of_pathlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").touch()
    monkeypatch.chdir(tmp_path)
    assert [image.name for image in walk_folder(".", None)] == ["a/1.jpg"]


def test_a_current_folder_that_is_gone_gets_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    (image,) = walk_folder(".", None)
    with pytest.raises(ImageError):
        image.read()


@pytest.mark.parametrize("in_order", [True, False])
def test_folders_of_a_disk_without_inodes_are_gone_through_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_order: bool
) -> None:
    for name in ("a/b", "c"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("1.jpg", "a/2.jpg", "a/b/3.jpg", "c/4.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "c/back").symlink_to(tmp_path)
    look = os.stat

    def without_inode(path: Any, **options: Any) -> os.stat_result:
        mode, _, *others = look(path, **options)
        return os.stat_result((mode, 0, *others))

    monkeypatch.setattr(os, "stat", without_inode)
    found = sorted(image.name for image in walk_folder(str(tmp_path), None, in_order=in_order))
    assert found == [f"{tmp_path}/{name}" for name in ("1.jpg", "a/2.jpg", "a/b/3.jpg", "c/4.jpg")]


def test_photos_that_are_not_read_take_part_and_apples_notes_beside_them_do_not(tmp_path: Path) -> None:
    for name in ("IMG_1.HEIC", "b.avif", "a.jpg", "._a.jpg", "._IMG_1.HEIC", "notes.txt"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
    assert [Path(image.name).name for image in walk_folder(str(tmp_path), None)] == ["IMG_1.HEIC", "a.jpg", "b.avif"]


@pytest.mark.parametrize(
    "copies",
    [
        *(".thumbnails", "@eaDir/1.jpg", "$RECYCLE.BIN", "#recycle", ".Trashes", ".Trash-1000"),
        *("System Volume Information", "Photos Library.photoslibrary/resources/derivatives/0"),
    ],
)
def test_small_copies_and_what_was_thrown_away_are_no_photos(tmp_path: Path, copies: str) -> None:
    for folder in ("photos", f"photos/{copies}", "photos/.mine"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.jpg").touch()
    own = [f"{tmp_path}/photos/.mine/a.jpg", f"{tmp_path}/photos/a.jpg"]
    assert [image.name for image in walk_folder(f"{tmp_path}/photos", None)] == own
    # Named by itself, it is gone through.
    named = f"{tmp_path}/photos/{copies}"
    assert [image.name for image in walk_folder(named, None)] == [f"{named}/a.jpg"]


def test_of_a_library_of_apples_photos_the_originals_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("Mine.photoslibrary/originals/0", "Mine.photoslibrary/resources/renders/0", "resources"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.heic").touch()
    own = [f"{tmp_path}/{folder}/a.heic" for folder in ("Mine.photoslibrary/originals/0", "resources")]
    assert [image.name for image in walk_folder(str(tmp_path), None)] == own
    monkeypatch.chdir(tmp_path / "Mine.photoslibrary")
    assert [image.name for image in walk_folder(".", None)] == ["originals/0/a.heic"]


@pytest.mark.parametrize(("tag", "is_link"), [(0xA0000003, True), (0x9000001A, False), (0, False)])
def test_a_junction_of_windows_is_a_link(monkeypatch: pytest.MonkeyPatch, tag: int, is_link: bool) -> None:
    entry: Any = SimpleNamespace(
        name="a",
        is_dir=lambda: True,
        is_symlink=lambda: False,
        stat=lambda *, follow_symlinks: SimpleNamespace(st_reparse_tag=tag),
    )
    monkeypatch.setattr(folders, "os", SimpleNamespace(name="nt"))
    assert folders._entry(entry) == ("a", True, is_link)


@pytest.mark.parametrize("state", ["run.json", "run-2-of-16.json"])
def test_pictures_that_an_earlier_run_drew_are_no_photos(tmp_path: Path, state: str) -> None:
    for folder in ("run/overlays", "overlays", "mine/overlays"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.jpg").touch()
    (tmp_path / "run" / state).touch()
    found = [image.name.removeprefix(f"{tmp_path}/") for image in walk_folder(str(tmp_path), None)]
    assert found == ["mine/overlays/a.jpg", "overlays/a.jpg"]


@pytest.fixture
def six(tmp_path: Path) -> Path:
    """Six folders of which each has a photo and links to all others."""
    for k in range(6):
        (tmp_path / f"six/{k}").mkdir(parents=True)
        (tmp_path / f"six/{k}/x.jpg").touch()
        for other in {*range(6)} - {k}:
            (tmp_path / f"six/{k}/to-{other}").symlink_to(f"../{other}")
    return tmp_path / "six"


@pytest.mark.parametrize("in_order", [True, False])
def test_folders_that_link_to_each_other_are_gone_through_once_each_by_its_own_path(six: Path, in_order: bool) -> None:
    names = [image.name for image in walk_folder(str(six), None, in_order=in_order)]
    assert sorted(names) == [f"{six}/{k}/x.jpg" for k in range(6)]
    assert not in_order or names == sorted(names)


@pytest.mark.parametrize("in_order", [True, False])
def test_folders_elsewhere_are_gone_through_once_by_the_first_link(six: Path, in_order: bool) -> None:
    # Into the middle of the others, and then to what is above all of them.
    (six / "0/a").symlink_to("../3")
    (six.parent / "way").symlink_to("six/5")
    (six / "0/b").symlink_to("..")
    names = [image.name for image in walk_folder(str(six / "0"), None, in_order=in_order)]
    found = sorted(Path(os.path.realpath(name)).parent.name for name in names)
    assert found == list("012345")
    if in_order:
        expected = ["a/x.jpg", "a/to-1/x.jpg", "a/to-1/to-2/x.jpg", "a/to-1/to-2/to-4/x.jpg"]
        expected += ["a/to-1/to-2/to-4/to-5/x.jpg", "x.jpg"]
        assert sorted(os.path.relpath(name, six / "0") for name in names) == sorted(expected)


def test_links_to_folders_on_the_way_from_one_that_was_linked_do_not_enter_it_again(tmp_path: Path) -> None:
    for name in ("outside/in/1.jpg", "outside/2.jpg", "photos/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "photos/a").symlink_to("../outside/in")
    (tmp_path / "photos/b").symlink_to("../outside")
    (tmp_path / "photos/c").symlink_to("../outside/in")
    (tmp_path / "photos/d").symlink_to("../photos")
    (tmp_path / "photos/gone").symlink_to("nowhere")
    found = [os.path.relpath(image.name, tmp_path) for image in walk_folder(str(tmp_path / "photos"), None)]
    assert found == ["photos/3.jpg", "photos/a/1.jpg", "photos/b/2.jpg"]


def test_a_link_to_what_is_passed_over_by_its_own_path_is_followed(tmp_path: Path) -> None:
    (tmp_path / "photos/run/overlays").mkdir(parents=True)
    (tmp_path / "photos/run/overlays/1.jpg").touch()
    (tmp_path / "photos/run/run.json").touch()
    (tmp_path / "photos/drawn").symlink_to("run/overlays")
    assert [image.name for image in walk_folder(str(tmp_path / "photos"), None)] == [f"{tmp_path}/photos/drawn/1.jpg"]


def test_folders_nested_without_end_get_a_row_and_end_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "DEEPEST", 5)
    deepest = tmp_path.joinpath(*"abcdefgh")
    deepest.mkdir(parents=True)
    for folder in (tmp_path, tmp_path.joinpath(*"abcde"), deepest):
        (folder / "x.jpg").touch()
    *images, refused = walk_folder(str(tmp_path), None)
    found = sorted(os.path.relpath(image.name, tmp_path) for image in (*images, refused))
    assert found == ["a/b/c/d/e/f", "a/b/c/d/e/x.jpg", "x.jpg"]
    with pytest.raises(ImageError, match="more than 5 folders deep"):
        next(image for image in (*images, refused) if image.name.endswith("f")).read()
