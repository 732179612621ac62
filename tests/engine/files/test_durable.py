from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pc_engine.files import durable
from pc_engine.files.durable import publish


@pytest.mark.parametrize("known", [True, False])
def test_on_macos_the_drives_cache_is_waited_for(files, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    fcntl = pytest.importorskip("fcntl")
    asked: list[int] = []
    synced: list[int] = []

    def full_sync(descriptor: int, command: int) -> None:
        asked.append(command)
        if not known:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(durable, "_FULL_SYNC", 51)
    monkeypatch.setattr(fcntl, "fcntl", full_sync)
    monkeypatch.setattr(os, "fsync", synced.append)
    publish(*files)
    assert asked == [51, 51]  # of the file and of its folder
    assert len(synced) == (0 if known else 2)


class SharingViolationError(PermissionError):
    """What Windows says of a file that another process has open."""

    winerror = 32


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    new, path = tmp_path / "new", tmp_path / "run.json"
    new.write_text("new")
    path.write_text("old")
    return new, path


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(durable.time, "sleep", slept.append)
    return slept


def refuse(monkeypatch: pytest.MonkeyPatch, error: OSError, times: int) -> None:
    replace, refused = Path.replace, []

    def try_to(path: Path, target: Path) -> Path:
        if len(refused) < times:
            refused.append(target)
            raise error
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", try_to)


def test_who_reads_a_file_on_windows_is_waited_for(files, pauses, monkeypatch) -> None:
    refuse(monkeypatch, SharingViolationError(13, "Permission denied"), 3)
    publish(*files)
    assert files[1].read_text() == "new"
    assert len(pauses) == 3


def test_who_reads_it_for_ever_is_not(files, pauses, monkeypatch) -> None:
    refuse(monkeypatch, SharingViolationError(13, "Permission denied"), 10_000)
    with pytest.raises(PermissionError):
        publish(*files)
    assert sum(pauses) < 5
    assert files[1].read_text() == "old"


def test_a_folder_that_cannot_be_written_is_told_at_once(files, pauses, monkeypatch) -> None:
    refuse(monkeypatch, PermissionError(13, "Permission denied"), 1)
    with pytest.raises(PermissionError):
        publish(*files)
    assert pauses == []
