"""Names of images as rows hold them, which UTF-8 can, and back; and where relative ones begin."""

from __future__ import annotations

import os
import re

# How rows hold a byte of a file's name that is not UTF-8, and how Python does.
_STORED_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")
_LONE_SURROGATES = 0xDC00


def stored_name(name: str) -> str:
    """Return the name as rows hold it, which UTF-8 can: bytes that are not UTF-8 appear as \\xNN."""
    try:
        stored = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # no file's name, but an address may hold half a character
        stored = name.encode("utf-8", "backslashreplace")
    return stored.decode("utf-8", "backslashreplace")


def original_name(name: str) -> str:
    """Return the name that `stored_name` was given, if that was not UTF-8; others may look the same."""
    return _STORED_BYTE.sub(lambda byte: chr(_LONE_SURROGATES + int(byte[1], 16)), name)


def start_folder() -> str | None:
    """Return the folder that relative names begin at; None where it is gone."""
    try:
        return os.getcwd()
    except OSError:
        return None
