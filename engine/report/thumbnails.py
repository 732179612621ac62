"""Thumbnails of a run's photos inside its report, for photos that are not beside it, or that browsers do not show."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

from pc_engine.errors import ImageError
from pc_engine.runs.photos import RunPhotos, small_picture

#: Pixels of the longest side.
LONGEST_SIDE = 160
#: Thumbnails in one part of the page: it reads a part when the first of them comes into view.
PER_PART = 200


class _Asked(NamedTuple):
    """A row that is to have a thumbnail; 0 pixels where they are not known."""

    path: str
    pixels: int
    is_done: bool


class Thumbnails:
    """The thumbnails of a page, which are made as it is written: what became of them is known afterwards.

    Attributes
    ----------
    made
        How many there are so far.
    missing
        Photos of images that could be done, but not be read any more.
    """

    def __init__(self) -> None:
        self.made = 0
        self.missing: list[str] = []
        self._rows: list[_Asked | None] = []

    @property
    def any_asked(self) -> bool:
        """Whether any row is to have one."""
        return any(self._rows)

    def ask(self, row: Mapping[str, Any], *, wanted: bool) -> None:
        """Add the next row, which is to have one if ``wanted``."""
        pixels = (row["width"] or 0) * (row["height"] or 0)
        self._rows.append(_Asked(row["path"], pixels, row["status"] == "ok") if wanted else None)

    def parts(self, photos: RunPhotos, workers: int, shrinking: Callable[[int, int], None]) -> Iterator[list[str]]:
        """Yield the ``data:`` addresses of `PER_PART` rows after the other; nothing where no row is to have one.

        Those are empty of which none is wanted, or whose photo cannot be read. ``workers`` are threads that decode;
        ``shrinking`` is called with how many photos are done, and of how many, after every one.
        """
        addresses = self._addresses(photos, workers, shrinking)
        for start in range(0, len(self._rows) if self.any_asked else 0, PER_PART):
            yield ["" if row is None else next(addresses) for row in self._rows[start : start + PER_PART]]

    def _addresses(self, photos: RunPhotos, workers: int, shrinking: Callable[[int, int], None]) -> Iterator[str]:
        asked = [row for row in self._rows if row is not None]
        remaining = iter(asked)
        with ThreadPoolExecutor(workers) as pool:
            # No more than are needed to keep the threads busy: the photos of a large run do not fit into memory.
            pending = deque(pool.submit(_address, row, photos) for row in islice(remaining, 4 * workers))
            for done, row in enumerate(asked, start=1):
                address = pending.popleft().result()
                pending.extend(pool.submit(_address, following, photos) for following in islice(remaining, 1))
                self.made += bool(address)
                if row.is_done and not address:
                    self.missing.append(row.path)
                shrinking(done, len(asked))
                yield address


def _address(row: _Asked, photos: RunPhotos) -> str:
    try:
        picture = small_picture(photos.read(row.path), LONGEST_SIDE, pixels=row.pixels)
    except ImageError:
        return ""
    return "data:image/webp;base64," + base64.b64encode(picture).decode("ascii")
