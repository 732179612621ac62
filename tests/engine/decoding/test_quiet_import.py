from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pc_engine.decoding.quiet_import import import_quietly


@pytest.fixture
def loud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that prints as a library of C does, past `sys.stderr`."""
    (tmp_path / "loud_module.py").write_text(
        "import os\nos.write(2, b'Failed to load nvTIFF!\\nNo driver.\\nNote: install nvTIFF\\n')\nvalue = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "loud_module", raising=False)
    return "loud_module"


def test_lines_with_a_word_are_left_out_and_all_others_printed(loud: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert import_quietly(loud, ["nvTIFF", "nvjpeg2k"]).value == 3
    os.write(2, b"later nvTIFF\n")
    assert capfd.readouterr().err == "No driver.\nlater nvTIFF\n"
    assert import_quietly(loud, []) is sys.modules[loud]


def test_what_cannot_be_imported_raises_and_stderr_is_back(
    loud: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "loud_module.py").open("a") as file:
        file.write("import there_is_no_such_module\n")
    with pytest.raises(ImportError, match="there_is_no_such_module"):
        import_quietly(loud, ["nvTIFF"])
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "No driver.\nlater\n"


def test_it_is_imported_where_there_is_no_stderr(loud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> int:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr("pc_engine.decoding.quiet_import.os.dup", fail)
    assert import_quietly(loud, ["nvTIFF"]).value == 3


def test_a_full_disk_is_no_reason_not_to_import(loud: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pc_engine.decoding.quiet_import.tempfile.TemporaryFile", fail)
    assert import_quietly(loud, ["nvTIFF"]).value == 3
