from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pc_engine.errors import UsageError
from pc_engine.runs import claim as module
from pc_engine.runs.claim import Claim
from pc_engine.runs.run_state import lock_run
from pc_engine.sources.sharding import Shard


def nothing() -> None:
    """Check nothing."""


def test_what_was_made_in_vain_goes_and_what_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Claim(tmp_path / "a/b/c", None, nothing).release(in_vain=True)
    assert [*tmp_path.rglob("*")] == [tmp_path / "a"]
    Claim(tmp_path / "a", None, nothing).release(in_vain=True)
    assert [*tmp_path.rglob("*")] == [tmp_path / "a"]
    Claim(tmp_path / "a", None, nothing).release()
    Claim(tmp_path / "a", None, nothing).release(in_vain=True)
    assert [path.name for path in (tmp_path / "a").iterdir()] == [".run.lock"]
    claim = Claim(tmp_path / "a/b/c", None, nothing)
    (tmp_path / "a/b/row").touch()
    claim.release(in_vain=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".run.lock", "a", "b", "row"]
    Claim(tmp_path / "d", None, nothing).release()
    assert (tmp_path / "d").is_dir()


def test_a_folder_that_is_refused_is_left_as_it_was(tmp_path: Path) -> None:
    def refuse() -> None:
        raise UsageError("It holds something else.")

    with pytest.raises(UsageError, match="something else"):
        Claim(tmp_path / "a/b", None, refuse)
    assert [*tmp_path.iterdir()] == []


def test_the_lock_of_a_run_in_vain_leaves_that_of_another_shard(tmp_path: Path) -> None:
    other = Claim(tmp_path, Shard(2, 2), nothing)
    Claim(tmp_path, Shard(1, 2), nothing).release(in_vain=True)
    assert [path.name for path in tmp_path.iterdir()] == [".run-2-of-2.lock"]
    other.release()


@pytest.mark.parametrize("there", [False, True])
def test_whoever_waits_for_a_run_that_comes_to_nothing_takes_its_place(
    tmp_path: Path, monkeypatch: Any, there: bool
) -> None:
    if there:
        (tmp_path / "run").mkdir()
    first = Claim(tmp_path / "run", None, nothing)
    waited: list[int] = []

    def release_first(directory: Path, shard: Any) -> Any:
        if not waited:
            waited.append(1)
            first.release(in_vain=True)
        return lock_run(directory, shard)

    monkeypatch.setattr(module, "lock_run", release_first)
    second = Claim(tmp_path / "run", None, nothing)
    assert (tmp_path / "run").is_dir()
    with ThreadPoolExecutor(1) as pool, pytest.raises(UsageError, match="Another run is writing"):
        pool.submit(lock_run, tmp_path / "run").result()
    second.release()


def test_a_folder_that_cannot_be_made_is_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        Claim(tmp_path / "file/run", None, nothing)
