"""Images whose bytes were read with the listing, as those of a compressed archive have to be.

The pipeline takes images well ahead of the network, and others hold on to a sample of them: so all that are held at a
time share an allowance, and beyond it an image is read again when its turn comes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from pc_engine.sources.image import SourceImage

#: Bytes that one listing holds at a time.
ALLOWANCE = 2**28


class HeldBytes:
    """Hands out the allowance of one listing.

    Parameters
    ----------
    allowance
        Bytes that may be held at a time.
    """

    def __init__(self, allowance: int = ALLOWANCE) -> None:
        self._left = allowance
        self._lock = threading.Lock()

    def has_room(self, size: int) -> bool:
        """Whether ``size`` bytes more may be held."""
        with self._lock:
            return size <= self._left

    def image(self, name: str, data: bytes, again: Callable[[], bytes]) -> SourceImage:
        """Return an image whose ``data`` are held until they are read once; ``again`` reads them another time."""
        self.add(-len(data))
        return SourceImage(name, _ReadOnce(data, again, self))

    def add(self, size: int) -> None:
        """Make what is left of the allowance larger, as when bytes are let go of; a negative ``size`` takes of it."""
        with self._lock:
            self._left += size


class _ReadOnce:
    """Returns its bytes and lets go of them; called again, it reads them again."""

    def __init__(self, data: bytes | None, again: Callable[[], bytes], held: HeldBytes | None) -> None:
        self._data, self._again, self._held = data, again, held

    def __call__(self) -> bytes:
        data, self._data = self._data, None
        if data is None:
            return self._again()
        self._return(data)
        return data

    def __del__(self) -> None:
        if self._data is not None:
            self._return(self._data)

    def __reduce__(self) -> tuple[type[_ReadOnce], tuple[bytes | None, Callable[[], bytes], None]]:
        return _ReadOnce, (self._data, self._again, None)  # another process has an allowance of its own

    def _return(self, data: bytes) -> None:
        if self._held is not None:
            self._held.add(len(data))
