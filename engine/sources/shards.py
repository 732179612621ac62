"""What is alike in files that hold many images: how they are opened, and what a listing of them is allowed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from pc_engine.files.regular_file import check_regular
from pc_engine.sources.addresses import is_address, open_address
from pc_engine.sources.held_bytes import HeldBytes


class CostlyListingError(Exception):
    """Only names were asked for, and having them would take as long as reading everything."""


@dataclass(frozen=True)
class Listing:
    """What one listing goes by.

    Attributes
    ----------
    without
        Real path of a folder that is not entered, or None.
    names_only
        Nothing is going to be read, and names may come in any order: where they cannot be had for less than reading,
        the listing raises `CostlyListingError`.
    folders
        Real paths of the folders that are sources themselves.
    held
        The bytes that may be held at a time.
    stop
        Whether nothing more is to be listed: asked where a listing waits for whoever writes its list.
    by_name
        The images are going to be read by their names, elsewhere: where these can be had without the bytes, they are.
    passed_over
        Called with the name of each file in a folder or an archive that is no image.
    named_again
        Called with the name of each image that came before, and whether it came with another count.
    count_column
        Name of the column of tables that says how many objects an image shows; None where that is not asked.
    """

    without: str | None = None
    names_only: bool = False
    folders: frozenset[str] = frozenset()
    held: HeldBytes = field(default_factory=HeldBytes)
    stop: Callable[[], bool] = lambda: False
    by_name: bool = False
    passed_over: Callable[[str], None] = lambda _: None
    named_again: Callable[[str, bool], None] = lambda *_: None
    count_column: str | None = None


def open_shard(name: str, *, seekable: bool = False) -> BinaryIO:
    """Open a file of this machine or at an address, to be read onwards, or with ``seekable`` anywhere; it is buffered.

    Raises
    ------
    Exception
        OSError, or whatever the file system's package raises.
    """
    if is_remote(name):
        return open_address(name, seekable=seekable)
    check_regular(name)
    return open(name, "rb")


def is_remote(name: str) -> bool:
    """Whether ``name`` is an address, and not that of a local file that looks like one."""
    return is_address(name) and not os.path.lexists(name)
