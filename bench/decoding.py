"""What decoding JPEGs at a smaller scale saves, and what it does to classes and counts."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pc_engine.bench.environment import describe_environment
from pc_engine.bench.photos import readable_photos
from pc_engine.decoding.decode import JPEG_OVERSAMPLING, MAX_PIXELS, DecodedImage, decode_image, display_image
from pc_engine.decoding.read_ahead import Entry
from pc_engine.engine import Engine
from pc_engine.errors import UsageError
from pc_engine.hardware.machine import usable_cores
from pc_engine.pipeline import TapBatch
from pc_engine.progress import Progress
from pc_engine.result import Result

#: Oversampling of the network's size; None decodes in full, and is what the others are compared with.
VARIANTS: tuple[int | None, ...] = (None, 4, 2, 1)
# Of the photos that `enlarged` writes: that of a camera.
_QUALITY = 92
_ROUNDS = 3
# Side in pixels of the largest JPEG.
_LONGEST = 65_500


@dataclass(frozen=True)
class DecodingVariant:
    """One way to decode.

    Attributes
    ----------
    oversampling
        The least size of the decoded picture, as a multiple of the network's input; None for the full picture.
    ms
        Milliseconds an image on one core, from file to pixels of the network's size; the best of three rounds.
    same_class
        Share of images with the class that they get when decoded in full; None if the mode names no class.
    same_count
        Share of images with the count that they get when decoded in full.
    """

    oversampling: int | None
    ms: float
    same_class: float | None
    same_count: float


@dataclass(frozen=True)
class DecodingReport:
    """The variants on n photos; ``in_use`` is the oversampling that a run decodes with."""

    model: str
    mode: str
    n: int
    enlarged: int
    variants: tuple[DecodingVariant, ...]
    in_use: int = JPEG_OVERSAMPLING
    machine: dict[str, Any] = field(default_factory=lambda: describe_environment("pillow", "simplejpeg"))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return asdict(self)


def measure_decoding(
    photos: Sequence[Path], engine: Engine, *, enlarge: int = 1, progress: Progress = lambda *_: None
) -> DecodingReport:
    """Decode ``photos`` in every variant, and compare what ``engine`` then says about them.

    ``enlarge`` makes them so many times larger first, to stand for photos of a camera: scaling has nothing to do where
    a picture is hardly larger than the network's input.

    Raises
    ------
    DataError
        If no photo can be read.
    UsageError
        If a photo made larger had more pixels than a run reads.
    """
    pixels = engine.model.manifest.input
    size = pixels.height, pixels.width
    readable, _ = readable_photos(photos, *size, keep=1)
    with enlarged(readable, enlarge) as paths:
        whole: list[Result] = []
        variants = []
        for step, oversampling in enumerate(VARIANTS):
            progress("decoding", step, len(VARIANTS))
            images = [decode_image(path, *size, oversampling=oversampling) for path in paths]
            said = _results(engine, paths, images)
            whole = whole or said
            named = said[0].class_id is not None
            variants.append(
                DecodingVariant(
                    oversampling,
                    1e3 * min(_seconds(paths, size, oversampling) for _ in range(_ROUNDS)) / len(paths),
                    _share([a.class_id == b.class_id for a, b in zip(said, whole, strict=True)]) if named else None,
                    _share([a.count == b.count for a, b in zip(said, whole, strict=True)]),
                )
            )
    progress("decoding", len(VARIANTS), len(VARIANTS))
    return DecodingReport(engine.model.name, engine.mode.name, len(readable), enlarge, tuple(variants))


@contextmanager
def enlarged(photos: Sequence[Path], times: int) -> Iterator[list[Path]]:
    """Yield JPEG copies of the photos, ``times`` as high and as wide; they exist until the block ends."""
    if times == 1:
        yield list(photos)
        return
    with tempfile.TemporaryDirectory(prefix="pc-engine-photos-") as folder:

        def write(item: tuple[int, Path]) -> Path:
            index, path = item
            picture = display_image(path.read_bytes()).picture
            if picture.width * picture.height * times**2 > MAX_PIXELS or max(picture.size) * times > _LONGEST:
                raise UsageError(
                    f"{path.name}, made {times:,} times larger, would have more pixels than a run reads: lower "
                    f"--enlarge."
                )
            larger = picture.resize((picture.width * times, picture.height * times), Image.Resampling.LANCZOS)
            copy = Path(folder) / f"{index:06d}.jpg"
            larger.save(copy, quality=_QUALITY)
            return copy

        with ThreadPoolExecutor(usable_cores()) as pool:
            yield list(pool.map(write, enumerate(photos)))


def _results(engine: Engine, paths: Sequence[Path], images: Sequence[DecodedImage]) -> list[Result]:
    results: list[Result] = []
    for start in range(0, len(paths), engine.batch_size):
        part = slice(start, start + engine.batch_size)
        entries = tuple(Entry(str(path), image, None) for path, image in zip(paths[part], images[part], strict=True))
        taps = engine.network.infer(np.stack([image.pixels for image in images[part]]))
        batch = TapBatch(entries, tuple(range(len(entries))), taps, np.ones(len(entries), bool))
        results += engine.evaluate(batch)
    return results


def _seconds(paths: Sequence[Path], size: tuple[int, int], oversampling: int | None) -> float:
    start = time.perf_counter()
    for path in paths:
        decode_image(path, *size, oversampling=oversampling)
    return time.perf_counter() - start


def _share(same: Sequence[bool]) -> float:
    return sum(same) / len(same)
