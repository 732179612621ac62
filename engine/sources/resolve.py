"""From the name of a row back to the bytes of its image."""

from __future__ import annotations

from pc_engine.sources.image import read_file


def read_image(name: str) -> bytes:
    """Return the bytes of the image that a row's ``path`` names.

    Raises
    ------
    ImageError
        If it cannot be read, or is no longer there.
    """
    return read_file(name)
