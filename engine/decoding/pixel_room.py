"""Room for decoded pictures: each may be large, and as many of them as there are cores would not fit into memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pc_engine.hardware.machine import usable_memory

#: Bytes that decoding takes at its worst for each pixel of most pictures; one of the others counts as more pixels.
BYTES_PER_PIXEL = 16
# Of the memory, what pictures that are being decoded may take together.
_SHARE_OF_MEMORY = 4
#: A picture of less than this part of the room passes without asking: as many as there are cores do fit.
FREE = 64


class PixelRoom:
    """Lets pictures be decoded side by side as long as they have no more than so many pixels together.

    Parameters
    ----------
    pixels
        The room. A picture larger than all of it has it to itself.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = self._left = pixels
        self._turn = threading.Lock()
        self._freed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for so many pixels, and take it for as long as the ``with`` block lasts."""
        wanted = min(pixels, self._pixels)
        if wanted * FREE <= self._pixels:
            yield
            return
        # Who waits keeps the others from passing: small pictures would never leave room for a large one.
        with self._turn, self._freed:
            self._freed.wait_for(lambda: wanted <= self._left)
            self._left -= wanted
        try:
            yield
        finally:
            with self._freed:
                self._left += wanted
                self._freed.notify()


def room_for(max_pixels: int) -> PixelRoom:
    """Return the room of this machine's memory; that of one picture of ``max_pixels`` at least."""
    return PixelRoom(max(max_pixels, usable_memory() // _SHARE_OF_MEMORY // BYTES_PER_PIXEL))
