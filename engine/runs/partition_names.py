"""Names of partitions, the files that hold a run's rows.

part-00000.parquet                    numbered, of a run that is not shared out
part-2-of-16-00000.jsonl              of one of its shards
part-r0123456789abcdef.parquet        of a block that a worker did, by the run and the block's number
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

from pc_engine.errors import UsageError

Format = Literal["parquet", "jsonl"]
FORMATS: tuple[Format, ...] = ("parquet", "jsonl")

#: What the names of partitions begin with.
STEM = "part"
_NAME = re.compile(rf"({STEM}(?:-\d+-of-(\d+))?)-(?:(\d{{5,}})|r[0-9a-f]{{16}})\.(?:{'|'.join(FORMATS)})")


class PartitionName(NamedTuple):
    """What the name of a partition says.

    Attributes
    ----------
    stem
        What all partitions of the same run, or shard of it, begin with.
    shards
        To how many shards the run is shared out; None if it is not.
    number
        Its place among these, or None if it is a block's.
    """

    stem: str
    shards: int | None
    number: int | None


def parse_partition(name: str) -> PartitionName | None:
    """Return what a file's name says of a partition; None if it is not that of one."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    stem, shards, number = found.groups()
    return PartitionName(stem, *(None if digits is None else int(digits) for digits in (shards, number)))


def partitions_of(directory: Path) -> list[Path]:
    """Return the partitions of a run directory, in the order of their rows."""
    found = (path for path in directory.glob(f"{STEM}-*") if parse_partition(path.name))
    return sorted(found, key=lambda path: (len(path.name), path.name))


def find_format(name: str) -> Format:
    """Return the row format of that name.

    Raises
    ------
    UsageError
        If there is none.
    """
    for known in FORMATS:
        if name == known:
            return known
    raise UsageError(f"There is no row format '{name}': choose one of {', '.join(FORMATS)}.")
