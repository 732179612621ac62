"""Images of a ZIP archive by their names: ``zip://MEMBER::ARCHIVE``, whose table of contents is read once for many."""

from __future__ import annotations

from operator import methodcaller

from pc_engine.sources.addresses import OpenArchive, reading
from pc_engine.sources.last_reader import LastReader

_SCHEME = "zip://"

_last = LastReader(lambda archive: OpenArchive(f"{_SCHEME}::{archive}"))


def is_zip_member(name: str) -> bool:
    """Whether `read_zip_member` is to find the image of that name."""
    member, separator, _ = name.partition("::")
    return bool(separator) and member.startswith(_SCHEME) and member != _SCHEME


def read_zip_member(name: str) -> bytes:
    """Return the bytes of an image in a ZIP archive, which stays open for the next one.

    Raises
    ------
    ImageError
        If there is no such archive or member, or it cannot be read.
    """
    member, _, archive = name.partition("::")
    return reading(lambda: _last.read(archive, methodcaller("read", member)) or b"")
