from __future__ import annotations

import os
from pathlib import Path

import pytest

from pc_engine.errors import system_reason
from pc_engine.files.regular_file import check_regular


def test_what_would_be_waited_for_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", str(tmp_path / "link"), tmp_path, Path(os.devnull)):
        with pytest.raises(OSError, match="it is not a regular file") as refused:
            check_regular(path)
        assert (system_reason(refused.value), refused.value.filename) == ("it is not a regular file", str(path))


def test_a_file_passes_and_one_that_is_absent_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    check_regular(tmp_path / "link")
    with pytest.raises(FileNotFoundError):
        check_regular(tmp_path / "absent")
