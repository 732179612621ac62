"""Thumbnails of a run's photos inside its report, for photos that are not beside it, or that browsers do not show."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

from pc_engine.errors import ImageError
from pc_engine.runs.photos import RunPhotos, small_picture

#: Pixels of the longest side.
LONGEST_SIDE = 160
#: Thumbnails in one part of the page: it reads a part when the first of them comes into view.
PER_PART = 200


def thumbnail_addresses(
    rows: Sequence[tuple[str, int] | None], photos: RunPhotos, workers: int, shrinking: Callable[[int, int], None]
) -> Iterator[str]:
    """Yield a ``data:`` address for every row, in order; empty where none is wanted or the photo cannot be read.

    Parameters
    ----------
    rows
        The path of each photo, and its pixels where they are known, else 0; None for a row without a thumbnail.
    photos
        Where they are found.
    workers
        Threads that decode.
    shrinking
        Called as ``shrinking(done, total)`` after every photo.
    """
    wanted = [row for row in rows if row is not None]
    remaining = iter(wanted)
    with ThreadPoolExecutor(workers) as pool:
        # No more than are needed to keep the threads busy: the photos of a large run do not fit into memory.
        pending: list[Future[str]] = [pool.submit(_address, *row, photos) for row in islice(remaining, 4 * workers)]
        done = 0
        for asked in rows:
            if asked is None:
                yield ""
                continue
            address = pending.pop(0).result()
            pending += [pool.submit(_address, *row, photos) for row in islice(remaining, 1)]
            done += 1
            shrinking(done, len(wanted))
            yield address


def _address(path: str, pixels: int, photos: RunPhotos) -> str:
    try:
        picture = small_picture(photos.read(path), LONGEST_SIDE, pixels=pixels)
    except ImageError:
        return ""
    return "data:image/webp;base64," + base64.b64encode(picture).decode("ascii")
