"""How many objects the images of a run show, where that is known: one number for all, or each image's own."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral

import numpy as np

from pc_engine.arguments import EACH, MOST_OBJECTS, is_real, maybe_whole_number
from pc_engine.kernels.array_module import Array, get_array_module
from pc_engine.pipeline import TapBatch
from pc_engine.sources import SourceImage
from pc_engine.sources.image import broken_image

_NOT_KNOWN = (
    "How many objects it shows is not known: give that in the table's column of counts, as a whole number up to "
    f"{MOST_OBJECTS:,}."
)


class KnownCounts:
    """What is known of the counts.

    Parameters
    ----------
    count
        A whole number from 1 to `MOST_OBJECTS`, `EACH`, or None where they are to be counted.

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
        is_each = isinstance(count, str) and count == EACH
        self.count = EACH if is_each else maybe_whole_number("count", count, MOST_OBJECTS)

    @property
    def of_all(self) -> int | None:
        """The number, where all have one."""
        return self.count if isinstance(self.count, int) else None

    def checked(self, images: Iterable[SourceImage]) -> Iterable[SourceImage]:
        """Return the images, those as broken that are to say their number, from 0 to `MOST_OBJECTS`, and do not."""
        return map(_with_count, images) if self.count == EACH else images

    def of_batch(self, batch: TapBatch) -> Array | None:
        """Return what each image of a batch says that went through the network, (n,) int64 beside its taps, or None."""
        if self.count != EACH:
            return None
        each = [batch.entries[row].known_count for row in batch.rows]
        assert None not in each  # as `checked` let none through
        counts: Array = get_array_module(batch.finite).asarray(each, np.int64)
        return counts


def _with_count(image: SourceImage) -> SourceImage:
    count: object = image.count  # whatever a program gave it
    known = is_real(count) and isinstance(count, Integral) and 0 <= int(count) <= MOST_OBJECTS
    return image if known or image.error is not None else broken_image(image.name, _NOT_KNOWN)
