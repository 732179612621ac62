from __future__ import annotations

import json
from pathlib import Path

import pytest

from pc_engine.errors import PcEngineError
from pc_engine.runs.run_file import RunFile
from pc_engine.runs.run_state import Tally
from pc_engine.sources.sharding import Shard


def content(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_nothing_is_written_and_nothing_is_missing_before_a_run_begins(tmp_path: Path) -> None:
    file = RunFile(tmp_path, Shard(2, 3), fresh=False)
    names = {*vars(file)}
    assert (file.before, file.total, file.waiting, file.stages_before) == ({}, None, 0, {})
    assert not list(tmp_path.iterdir())
    file.begin({"mode": "c2p"}, {"sources": ["a"]}, Tally())
    file.end("finished", {"stages": {"network": 1.5}}, Tally(2, 1))
    assert {*vars(file)} == names
    assert content(file.path)["shard"] == [2, 3]


def test_a_run_that_goes_on_adds_to_what_was_there(tmp_path: Path) -> None:
    first = RunFile(tmp_path, None, fresh=False)
    first.begin({"mode": "c2p"}, {"sources": ["a"]}, Tally())
    said = content(first.path)
    first.path.write_text(json.dumps({**said, "started": "2026-01-02", "seconds": 1_000, "stages": {"decode": 2.0}}))
    second = RunFile(tmp_path, None, fresh=False)
    assert second.seconds >= 1_000
    assert second.stages_before == {"decode": 2.0}
    second.begin({"mode": "c2p"}, {"sources": ["b"]}, Tally())
    second.save_if_older(60, Tally(7))
    assert content(second.path)["n"] == 0
    second.save_if_older(0, Tally(7))
    now = content(second.path)
    assert (now["started"], now["sources"], now["n"], now["state"]) == ("2026-01-02", ["b"], 7, "running")
    assert now["settings"] == {"mode": "c2p"}
    assert second.before["seconds"] == 1_000
    assert RunFile(tmp_path, None, fresh=True).before == {}


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    file = RunFile(tmp_path / "gone", None, fresh=False)
    with pytest.raises(PcEngineError, match=r"run\.json"):
        file.begin({}, {}, Tally())
