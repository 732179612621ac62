"""Images of a ZIP archive by their names: ``zip://MEMBER::ARCHIVE``, whose table of contents is read once for many."""

from __future__ import annotations

from operator import methodcaller

from pc_engine.sources.addresses import OpenArchive, chain_splits, reading
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
    return reading(lambda: _read(name))


def _read(name: str) -> bytes:
    failure: Exception | None = None
    for member, archive in chain_splits(name):
        try:
            return _last.read(archive, methodcaller("read", member)) or b""
        except Exception as error:  # whatever the file system's package raises, for what may be no archive
            failure = failure or error
    raise failure or FileNotFoundError(name)
