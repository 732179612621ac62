"""How far runs have come, from what lies in their directories."""

from __future__ import annotations

import json
from pathlib import Path

import filelock
import pytest

from pc_engine.result import Result, error_result
from pc_engine.runs.run_directory import RunDirectory
from pc_engine.runs.run_state import lock_run, state_file
from pc_engine.runs.run_status import Failure, read_status
from pc_engine.sources.image import local_image
from pc_engine.sources.sharding import Shard


def do(directory: Path, names: list[str], shard: Shard | None = None, *, state: str = "finished") -> None:
    """What a run of ``names`` does; of a name with "bad" in it, fail."""
    with RunDirectory(directory, shard=shard) as rows:
        rows.begin({}, {})
        rows.file.total = len(names)
        for image in rows.remaining(map(local_image, names)):
            if "bad" in image.name:
                rows.write(error_result(image.name, "It is broken.", mode="c2p", model="tiny"))
            else:
                rows.write(Result(image.name, "ok", None, 9, 9, "c2p", "tiny", 1, "1"))
        rows.close(state, {"stages": {}})  # type: ignore[arg-type]


def test_a_reason_comes_with_an_example(tmp_path: Path) -> None:
    do(tmp_path, ["a.jpg", "x/bad1.jpg", "bad2.jpg"])
    found = read_status(tmp_path)
    assert found.errors == (Failure("It is broken.", 2, "x/bad1.jpg"),)
    assert found.to_dict()["errors"] == [{"error": "It is broken.", "n": 2, "example": "x/bad1.jpg"}]


def test_the_total_is_unknown_once_rows_are_of_other_sources_too(tmp_path: Path) -> None:
    do(tmp_path, ["a.jpg", "b.jpg"])
    assert read_status(tmp_path).total == 2
    do(tmp_path, ["c.jpg", "d.jpg"])
    found = read_status(tmp_path)
    assert (found.tally.n, found.total, found.condition) == (4, None, "finished")


def test_the_rate_is_that_of_what_runs_or_else_that_of_all(tmp_path: Path) -> None:
    for number, state in enumerate(("finished", "running"), start=1):
        said = {"state": state, "shard": [number, 2], "total": 3, "images_per_second": 10.0 * number}
        (tmp_path / f"run-{number}-of-2.json").write_text(json.dumps(said))
    assert read_status(tmp_path).to_dict()["images_per_second"] == 30
    lock = lock_run(tmp_path, Shard(2, 2))
    try:
        found = read_status(tmp_path)
        assert (found.condition, found.images_per_second) == ("running", 20)
    finally:
        lock.release()
    (tmp_path / "run-1-of-2.json").write_text("{}")
    (tmp_path / "run-2-of-2.json").write_text("{}")
    assert read_status(tmp_path).to_dict()["images_per_second"] is None


@pytest.mark.parametrize("shard", [None, Shard(2, 2)])
def test_a_run_that_ends_while_its_lock_is_waited_for_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: Shard | None
) -> None:
    do(tmp_path, ["a.jpg"], shard)
    path = state_file(tmp_path, shard)
    ended = path.read_text()
    path.write_text(json.dumps({**json.loads(ended), "state": "running", "total": None}))

    def wait(directory: Path, shard: Shard | None) -> filelock.BaseFileLock:
        path.write_text(ended)
        return lock_run(directory, shard)

    monkeypatch.setattr("pc_engine.runs.run_state.lock_run", wait)
    (part,) = read_status(tmp_path).parts
    assert (part.condition, part.total) == ("finished", 1)


def test_shards_that_were_not_begun_are_named(tmp_path: Path) -> None:
    for index in (10, 2):
        do(tmp_path, ["a.jpg"], Shard(index, 12))
    found = read_status(tmp_path)
    assert (found.condition, found.total, found.shards_not_begun) == ("stopped", None, 10)
    assert [str(part.shard) for part in found.parts] == ["2-of-12", "10-of-12"]
    assert found.first_not_begun(3) == ["1/12", "3/12", "4/12"]
    assert len(found.first_not_begun(99)) == 10
    do(tmp_path / "whole", ["a.jpg"])
    assert read_status(tmp_path / "whole").first_not_begun(3) == []
