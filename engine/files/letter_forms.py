"""Names that are the same to people and not to a file system: "ä" as one letter, or as an "a" with two dots behind it.

macOS keeps names in the second form (NFD), and gives them to disks and archives so; other systems, and keyboards, write
the first (NFC).
"""

from __future__ import annotations

import os
import unicodedata
from typing import Literal

_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")


def in_other_form(path: str) -> str | None:
    """Return the path of what lies there under a name of the same letters in another form; None where nothing does.

    Each folder of the path may be written in a form of its own. They are looked up, not listed: there may be a million
    names, and as many files in each folder.
    """
    if path.isascii():
        return None
    path, missing = path.rstrip(os.sep), list[str]()
    # A line of a list may have more folders than functions may call themselves.
    while path and not os.path.lexists(path):
        path, name = os.path.split(path)
        if not name:
            return None
        missing.append(name)
    for name in reversed(missing):
        written = dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in _FORMS)))
        there = [found for one in written if os.path.lexists(found := os.path.join(path, one))]
        # Of two it is not known which is meant.
        if len(there) != 1:
            return None
        path = there[0]
    return path
