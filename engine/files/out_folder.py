"""Folders that something is written to: what lies in one already may be all that someone has of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pc_engine.errors import UsageError, system_reason

# Another command may remove a folder, or those that lead to it, while this one makes it: see `removed_if_empty`.
_TRIES = 10


def without_detours(path: Path | None) -> Path | None:
    """Return a path less its steps into folders that are not there, and out again: those would be made on the way.

    A folder that is there may be a link, and what is above it lies elsewhere. None stays None.
    """
    if path is None or ".." not in path.parts:
        return path
    kept = Path()
    for part in path.parts:
        goes_back = part == ".." and kept.name not in ("", "..") and not os.path.lexists(kept)
        kept = kept.parent if goes_back else kept / part
    return kept


def make_folder(folder: Path, advice: str = "choose another") -> None:
    """Make a folder, if it is not there, and find out before the work whether it can be written.

    ``advice`` is what to do where it cannot, as the end of a sentence.

    Raises
    ------
    UsageError
        If it cannot.
    """
    for left in reversed(range(_TRIES)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        except OSError as error:
            if not left or os.path.lexists(folder):
                raise folder_error(folder, error, advice) from None


def check_makeable(folder: Path, advice: str = "choose another") -> None:
    """Find out before the work whether a folder can be made and written, and leave none where there was none.

    ``advice`` is as for `make_folder`, which makes it for good when there is something to put there.

    Raises
    ------
    UsageError
        If it cannot.
    """
    with removed_if_empty(folder):
        make_folder(folder, advice)


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove ``folder``, and those that lead to it, at the end if they were made meanwhile and hold nothing."""
    lacking = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]  # the innermost first
    try:
        yield
    finally:
        with suppress(OSError):
            for path in lacking:
                with suppress(FileNotFoundError):  # who was at work may have removed some
                    path.rmdir()


def folder_error(folder: Path, error: OSError, advice: str = "choose another") -> UsageError:
    """Return the error that says why a folder cannot be written, and what to do."""
    return UsageError(f"The folder {folder} cannot be written ({system_reason(error)}): {advice}.")


def check_vacant(folder: Path) -> None:
    """Raise UsageError if ``folder`` exists and is not an empty directory."""
    try:
        exists, is_folder = folder.exists(), folder.is_dir()
        vacant = not exists or (is_folder and not any(folder.iterdir()))
    except OSError as error:
        raise UsageError(f"The folder {folder} cannot be read ({system_reason(error)}): choose another.") from None
    if exists and not is_folder:
        raise UsageError(f"{folder} is a file, not a directory: name another.")
    if not vacant:
        raise UsageError(f"{folder} exists and is not empty: remove it, or name another directory.")
