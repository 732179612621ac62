"""Paths of this machine's files in addresses such as ``file:///home/me/photos``."""

from __future__ import annotations

import os
import re

_DRIVE = re.compile(r"/[A-Za-z]:")


def path_of_address(path: str) -> str:
    """Return the path that the one of a ``file://`` address stands for: on Windows a slash is before a drive there."""
    return path[1:] if os.name == "nt" and _DRIVE.match(path) else path
