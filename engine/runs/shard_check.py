"""Processes that write into one folder: each is a shard of the same run, shared out to the same number of them."""

from __future__ import annotations

import re
from pathlib import Path

from pc_engine.errors import UsageError
from pc_engine.runs.partition_names import parse_partition, partitions_of
from pc_engine.runs.run_state import is_running
from pc_engine.sources.sharding import Shard

_LOCK_NAME = re.compile(r"\.run(?:-(\d+)-of-(\d+))?\.lock")


def check_shards(directory: Path, shard: Shard | None) -> None:
    """Refuse a directory that holds rows of a run that is shared out another way, or into which one is writing.

    Until its first partition is whole nothing but a lock says so. Of two that begin at once, one sees the other if each
    asks when it has a lock there.

    Raises
    ------
    UsageError
        If it is so.
    """
    for path in directory.glob(".run*.lock"):
        found = _LOCK_NAME.fullmatch(path.name)
        if found is None:
            continue
        other = None if found[1] is None else Shard(int(found[1]), int(found[2]))
        if _shards(other) != _shards(shard) and is_running(directory, other):
            raise UsageError(
                f"{_run_of(_shards(other)).capitalize()} is writing into {directory}: wait for it, or choose another "
                f"folder."
            )
    for path in partitions_of(directory):
        name = parse_partition(path.name)
        if name is not None and name.shards != _shards(shard):
            raise UsageError(
                f"{directory} holds {_run_of(name.shards)}: go on with that one, delete the folder, or choose another."
            )


def _shards(shard: Shard | None) -> int | None:
    return None if shard is None else shard.of


def _run_of(shards: int | None) -> str:
    return "a run that is not split into shards" if shards is None else f"a run split into {shards} shards"
