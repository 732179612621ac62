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
    return None if path.isascii() else _found(path.rstrip(os.sep))


def _found(path: str) -> str | None:
    if not path or os.path.lexists(path):
        return path
    folder, name = os.path.split(path)
    if not name or (inside := _found(folder)) is None:
        return None
    written = dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in _FORMS)))
    there = [found for one in written if os.path.lexists(found := os.path.join(inside, one))]
    # Of two it is not known which is meant.
    return there[0] if len(there) == 1 else None
