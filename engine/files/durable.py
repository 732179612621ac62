"""Bringing files under their names so that a crash, or a loss of power, finds the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pc_engine.errors import PcEngineError, system_reason

try:
    import fcntl
except ImportError:  # Windows
    _FULL_SYNC: int | None = None
else:
    _FULL_SYNC = getattr(fcntl, "F_FULLFSYNC", None)

#: What names of files that are not whole yet end in.
UNPUBLISHED = ".new"

Done = TypeVar("Done")

# Of Windows, which neither renames, replaces nor removes what somebody has open just now, such as 'pc-engine status' or
# a virus scanner.
_TRIES, _PAUSE = 20, 0.1


def unpublished(path: Path) -> Path:
    """Return the name that a file has until it is whole."""
    return path.with_name(f".{path.name}{UNPUBLISHED}")


def publish(temporary: Path, path: Path) -> None:
    """Bring a file under its name so that it is there, whole, even after the machine loses its power."""
    sync_file(temporary)
    rename(temporary, path)
    sync_folder(path.parent)


def publish_bytes(path: Path, content: bytes) -> None:
    """Write a file, so that it is there, whole, or as it was before.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    temporary = unpublished(path)
    try:
        temporary.write_bytes(content)
        publish(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def publish_json(path: Path, value: Any) -> None:
    """Write a value as JSON; otherwise as `publish_bytes`."""
    publish_bytes(path, json.dumps(value, indent=1).encode() + b"\n")


def write_json(path: Path, value: Any) -> None:
    """Do what `publish_json` does; raise PcEngineError, with what to do, where that fails."""
    try:
        publish_json(path, value)
    except OSError as error:
        raise write_error(path, error) from None


def write_error(path: Path, error: OSError) -> PcEngineError:
    """Return the error that says why a file cannot be written, and what to do."""
    return PcEngineError(f"{path} cannot be written ({system_reason(error)}): make room, or check its permissions.")


def rename(old: Path, new: Path) -> None:
    """Rename a file or a folder, in place of a file that has the name; on Windows wait a little for who has it open."""
    when_closed(partial(old.replace, new))


def when_closed(work: Callable[[], Done], tries: int = _TRIES) -> Done:
    """Return what ``work`` returns, trying again, a tenth of a second later, where Windows says that a file is open."""
    for _ in range(tries - 1):
        try:
            return work()
        except PermissionError as error:
            if getattr(error, "winerror", None) is None:  # elsewhere it does not pass
                raise
        time.sleep(_PAUSE)
    return work()


def sync(descriptor: int) -> None:
    """Wait until what was written is on the disk: past the drive's cache, too, which fsync of macOS leaves it in."""
    if _FULL_SYNC is not None:
        with contextlib.suppress(OSError):  # of disks that know no such thing, such as some of networks
            fcntl.fcntl(descriptor, _FULL_SYNC)
            return
    os.fsync(descriptor)


def sync_file(path: Path) -> None:
    """Wait until a file's content is on the disk."""
    # Opened for writing, as Windows syncs nothing else.
    with path.open("r+b") as stream:
        sync(stream.fileno())


def sync_folder(directory: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can sync a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)
