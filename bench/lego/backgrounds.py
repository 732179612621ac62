"""Backgrounds and lighting of MNIST-LEGO scenes: smooth noise, stray strokes, photos, light gradients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pc_engine.bench.lego.digits import HELD_OUT_EVERY, Split
from pc_engine.errors import DataError

_PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
#: Photos are kept at this longest side: detail finer than a scene's pixels is of no use.
_PHOTO_SIDE = 512


def load_photos(directory: Path, split: Split, limit: int = 400) -> tuple[np.ndarray, ...]:
    """Read the photos of a split under a folder, in the order of their paths and at most ``limit``: uint8 (H, W, 3).

    Every fifth is held out, beginning with the first; the two splits share no photo.

    Raises
    ------
    DataError
        If the folder holds fewer than two, or one cannot be read.
    """
    paths = sorted(path for path in directory.rglob("*") if path.suffix.lower() in _PHOTO_SUFFIXES)
    if len(paths) < 2:
        raise DataError(
            f"{directory} holds {len(paths)} background photos ({', '.join(_PHOTO_SUFFIXES)}); give a folder with two "
            f"or more, as training and test share none."
        )
    chosen = [path for place, path in enumerate(paths) if (place % HELD_OUT_EVERY == 0) == (split == "held-out")]
    images = []
    for path in chosen[:limit]:
        try:
            with Image.open(path) as photo:
                photo.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE))
                images.append(np.asarray(photo.convert("RGB")))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"The background photo {path} cannot be read ({error}); remove it.") from None
    return tuple(images)


def photo_background(random: np.random.Generator, size: int, photos: Sequence[np.ndarray]) -> np.ndarray:
    """Cut a random square out of a random photo and soften its contrast; float32 (size, size, 3), 0..1."""
    photo = photos[int(random.integers(len(photos)))]
    height, width = photo.shape[:2]
    side = max(1, int(min(height, width) * random.uniform(0.5, 1.0)))
    x, y = int(random.integers(0, width - side + 1)), int(random.integers(0, height - side + 1))
    cut = Image.fromarray(photo[y : y + side, x : x + side]).resize((size, size), Image.Resampling.BICUBIC)
    ground = np.asarray(cut, np.float32) / 255
    mean = ground.mean(axis=(0, 1))
    return np.asarray(mean + (ground - mean) * np.float32(random.uniform(0.4, 0.9)))


def noise_background(random: np.random.Generator, size: int, amplitude: float, strokes: int) -> np.ndarray:
    """Draw a coloured ground with smooth noise at two scales and up to ``strokes`` faint stray strokes.

    Returns
    -------
    float32 (size, size, 3), 0..1.
    """
    level, tint = random.uniform(0.15, 0.85), random.uniform(-0.1, 0.1, 3)
    ground = np.broadcast_to((level + tint).astype(np.float32), (size, size, 3)).copy()
    ground += _smooth_noise(random, size, int(random.integers(3, 7))) * np.float32(random.uniform(0, amplitude))
    ground += _smooth_noise(random, size, int(random.integers(10, 33))) * np.float32(random.uniform(0, amplitude / 2))
    n_strokes = int(random.integers(0, strokes + 1))
    if n_strokes:
        ground += _strokes(random, size, n_strokes)[:, :, None] * np.float32(random.uniform(-0.25, 0.25))
    return np.clip(ground, 0.02, 0.98)


def light_field(random: np.random.Generator, size: int, strength: float) -> np.ndarray:
    """Draw a linear gradient of brightness around 1 in a random direction; float32 (size, size)."""
    angle, change = random.uniform(0, 2 * np.pi), random.uniform(0, strength)
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    return np.asarray(1 + change * (np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None]), np.float32)


def _smooth_noise(random: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Enlarge (cells, cells) uniform noise per channel, partly shared by the channels; float32 (size, size, 3)."""
    coarse = random.uniform(-1, 1, (cells, cells, 3)) * 0.4 + random.uniform(-1, 1, (cells, cells, 1)) * 0.6
    bytes_ = Image.fromarray(((coarse + 1) * 127.5).astype(np.uint8))
    return np.asarray(bytes_.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 127.5 - 1


def _strokes(random: np.random.Generator, size: int, n_strokes: int) -> np.ndarray:
    """Draw arcs and lines, smoothed by drawing at twice the size; float32 (size, size), 0..1."""
    sheet = Image.new("L", (2 * size, 2 * size))
    pen = ImageDraw.Draw(sheet)
    for _ in range(n_strokes):
        x, y = random.uniform(0, 2 * size, 2)
        dx, dy = random.uniform(-0.3, 0.3, 2) * size
        width = int(random.integers(2, 6)) * max(1, size // 128)
        if random.integers(2):
            pen.line([x, y, x + dx, y + dy], fill=255, width=width)
        else:
            start = random.uniform(0, 360)
            box = [x, y, x + abs(dx) + 4, y + abs(dy) + 4]
            pen.arc(box, start, start + random.uniform(60, 300), fill=255, width=width)
    return np.asarray(sheet.resize((size, size), Image.Resampling.BOX), np.float32) / 255
