from __future__ import annotations

from pathlib import Path

import pytest

from pc_engine.errors import UsageError
from pc_engine.result import Result
from pc_engine.runs import run_state
from pc_engine.runs.rows import iter_rows
from pc_engine.runs.run_directory import RunDirectory
from pc_engine.runs.shard_check import check_shards
from pc_engine.sources.sharding import Shard

WAYS = (None, Shard(1, 2), Shard(1, 4))
OTHERS = [(held, other) for held in WAYS for other in WAYS if held is not other]


@pytest.fixture(autouse=True)
def _looks_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_state, "_SECONDS_TO_LOOK", 0.05)


def row(name: str) -> Result:
    return Result(name, "ok", None, 64, 48, "c2p", "tiny", 0, "0", {"0": 0.5})


@pytest.mark.parametrize(("held", "other"), OTHERS, ids=str)
def test_no_run_begins_beside_one_that_is_shared_out_another_way(
    tmp_path: Path, held: Shard | None, other: Shard | None
) -> None:
    """Its rows, none of which has come under its name, would be doubled, or its open partition be removed."""
    what = "A run that is not split into shards" if held is None else f"A run split into {held.of} shards"
    with RunDirectory(tmp_path, shard=held) as rows:
        rows.begin({"mode": "c2p"}, {})
        rows.write(row("a.jpg"))
        for _ in range(2):
            with pytest.raises(UsageError, match=f"^{what} is writing into .*: wait for it"):
                RunDirectory(tmp_path, shard=other)
        rows.write(row("b.jpg"))
    assert [row["path"] for row in iter_rows(tmp_path)] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(("held", "other"), OTHERS, ids=str)
def test_nor_where_such_a_run_has_left_rows(tmp_path: Path, held: Shard | None, other: Shard | None) -> None:
    what = "a run that is not split into shards" if held is None else f"a run split into {held.of} shards"
    with RunDirectory(tmp_path, shard=held) as rows:
        rows.begin({"mode": "c2p"}, {})
        rows.write(row("a.jpg"))
    with pytest.raises(UsageError, match=f"holds {what}: go on with that one"):
        RunDirectory(tmp_path, shard=other)
    RunDirectory(tmp_path, shard=held).__exit__(None, None, None)


def test_what_such_a_run_left_without_rows_is_in_nobodys_way(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, shard=Shard(1, 2)) as rows:
        rows.begin({"mode": "c2p"}, {})
    open_partition = tmp_path / ".part-1-of-2-00000.parquet.new"
    open_partition.touch()
    (tmp_path / ".run-mine.lock").touch()
    with RunDirectory(tmp_path) as rows:
        rows.begin({"mode": "c2p"}, {})
    assert open_partition.exists()  # until its shard is begun again
    with RunDirectory(tmp_path, shard=Shard(1, 2)):
        assert not open_partition.exists()


def test_shards_of_one_run_are_in_nobodys_way(tmp_path: Path) -> None:
    with RunDirectory(tmp_path, shard=Shard(1, 2)), RunDirectory(tmp_path, shard=Shard(2, 2)):
        check_shards(tmp_path, Shard(1, 2))
