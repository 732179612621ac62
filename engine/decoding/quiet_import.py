"""Importing a library that prints on the terminal what nobody asked it."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import ModuleType

_STDERR = 2
# Two threads that turn stderr away at once would leave it turned away.
_ONE_AT_A_TIME = threading.Lock()


def import_quietly(name: str, words: Sequence[str]) -> ModuleType:
    """Import a module; of what it prints on stderr meanwhile, lines with one of ``words`` in them are left out.

    Raises
    ------
    ImportError
        As importing does.
    """
    with _ONE_AT_A_TIME:
        if name in sys.modules:
            return importlib.import_module(name)
        with _stderr_without(tuple(word.encode() for word in words)):
            return importlib.import_module(name)


@contextmanager
def _stderr_without(words: tuple[bytes, ...]) -> Iterator[None]:
    """Keep what comes to stderr, also from libraries of C, and print it at the end, but for lines with ``words``.

    Of the whole process: what other threads print meanwhile comes later, too.
    """
    try:
        kept = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
    except OSError:  # a disk that is full is no reason not to import
        yield
        return
    with kept:
        try:
            before = os.dup(_STDERR)
        except OSError:  # there is no stderr
            yield
            return
        os.dup2(kept.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(before, _STDERR)
            os.close(before)
            kept.seek(0)
            with suppress(OSError):  # nobody reads it any more
                os.write(_STDERR, b"".join(line for line in kept if not any(word in line for word in words)))
