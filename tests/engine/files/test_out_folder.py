from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pc_engine.errors import UsageError
from pc_engine.files.out_folder import check_makeable, check_vacant, make_folder, removed_if_empty, without_detours


def test_what_is_absent_or_empty_is_vacant(tmp_path: Path) -> None:
    check_vacant(tmp_path / "absent")
    check_vacant(tmp_path)
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UsageError, match="exists and is not empty: remove it, or name another directory"):
        check_vacant(tmp_path)
    # An empty one is a file all the same.
    with pytest.raises(UsageError, match=r"photo\.jpg is a file, not a directory: name another\."):
        check_vacant(tmp_path / "photo.jpg")


def test_a_folder_is_made_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be written \(Not a directory\): choose another"):
        make_folder(tmp_path / "file" / "below")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UsageError, match=r"cannot be written \(Permission denied\): choose another"):
        make_folder(tmp_path)


def test_a_folder_is_made_though_another_command_removes_what_leads_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, removals = Path.mkdir, []

    def mkdir(path: Path, *args: Any, **options: Any) -> None:
        make(path, *args, **options)
        if path == tmp_path / "a" and len(removals) < 2:
            removals.append(path)
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert len(removals) == 2


def test_a_folder_that_may_be_made_is_not_there_yet(tmp_path: Path) -> None:
    check_makeable(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "kept").mkdir()
    check_makeable(tmp_path / "kept")
    check_makeable(tmp_path / "kept" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot be written \(Not a directory\): elsewhere\."):
        check_makeable(tmp_path / "file" / "below", "elsewhere")


def test_a_folder_goes_again_unless_something_came_into_it(tmp_path: Path) -> None:
    with removed_if_empty(tmp_path / "a" / "b"):
        make_folder(tmp_path / "a" / "b")
        (tmp_path / "a" / "photo.jpg").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["photo.jpg"]
    with removed_if_empty(tmp_path / "c" / "d"):
        make_folder(tmp_path / "c" / "d")
        (tmp_path / "c" / "d").rmdir()
    assert not (tmp_path / "c").exists()


def test_a_folder_that_cannot_be_read_is_not_taken_for_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(UsageError, match=r"cannot be read \(Permission denied\): choose another"):
        check_vacant(tmp_path)


def test_no_folder_is_made_only_to_leave_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("there/deep")
    for given, taken in (
        ("new1/../new2", "new2"),
        ("new1/deeper/../../new2", "new2"),
        ("new1/..", "."),
        ("../new1/../new2", "../new2"),
        ("link/../new", "link/../new"),  # which is there/new
        ("there/../new", "there/../new"),
        (f"{tmp_path}/new1/../new2", f"{tmp_path}/new2"),
        ("/../new", "/../new"),
        ("new1/new2", "new1/new2"),
    ):
        assert without_detours(Path(given)) == Path(taken)
    assert without_detours(None) is None
