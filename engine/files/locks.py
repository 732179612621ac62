"""Locks on files, which hold for one process at a time, and end with it."""

from __future__ import annotations

import warnings
from pathlib import Path

import filelock


def file_lock(path: Path, seconds: float) -> filelock.BaseFileLock:
    """Return a lock, not yet taken, that raises `filelock.Timeout` where it is not free for so many seconds.

    On disks without flock it is by files that are made and removed: see `hush_filelock`.
    """
    hush_filelock()
    return filelock.FileLock(path, timeout=seconds)


def hush_filelock() -> None:
    """Let filelock lock by files that are made and removed, without a warning, on disks without flock.

    That is as good, and nobody can do anything about it. To be called ahead of each lock, as programs change the
    filters too; one that is there already is not added again.
    """
    warnings.filterwarnings("ignore", "flock not supported", UserWarning, module="filelock")
