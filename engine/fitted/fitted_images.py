"""Which images a part was fitted on, as far as it takes to notice them among others: on these it looks too good.

Of each file eight bytes are kept, a digest of its contents, which no picture can be made of. It tells whether a file
that one has is among them, whatever its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pc_engine.errors import ModelError

#: Digests that are kept, 32 KB; of more images the smallest, which are a sample as good as any.
MOST_DIGESTS = 4_096


@dataclass(frozen=True, eq=False)
class FittedImages:
    """The images that a counter or signatures were fitted on.

    Attributes
    ----------
    digests
        (k,) uint64, of their files, ascending, each once; the smallest `MOST_DIGESTS` of them where there are more.
    n
        Number of images; several may be of equal files.
    complete
        Whether these are all digests.

    Raises
    ------
    ModelError
        If they are not like that.
    """

    digests: np.ndarray
    n: int
    complete: bool

    def __post_init__(self) -> None:
        kept = self.digests
        is_list = kept.ndim == 1 and kept.dtype == np.uint64 and len(kept) <= MOST_DIGESTS
        is_told = type(self.n) is int and type(self.complete) is bool
        if not (is_list and is_told and (kept[1:] > kept[:-1]).all() and len(kept) <= self.n):
            raise ModelError("The digests of the images that it was fitted on are not a list: fit it again.")

    def among(self, digests: Iterable[int]) -> int:
        """Return how many of so many images' digests are theirs; an estimate where not all of theirs are kept."""
        asked = np.fromiter(digests, np.uint64)
        found = int(np.isin(asked, self.digests).sum())
        if self.complete or not found:
            return found
        # Each image is as likely as another to have a digest within the kept ones' range.
        return round(found * len(asked) / int((asked <= self.digests[-1]).sum()))

    @classmethod
    def of(cls, digests: Iterable[int]) -> Self:
        """Return the images of these digests, one for each image."""
        of_images = np.fromiter(digests, np.uint64)
        of_files = np.unique(of_images)
        return cls(of_files[:MOST_DIGESTS], len(of_images), len(of_files) <= MOST_DIGESTS)

    def header(self) -> dict[str, Any]:
        """Return all but the digests as JSON values."""
        return {"n": self.n, "complete": self.complete}


def fitted_images(digests: np.ndarray, header: Mapping[str, Any]) -> FittedImages:
    """Return the images of their digests and `FittedImages.header`, which may be a stranger's.

    Raises
    ------
    ModelError
        If either is not what it has to be.
    """
    try:
        return FittedImages(digests, header["n"], header["complete"])
    except (KeyError, TypeError):
        raise ModelError("The digests of the images that it was fitted on lack their number.") from None
