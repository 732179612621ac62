"""The images that a network is quantised with, and others that are held out to judge the result."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pc_engine.decoding.decode import decode_bytes
from pc_engine.errors import DataError, ImageError
from pc_engine.sources import SourceImage, iter_images

#: Images that are taken unless another number is asked for. Ranges settle within a hundred; the other half tells an
#: agreement of 97 % from one of 94 %.
DEFAULT_LIMIT = 300
#: With fewer, neither ranges nor agreements mean anything.
MIN_IMAGES = 10

_SEED = 0


@dataclass(frozen=True)
class CalibrationImages:
    """Pixels as a network takes them.

    Attributes
    ----------
    used, held_out
        uint8 (n, H, W, 3) RGB: those to quantise with, and those to compare on; no file is in both, nor a copy of it.
    unreadable
        Number of files that were chosen and could not be read.
    """

    used: np.ndarray
    held_out: np.ndarray
    unreadable: int


def read_calibration_images(
    sources: Sequence[str], height: int, width: int, *, limit: int, workers: int, compare_only: bool = False
) -> CalibrationImages:
    """Decode a sample of the images of ``sources``, every other one of them held out, and of copies one taken.

    Parameters
    ----------
    sources
        Files, folders, globs and more; see `pc_engine.sources.iter_images`.
    height, width
        Size to decode to, in pixels.
    limit
        Most images to take, drawn from all with a fixed seed: the first ones of a listing are often alike.
    workers
        Decoding threads.
    compare_only
        Hold all of them out.

    Raises
    ------
    UsageError
        If a source does not exist.
    DataError
        If too few can be read.
    """
    sample = _sample(iter_images(sources), limit)

    def decode(image: SourceImage) -> tuple[bytes, np.ndarray] | None:
        try:
            data = image.read()
            return hashlib.blake2b(data).digest(), decode_bytes(data, height, width).pixels
        except ImageError:
            return None

    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        readable = [found for found in pool.map(decode, sample) if found is not None]
    decoded = [pixels for _, pixels in readable] if compare_only else [*dict(readable).values()]  # of copies, one
    if len(decoded) < MIN_IMAGES:
        raise DataError(
            f"Only {len(decoded)} images can be read from {', '.join(sources)}: calibration takes at least "
            f"{MIN_IMAGES} different ones, preferably {DEFAULT_LIMIT}, like those to be counted."
        )
    images = np.stack(decoded)
    unreadable = len(sample) - len(readable)
    if compare_only:
        return CalibrationImages(images[:0], images, unreadable)
    return CalibrationImages(images[::2], images[1::2], unreadable)


def _sample(images: Iterable[SourceImage], limit: int) -> list[SourceImage]:
    """Return ``limit`` of the images, or all if there are no more, each with the same chance, in one pass."""
    chosen: list[SourceImage] = []
    generator = random.Random(_SEED)
    for seen, image in enumerate(images, start=1):
        if len(chosen) < limit:
            chosen.append(image)
        elif (place := generator.randrange(seen)) < limit:
            chosen[place] = image
    return chosen
