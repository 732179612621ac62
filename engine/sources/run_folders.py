"""Folders that a run writes into, where they lie among photos: what it has drawn is none of them."""

from __future__ import annotations

import re
from pathlib import Path

#: What a run says of itself, in its folder.
RUN_FILE = "run.json"
#: The folder, in that of a run, for photos with their pointers drawn on them.
OVERLAYS = "overlays"
_STATE_NAME = re.compile(r"run(-\d+-of-\d+)?\.json")


def holds_overlays(name: str, directory: Path) -> bool:
    """Whether the folder of this name in a directory is the one that a run there has drawn its pictures into."""
    return name == OVERLAYS and bool(state_files(directory))


def state_files(directory: Path) -> list[Path]:
    """Return ``run.json`` of a directory, and those of its shards, as far as they are there."""
    return sorted(path for path in directory.glob("run*.json") if is_state_file(path.name))


def is_state_file(name: str) -> bool:
    """Whether a file's name is that of a ``run.json``, or of a shard's own."""
    return _STATE_NAME.fullmatch(name) is not None
