"""Files that may be opened: a named pipe, which some programs take for one, is waited for without end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def check_regular(path: str | Path) -> None:
    """Raise OSError, before it is opened, if what lies at a path is no regular file, or nothing does."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
