from __future__ import annotations

import errno
import os
from pathlib import Path, PurePath
from typing import Any

import pytest

from pc_engine.converters import data_folder
from pc_engine.converters.data_folder import DataFolder


def test_a_file_whose_name_is_taken_or_too_long_is_none(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    stream = folder.create(PurePath("a/b.txt"))
    assert stream is not None
    stream.close()
    for name in ("a/b.txt", "a", "a/b.txt/c.txt", "b" * 300):
        assert folder.create(PurePath(name)) is None


@pytest.mark.parametrize("windows", [True, False])
def test_a_path_too_long_for_windows_is_none_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: bool
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    if windows:
        monkeypatch.setattr(data_folder, "_TOO_LONG", (errno.ENOENT,))
    monkeypatch.setattr(Path, "open", refuse)
    if windows:
        assert DataFolder(tmp_path).create(PurePath("a.txt")) is None
    else:
        with pytest.raises(FileNotFoundError):
            DataFolder(tmp_path).create(PurePath("a.txt"))
