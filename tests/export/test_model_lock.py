from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from pc_engine.errors import DownloadError
from pc_engine.export.model_lock import making


def test_the_first_waits_for_nobody(tmp_path: Path) -> None:
    said: list[str] = []
    with making("small", tmp_path / "models", said.append) as downloads:
        assert downloads == tmp_path / "downloads"
        assert downloads.is_dir()
    assert said == []


def test_the_second_says_that_it_waits(tmp_path: Path) -> None:
    said, waits = [], Event()

    def report(text: str) -> None:
        said.append(text)
        waits.set()

    def second() -> None:
        with making("small", tmp_path / "models", report) as downloads:
            said.append("to be made" if downloads else "made")

    with ThreadPoolExecutor(1) as pool:
        with making("small", tmp_path / "models", report):
            done = pool.submit(second)
            assert waits.wait(120)
            assert said == ["Waiting for another process, which is making small ..."]
            (tmp_path / "models" / "small").mkdir(parents=True)
            (tmp_path / "models" / "small" / "manifest.json").touch()
        done.result(120)
    assert said[1:] == ["made"]


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "downloads").write_bytes(b"")
    with (
        pytest.raises(DownloadError, match=r"cannot be written .*PC_ENGINE_HOME"),
        making("small", tmp_path / "models", print),
    ):
        pass
