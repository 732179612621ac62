"""Reading images of an archive by their names one after the other, without beginning anew for each of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from pc_engine.errors import ImageError
from pc_engine.sources.addresses import local_path
from pc_engine.sources.shards import is_remote


class Closable(Protocol):
    """What reads one archive."""

    def close(self) -> None:
        """Close what is open of it."""


Reader = TypeVar("Reader", bound=Closable)


class LastReader(Generic[Reader]):
    """Keeps, for each thread, what read the last image: the next one is mostly of the same archive, and lies behind it.

    Parameters
    ----------
    open_reader
        Returns what reads the archive at a path or an address.
    """

    def __init__(self, open_reader: Callable[[str], Reader]) -> None:
        self._open = open_reader
        self._kept = threading.local()

    def read(self, shard: str, find: Callable[[Reader], bytes | None]) -> bytes | None:
        """Return what ``find`` finds with a reader of an archive: one that was kept, else one from its beginning.

        Raises
        ------
        Exception
            Whatever opening and ``find`` raise. After an ImageError the reader is kept, as it is the image's own.
        """
        kept: tuple[str, tuple[int, ...], Reader] | None = getattr(self._kept, "reader", None)
        self._kept.reader = None
        if kept is not None:
            if kept[:2] == (shard, _state(shard)):
                try:
                    found = find(kept[2])
                except ImageError:
                    self._kept.reader = kept
                    raise
                except Exception:  # a connection dropped meanwhile, say: one from the beginning tells what is wrong
                    found = None
                if found is not None:
                    self._kept.reader = kept
                    return found
            kept[2].close()
        state = _state(shard)
        reader = self._open(shard)
        try:
            found = find(reader)
        except ImageError:
            self._kept.reader = shard, state, reader
            raise
        except BaseException:
            reader.close()
            raise
        self._kept.reader = shard, state, reader
        return found


def _state(shard: str) -> tuple[int, ...]:
    """Return what changes when a file of this machine does."""
    path = local_path(shard) or shard
    if is_remote(path):
        return ()
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns
