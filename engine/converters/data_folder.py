"""The folder that a data set is written to, with the files that are open in it."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from pathlib import Path, PurePath
from typing import TextIO

# The name is taken (by a file, or by one where a folder is needed), too long, or not one for this file system.
_NAME_ERRORS = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
# What Windows says, too, of a path that is longer than the 260 characters it takes.
_TOO_LONG = (errno.ENOENT,) if os.name == "nt" else ()


class DataFolder:
    """Text files in UTF-8, made anew; what UTF-8 cannot hold appears as \\uNNNN.

    Parameters
    ----------
    path
        The folder, which exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._streams = ExitStack()

    def open(self, name: str | PurePath) -> TextIO:
        """Return a new file for writing and reading that stays open until `close`."""
        return self._streams.enter_context(self._create(name))

    def create(self, relative: PurePath) -> TextIO | None:
        """Return a new file for the caller to close; None if it exists already, or if none of this name can be made."""
        try:
            return self._create(relative)
        except UnicodeEncodeError:  # a name that the locale's file names cannot have
            return None
        except OSError as error:
            if error.errno in (*_NAME_ERRORS, *_TOO_LONG):
                return None
            raise

    def close(self) -> None:
        """Close the files that `open` made."""
        self._streams.close()

    def _create(self, name: str | PurePath) -> TextIO:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("x+", encoding="utf-8", errors="backslashreplace", newline="")
