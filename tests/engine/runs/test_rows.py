from __future__ import annotations

from pathlib import Path

import pytest

import pc_engine
from pc_engine.result import Result
from pc_engine.runs.corrections import Correction, append_correction
from pc_engine.runs.writers import PartitionWriter


def test_rows_are_those_of_the_run_or_as_people_corrected_them(tmp_path: Path) -> None:
    with PartitionWriter(tmp_path, "parquet") as writer:
        for name in ("a.jpg", "b.jpg"):
            writer.write(Result(name, "ok", None, 8, 8, "c2p", "tiny", 2, "2"))
    append_correction(tmp_path, Correction("a.jpg", 5, (), "2026-11-29T12:00:00+00:00"))
    assert [row["count"] for row in pc_engine.iter_rows(tmp_path)] == [2, 2]
    rows = list(pc_engine.iter_rows(str(tmp_path), corrected=True))
    assert [(row["count"], row.get("reviewed")) for row in rows] == [(5, True), (2, None)]


@pytest.mark.parametrize("corrected", [False, True])
def test_what_is_no_run_is_refused_at_once(tmp_path: Path, *, corrected: bool) -> None:
    with pytest.raises(pc_engine.UsageError, match="holds no rows"):
        pc_engine.iter_rows(tmp_path, corrected=corrected)
    with pytest.raises(pc_engine.UsageError, match="expected text or a path"):
        pc_engine.iter_rows(3, corrected=corrected)  # type: ignore[arg-type]
