"""Paths of this machine's files, as in addresses such as ``file:///home/me/photos``, or with a ``~`` for home."""

from __future__ import annotations

import os
import re
from pathlib import Path

_DRIVE = re.compile(r"/[A-Za-z]:")


def path_of_address(path: str) -> str:
    """Return the path that the one of a ``file://`` address stands for: on Windows a slash is before a drive there."""
    return path[1:] if os.name == "nt" and _DRIVE.match(path) else path


def at_home(text: str) -> Path:
    """Return a path whose ``~`` or ``~user`` at the start is the home folder; as it is where there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)
