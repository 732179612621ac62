"""Calling the command line in this process."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from pc_engine.__main__ import main


@dataclass(frozen=True)
class Outcome:
    """What a command ended with and printed."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def pc_engine(monkeypatch, capsys):
    """Return ``call("run", ...)``, which runs the command line and returns its Outcome."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["pc-engine", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), printed.out, printed.err)

    # As on a terminal of usual width, and as the program of that name, whatever runs the tests.
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None)
    return call


@pytest.fixture
def scenes(tmp_path, draw_scene):
    """A folder of five pictures with 0 to 4 blobs and a file that is no picture."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    places = [(1, 1), (6, 1), (1, 6), (6, 6)]
    for count in range(5):
        draw_scene(places[:count]).save(folder / f"{count}.png")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder
