from __future__ import annotations

import os
from pathlib import Path

import pytest

from pc_engine.errors import UsageError
from pc_engine.runs.out_file import check_no_file_of_a_run, check_replaceable


@pytest.mark.parametrize("name", ["part-00000.parquet", "part-00007.jsonl", "run.json", "corrections.jsonl"])
def test_nothing_is_called_like_a_file_of_the_run_beside_it(tmp_path: Path, name: str) -> None:
    check_no_file_of_a_run(tmp_path / name)
    (tmp_path / "part-00000.parquet").touch()
    with pytest.raises(UsageError, match="would be taken for a file of the run in its folder: choose another name"):
        check_no_file_of_a_run(tmp_path / name)
    check_no_file_of_a_run(tmp_path / "report.html")
    check_no_file_of_a_run(tmp_path / "elsewhere" / name)


def test_only_what_is_known_or_empty_is_replaced(tmp_path: Path) -> None:
    def check(file: Path) -> None:
        check_replaceable(file, lambda beginning: beginning.startswith("ours"), "report")

    file = tmp_path / "page"
    check(file)
    file.touch()
    check(file)
    file.write_text("ours, " + "long " * 10_000)
    check(file)
    for content in (b"not ours", b"\xff\xd8\xff a photo"):
        file.write_bytes(content)
        with pytest.raises(UsageError, match="page exists, and no report wrote it: choose another name"):
            check(file)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("pipe", "link"):
        with pytest.raises(UsageError, match="no report wrote it"):
            check(tmp_path / name)


def test_what_cannot_be_read_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "page").touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UsageError, match=r"exists and cannot be read \(Permission denied\): choose another name"):
        check_replaceable(tmp_path / "page", lambda _: True, "report")
