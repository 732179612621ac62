"""Pictures of a run's photos for the page of a review: made when they are first asked for, and kept for a while."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Literal

from pc_engine.runs.photos import RunPhotos, small_picture

Size = Literal["thumbnail", "photo"]
#: Pixels of the longest side.
LONGEST_SIDE: dict[Size, int] = {"thumbnail": 320, "photo": 1600}
_BYTES_KEPT = 96_000_000


class Pictures:
    """Makes pictures on the threads that ask for them, a few at a time, and keeps the last ones.

    Parameters
    ----------
    photos
        Where the photos lie.
    workers
        Pictures that are made at the same time.
    bytes_kept
        Bytes of pictures that are kept in memory.
    """

    def __init__(self, photos: RunPhotos, workers: int, bytes_kept: int = _BYTES_KEPT) -> None:
        self._photos = photos
        self._turn = threading.BoundedSemaphore(workers)
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, Size], bytes] = OrderedDict()
        self._bytes = 0
        self._bytes_kept = bytes_kept

    def get(self, path: str, size: Size, *, pixels: int = 0) -> bytes:
        """Return the photo of a row's path, which has so many pixels by the row, as WebP.

        Raises
        ------
        ImageError
            If it cannot be shown.
        """
        with self._lock:
            if (path, size) in self._kept:
                self._kept.move_to_end((path, size))
                return self._kept[path, size]
        with self._turn:
            picture = small_picture(self._photos.read(path), LONGEST_SIDE[size], pixels=pixels)
        self._keep((path, size), picture)
        return picture

    def _keep(self, key: tuple[str, Size], picture: bytes) -> None:
        with self._lock:
            self._bytes += len(picture) - len(self._kept.pop(key, b""))
            self._kept[key] = picture
            while self._bytes > self._bytes_kept:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= len(dropped)
