from __future__ import annotations

import glob
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pc_engine.sources import folders
from pc_engine.sources.globs import glob_matches

FILES = (
    "a/1.jpg",
    "a/b/2.jpg",
    "a/b/c/3.jpg",
    "a.jpg",
    "a-b.jpg",
    ".hidden/4.jpg",
    "a/.5.jpg",
    "b/b/6.png",
    "[x]/7.jpg",
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def files_below(paths: list[str]) -> list[str]:
    """All files among the paths and in the folders among them, each once, sorted by the parts of their paths."""
    found: set[str] = set()
    for path in paths:
        if os.path.isdir(path):
            found |= {str(file) for file in Path(path).rglob("*") if file.is_file()}
        elif os.path.lexists(path):  # Python's glob lets "missing/**" match "missing/"
            found.add(path)
    return sorted((os.path.normpath(path) for path in found), key=lambda path: Path(path).parts)


PART = st.sampled_from(["**", "*", "a", "b", "?", "*.jpg", "[ab]", ".*", "a*", "[[]x]", "1.jpg", "nothing"])


@settings(max_examples=300)
@given(parts=st.lists(PART, min_size=1, max_size=4), slash=st.booleans())
def test_the_same_files_match_as_with_pythons_glob_each_once_and_in_order(
    tree: Path, parts: list[str], slash: bool
) -> None:
    pattern = os.path.join(tree, *parts) + "/" * slash
    matches = list(glob_matches(pattern))
    assert files_below(matches) == files_below(glob.glob(pattern, recursive=True))
    assert len({os.path.normpath(match) for match in matches}) == len(matches)
    assert [Path(match).parts for match in matches] == sorted(Path(match).parts for match in matches)
    for one, other in itertools.permutations(matches, 2):
        assert Path(one) not in Path(other).parents


def test_patterns_are_relative_to_the_current_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "a")
    assert list(glob_matches("**/*.jpg")) == ["1.jpg", "b/2.jpg", "b/c/3.jpg"]
    assert list(glob_matches("./*.jpg")) == ["1.jpg"]
    assert list(glob_matches("../*.jpg")) == ["../a-b.jpg", "../a.jpg"]
    assert list(glob_matches("**")) == ["."]


def test_links_that_lead_back_up_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "photos/a").mkdir(parents=True)
    (tmp_path / "photos/a/1.jpg").touch()
    (tmp_path / "photos/a/up").symlink_to("..")
    (tmp_path / "photos/self").symlink_to("self")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/2.jpg").touch()
    (tmp_path / "photos/b").symlink_to("../more")
    found = [os.path.relpath(path, tmp_path) for path in glob_matches(f"{tmp_path}/photos/**/*.jpg")]
    assert found == ["photos/a/1.jpg", "photos/b/2.jpg"]


def test_any_number_of_folders_stands_for_each_once_though_they_link_to_each_other(tmp_path: Path) -> None:
    for k in range(6):
        (tmp_path / f"six/{k}").mkdir(parents=True)
        (tmp_path / f"six/{k}/x.jpg").touch()
        for other in {*range(6)} - {k}:
            (tmp_path / f"six/{k}/to-{other}").symlink_to(f"../{other}")
    names = [f"{tmp_path}/six/{k}/x.jpg" for k in range(6)]
    assert list(glob_matches(f"{tmp_path}/six/**/*.jpg")) == names
    assert list(glob_matches(f"{tmp_path}/**/x.jpg")) == names
    # A name in the pattern, or a pattern for one, is taken as it is.
    assert list(glob_matches(f"{tmp_path}/six/0/*/*.jpg")) == [f"{tmp_path}/six/0/to-{k}/x.jpg" for k in range(1, 6)]
    assert list(glob_matches(f"{tmp_path}/six/*/to-5/x.jpg")) == [f"{tmp_path}/six/{k}/to-5/x.jpg" for k in range(5)]
    below = list(glob_matches(f"{tmp_path}/six/0/to-3/**/*.jpg"))
    assert len(below) == len({os.path.realpath(path) for path in below}) == 6
    assert len(list(glob_matches(f"{tmp_path}/six/**/to-5/**/*.jpg"))) < 40


def test_a_link_to_a_hidden_folder_is_followed_once(tmp_path: Path) -> None:
    (tmp_path / "photos/.kept/a").mkdir(parents=True)
    (tmp_path / "photos/.kept/a/1.jpg").touch()
    (tmp_path / "photos/b").symlink_to(".kept/a")
    (tmp_path / "photos/c").symlink_to(".kept")
    found = [os.path.relpath(path, tmp_path) for path in glob_matches(f"{tmp_path}/photos/**/*.jpg")]
    assert found == ["photos/b/1.jpg"]


def test_what_is_below_a_hidden_folder_that_is_named_is_entered_once(tmp_path: Path) -> None:
    (tmp_path / "p/.h/a").mkdir(parents=True)
    (tmp_path / "p/.h/a/1.jpg").touch()
    (tmp_path / "p/.h/link").symlink_to("a")
    found = [os.path.relpath(path, tmp_path) for path in glob_matches(f"{tmp_path}/p/**/.h/**/*.jpg")]
    assert found == ["p/.h/a/1.jpg"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/1.jpg").touch()
    scan = os.scandir

    def refuse(folder: str) -> object:
        if folder.endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(folders.os, "scandir", refuse)
    assert list(glob_matches(f"{tmp_path}/*/*.jpg")) == [f"{tmp_path}/a", f"{tmp_path}/b/1.jpg"]


def test_a_folder_can_be_left_out(tmp_path: Path) -> None:
    for name in ("run/overlays/1.jpg", "run/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    without = os.path.realpath(tmp_path / "run/overlays")
    assert list(glob_matches(f"{tmp_path}/**/*.jpg", without)) == [f"{tmp_path}/run/2.jpg"]


def test_matches_come_one_by_one(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "b/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    matches = glob_matches(f"{tmp_path}/*/*.jpg")
    assert next(matches) == f"{tmp_path}/a/1.jpg"
    (tmp_path / "b/1.jpg").touch()
    assert list(matches) == [f"{tmp_path}/b/1.jpg", f"{tmp_path}/b/2.jpg"]
