"""Arguments of the Python interface, checked where they are given: a wrong one would show in the depths, or never."""

from __future__ import annotations

import os
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from pc_engine.errors import UsageError

#: Threads that decode or compute: no run looks so many files ahead, and each costs memory.
MOST_THREADS = 2_048
#: Objects in a picture: more could not be told apart.
MOST_OBJECTS = 1_000_000
#: Stands for the number of objects that each `pc_engine.sources.SourceImage` says of itself.
EACH = "each"
# Seconds for an image: a system's timers end somewhere, and nobody waits eleven days for a photo.
_MOST_SECONDS = 1_000_000


def whole_number(name: str, value: object, most: int | None = None, *, least: int = 1) -> int:
    """Return a whole number of at least 1, or ``least``, as Python's own, whatever library it comes from.

    Raises
    ------
    UsageError
        If it is anything else, True among it, or more than ``most``.
    """
    if not is_real(value) or not isinstance(value, Integral):
        raise UsageError(f"{name} is {value!r:.60}, expected a whole number of at least {least}.")
    number = int(value)
    if number < least:
        raise UsageError(f"{name} is {number}, expected a number of at least {least}.")
    if most is not None and number > most:
        raise UsageError(f"{name} is {number:,}, expected a number of at most {most:,}.")
    return number


def is_real(value: object) -> bool:
    """Whether it is a number, of whatever library, and not True or False."""
    return isinstance(value, Real) and not isinstance(value, bool)


def maybe_whole_number(name: str, value: object, most: int | None = None) -> int | None:
    """Return None as it is, and anything else as `whole_number`."""
    return None if value is None else whole_number(name, value, most)


def check_seconds(name: str, value: Any) -> None:
    """Raise UsageError unless it is a time that decoding one image may take, in seconds."""
    if not is_real(value) or not 0 < value <= _MOST_SECONDS:
        raise UsageError(f"{name} is {value!r:.60}, expected a number above 0, and {_MOST_SECONDS:,} at most.")


def text(name: str, value: object, example: str) -> str:
    """Return text as it is; raise UsageError, with an example, if it is anything else."""
    if not isinstance(value, str):
        raise UsageError(f"{name} is {value!r:.60}, expected text such as '{example}'.")
    return value


def source_names(sources: object) -> list[str]:
    """Return what is to be run, one text or path or several of them, as a list of texts.

    Raises
    ------
    UsageError
        If it is anything else, such as an image in memory.
    """
    if not isinstance(sources, Iterable) or isinstance(sources, (str, bytes, os.PathLike)):
        return [_source_name(sources)]
    return [_source_name(source) for source in sources]


def _source_name(source: object) -> str:
    name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
    if not isinstance(name, str):
        raise UsageError(
            f"A source is of type {type(source).__name__}, expected text or a path: name a file or a folder, or give "
            "Engine.run_paths images in memory, made by SourceImage.from_pixels or SourceImage.from_bytes."
        )
    return name
