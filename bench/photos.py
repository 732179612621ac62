"""The photos that a benchmark runs on: a folder's, repeated if need be, or generated ones."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from pc_engine.decoding.decode import DecodedImage, decode_image
from pc_engine.errors import DataError, ImageError, UsageError
from pc_engine.hardware.machine import usable_cores
from pc_engine.selection.candidates import probe_images
from pc_engine.sources import iter_images

_RANDOM = "random:"
_MOST = 100_000
_WIDTH, _HEIGHT, _QUALITY = 640, 480, 90


@contextmanager
def photos_of(source: str) -> Iterator[list[Path]]:
    """Yield the images of ``source``; those of ``random:N`` exist until the block ends.

    Parameters
    ----------
    source
        A folder, file or glob; or ``random:N`` for N JPEG photos of 640 x 480 pixels: blobs and noise over gradients,
        the same ones every time.

    Raises
    ------
    UsageError
        If the source does not exist or N is no number of at least 1.
    DataError
        If the source holds no image.
    """
    if is_random(source):
        with tempfile.TemporaryDirectory(prefix="pc-engine-photos-") as folder:
            yield _write_photos(Path(folder), _number(source))
        return
    paths = [Path(image.name) for image in iter_images([source])]
    if not paths:
        raise DataError(f"There is no image in '{source}' to measure with: name another folder, or random:200.")
    if not all(os.path.lexists(path) for path in paths):
        raise UsageError(f"'{source}' holds images that are not files on this machine: measure on a folder.")
    yield paths


def is_random(source: str) -> bool:
    """Whether ``source`` asks for drawn photos."""
    return source.startswith(_RANDOM)


def readable_photos(
    paths: Sequence[Path], height: int, width: int, *, keep: int
) -> tuple[list[Path], list[DecodedImage]]:
    """Return the images that can be read, and the first ``keep`` of them decoded to ``height`` x ``width``.

    An unreadable image costs a run next to nothing, so that rates taken with some would flatter.

    Raises
    ------
    DataError
        If none can be read.
    """

    def decode(item: tuple[int, Path]) -> tuple[Path, DecodedImage | None] | None:
        index, path = item
        try:
            image = decode_image(path, height, width)
        except ImageError:
            return None
        # Pictures that are not kept go at once, else a large folder would fill memory.
        return path, image if index < 2 * keep else None

    with ThreadPoolExecutor(usable_cores()) as pool:
        found = [item for item in pool.map(decode, enumerate(paths)) if item is not None]
    if not found:
        raise DataError(f"None of the {len(paths)} images can be read, '{paths[0]}' being the first: name others.")
    images = [image for _, image in found if image is not None][:keep]
    return [path for path, _ in found], images or [decode_image(found[0][0], height, width)]


def repeat_to(items: Sequence[Path], n: int) -> list[Path]:
    """Return n items, beginning anew with the first as often as needed."""
    return list(islice(cycle(items), n))


def in_batches(images: Sequence[DecodedImage], batch_size: int, most: int) -> list[np.ndarray]:
    """Return full batches uint8 (batch_size, H, W, 3) of the images, at most ``most`` of them, at least one."""
    count = min(most, -(-len(images) // batch_size))
    pixels = list(islice(cycle([image.pixels for image in images]), count * batch_size))
    return [np.stack(pixels[start : start + batch_size]) for start in range(0, len(pixels), batch_size)]


def _number(source: str) -> int:
    text = source.removeprefix(_RANDOM)
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UsageError(f"'{source}' names no number of photos: write it as random:200.")
    if int(text) > _MOST:
        raise UsageError(f"'{source}' asks for more than {_MOST:,} photos: fewer are repeated as often as needed.")
    return int(text)


def _write_photos(folder: Path, n: int) -> list[Path]:
    def write(index: int) -> Path:
        path = folder / f"{index:06d}.jpg"
        Image.fromarray(probe_images(_HEIGHT, _WIDTH, 1, seed=index)[0]).save(path, quality=_QUALITY)
        return path

    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(write, range(n)))
