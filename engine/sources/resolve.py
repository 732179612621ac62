"""From the name of a row back to the bytes of its image."""

from __future__ import annotations

import os
import re
from functools import lru_cache, partial
from pathlib import PurePath

from pc_engine.errors import ImageError
from pc_engine.sources.addresses import file_part, is_address, read_address
from pc_engine.sources.image import SourceImage, read_file
from pc_engine.sources.parquet_shards import read_row, row_of
from pc_engine.sources.stored_names import original_name
from pc_engine.sources.tar_shards import is_member_name, is_read_onwards, read_member, without_repeat
from pc_engine.sources.zip_members import is_zip_member, read_zip_member

# What some file system refuses in a name.
_ODD_LETTERS = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')


def read_image(name: str) -> bytes:
    """Return the bytes of the image that a row's ``path`` names: a file, a member or row of a shard, an address.

    Parameters
    ----------
    name
        The path of a row, also as a run directory stores it.

    Raises
    ------
    ImageError
        If it cannot be read, or is no longer there.
    """
    try:
        return _read(name)
    except ImageError:
        original = original_name(name)
        if original == name:
            raise
    return _read(original)


def image_stem(name: str) -> str:
    """Return what to call a file made for the image that a row's ``path`` names: no folder, no suffix, no odd letters.

    Several images may have the same.
    """
    if not os.path.lexists(name) and (row := row_of(name)) is not None:
        return f"{image_stem(row[0])}-{row[1]}"
    own = file_part(name).rsplit("/", 1)[-1]
    return _ODD_LETTERS.sub("_", PurePath(own).stem)


def named_image(name: str) -> SourceImage:
    """Return the image of that name, which is not looked up before it is read."""
    return SourceImage(name, partial(read_image, name))


def follows_others(name: str) -> bool:
    """Whether what lies before the image of that name is read with it, so that one thread is best to read all in turn.

    That is so with tables, and with archives that are compressed or elsewhere.
    """
    if is_member_name(name):
        return _is_read_onwards(without_repeat(name.partition("::")[2])[0])
    return row_of(name) is not None


_is_read_onwards = lru_cache(maxsize=16)(is_read_onwards)


def _read(name: str) -> bytes:
    if os.path.lexists(name):
        return read_file(name)
    if is_member_name(name):
        return read_member(name)
    if (row := row_of(name)) is not None:
        return read_row(*row)
    if is_zip_member(name):
        return read_zip_member(name)
    return read_address(name) if is_address(name) else read_file(name)
