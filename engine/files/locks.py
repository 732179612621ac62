"""Locks on files, which hold for one process at a time, and end with it."""

from __future__ import annotations

import errno
import warnings
from pathlib import Path
from typing import Any

import filelock

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)


class NoLocksError(OSError):
    """A disk that has locks takes none now."""


def file_lock(path: Path, seconds: float) -> filelock.BaseFileLock:
    """Return a lock, not yet taken, that raises `filelock.Timeout` where it is not free for so many seconds.

    On disks without flock it is by files that are made and removed: see `hush_filelock`. On those that have it and do
    not take a lock, as of NFS servers without a lock daemon, a `NoLocksError` says so: other machines may still lock
    there.
    """
    hush_filelock()
    return _FileLock(path, timeout=seconds)


class _FileLock(filelock.FileLock):
    def acquire(self, *args: Any, **options: Any) -> filelock.AcquireReturnProxy[Any]:
        try:
            return super().acquire(*args, **options)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise NoLocksError(error.errno, "its disk takes no locks", self.lock_file) from None
            raise


def hush_filelock() -> None:
    """Let filelock lock by files that are made and removed, without a warning, on disks without flock.

    That is as good, and nobody can do anything about it. To be called ahead of each lock, as programs change the
    filters too; one that is there already is not added again.
    """
    warnings.filterwarnings("ignore", "flock not supported", UserWarning, module="filelock")
