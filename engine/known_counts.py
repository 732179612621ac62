"""How many objects the images of a run show, where that is known: one number for all, or each image's own."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pc_engine.arguments import maybe_whole_number
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.pipeline import TapBatch
from pc_engine.sources import SourceImage
from pc_engine.sources.image import broken_image

#: Stands for the number that each `SourceImage` says of itself.
EACH = "each"
_NOT_KNOWN = "It is not known how many objects it shows: write that into the column of counts, as a whole number."


class KnownCounts:
    """What is known of the counts.

    Parameters
    ----------
    count
        A whole number of at least 1, `EACH`, or None where they are to be counted.

    Attributes
    ----------
    count
        The same, as Python's own.

    Raises
    ------
    UsageError
        If it is anything else.
    """

    def __init__(self, count: object) -> None:
        self.count = EACH if isinstance(count, str) and count == EACH else maybe_whole_number("count", count)

    @property
    def of_all(self) -> int | None:
        """The number, where all have one."""
        return self.count if isinstance(self.count, int) else None

    def checked(self, images: Iterable[SourceImage]) -> Iterable[SourceImage]:
        """Return the images, those as broken that are to say their number and do not."""
        return map(_with_count, images) if self.count == EACH else images

    def of_batch(self, batch: TapBatch) -> Array | None:
        """Return what each image of a batch says that went through the network, (n,) int64 beside its taps, or None."""
        if self.count != EACH:
            return None
        each = [batch.entries[row].known_count or 0 for row in batch.rows]
        counts: Array = get_array_module(batch.finite).asarray(each, np.int64)
        return counts


def _with_count(image: SourceImage) -> SourceImage:
    broken = image.count is None and image.error is None
    return broken_image(image.name, _NOT_KNOWN) if broken else image
