from __future__ import annotations

from pathlib import Path

import pytest

from pc_engine.errors import UsageError
from pc_engine.runs.partition_names import PartitionName, find_format, parse_partition, partitions_of


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("part-00000.parquet", PartitionName("part", None, 0)),
        ("part-123456.jsonl", PartitionName("part", None, 123_456)),
        ("part-2-of-16-00007.parquet", PartitionName("part-2-of-16", 16, 7)),
        ("part-r0123456789abcdef.parquet", PartitionName("part", None, None)),
        ("part-2-of-16-r0123456789abcdef.jsonl", PartitionName("part-2-of-16", 16, None)),
    ],
)
def test_a_name_says_whose_a_partition_is(name: str, said: PartitionName) -> None:
    assert parse_partition(name) == said


@pytest.mark.parametrize(
    "name",
    [
        *("part-0.parquet", "part-00000.csv", ".part-00000.parquet.new", "part-00000.parquet.new"),
        *("part-of-16-00007.jsonl", "part-r0123.parquet", "apart-00000.parquet", "run.json", ""),
    ],
)
def test_other_files_are_no_partitions(tmp_path: Path, name: str) -> None:
    assert parse_partition(name) is None
    if name:
        (tmp_path / name).touch()
    (tmp_path / "part-00001.parquet").touch()
    assert [path.name for path in partitions_of(tmp_path)] == ["part-00001.parquet"]


def test_an_unknown_format_is_named() -> None:
    assert find_format("jsonl") == "jsonl"
    with pytest.raises(UsageError, match="There is no row format 'csv': choose one of parquet, jsonl"):
        find_format("csv")
