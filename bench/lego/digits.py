"""Digit samples, the bricks of MNIST-LEGO, as anti-aliased ink masks."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage
from scipy.interpolate import make_interp_spline

from pc_engine.errors import DataError, UsageError, system_reason

#: Side of a digit mask in pixels, as in MNIST.
SIDE = 28
#: One scikit-learn sample in this many is held out, whose index leaves the remainder ``HELD_OUT_EVERY - 1``; and one
#: background photo in this many.
HELD_OUT_EVERY = 5

Split = Literal["train", "held-out"]
_IDX = {"train": "train", "held-out": "t10k"}
_IDX_UINT8 = 0x08


@dataclass(frozen=True)
class Digits:
    """Digit samples of one split.

    Attributes
    ----------
    images
        float32 (N, 28, 28), ink 0..1.
    labels
        int64 (N,), the digit 0..9.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        missing = sorted(set(range(10)) - {int(label) for label in np.unique(self.labels)})
        if missing:
            raise DataError(f"The digit samples hold no {missing}; every digit 0..9 is needed to build the classes.")


def load_digit_samples(split: Split, directory: Path | None = None) -> Digits:
    """Return the digit samples of a split.

    Without ``directory`` these are the 1,797 samples of 8x8 pixels that scikit-learn carries (UCI ML "Optical
    Recognition of Handwritten Digits"), enlarged to 28x28; every fifth is held out. With a directory they are MNIST in
    IDX files (plain or ``.gz``), whose ``t10k`` files are the held-out split. The two splits share no sample.

    Raises
    ------
    UsageError
        If ``split`` is neither "train" nor "held-out".
    DataError
        If an IDX file is absent or malformed.
    """
    if split not in _IDX:
        raise UsageError(f"The digit split is {split!r}; expected one of {sorted(_IDX)}.")
    if directory is not None:
        images = _read_idx(directory, f"{_IDX[split]}-images-idx3-ubyte", dimensions=3)
        labels = _read_idx(directory, f"{_IDX[split]}-labels-idx1-ubyte", dimensions=1)
        if len(images) != len(labels) or images.shape[1:] != (SIDE, SIDE):
            raise DataError(
                f"The MNIST files in {directory} hold {images.shape} images and {len(labels)} labels; expected as many "
                f"labels as images of {SIDE}x{SIDE} pixels."
            )
        return Digits(images.astype(np.float32) / 255, labels.astype(np.int64))

    from sklearn.datasets import load_digits

    samples, labels = load_digits(return_X_y=True)
    held_out = np.arange(len(labels)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    chosen = held_out if split == "held-out" else ~held_out
    return Digits(_enlarge(samples[chosen].reshape(-1, 8, 8) / 16.0), labels[chosen].astype(np.int64))


def _enlarge(samples: np.ndarray) -> np.ndarray:
    """Enlarge (N, 8, 8) samples to (N, 28, 28) smoothly, then steepen the edges that interpolation blurred."""
    # 8 samples at a pitch of 3.25 pixels span 26; the border of one empty sample lets the ink fade out.
    padded = np.pad(samples, ((0, 0), (1, 1), (1, 1)))
    position = np.clip((np.arange(SIDE) - (SIDE - 1) / 2) / 3.25 + 4.5, 0, 9)
    cubic = make_interp_spline(np.arange(10), np.eye(10), k=3)(position)
    smooth = cubic @ padded @ cubic.T
    ink: np.ndarray = 1 / (1 + np.exp(-9 * (smooth - 0.42)))
    return ink.astype(np.float32)


def _read_idx(directory: Path, name: str, dimensions: int) -> np.ndarray:
    plain, packed = directory / name, directory / f"{name}.gz"
    try:
        data = plain.read_bytes() if plain.is_file() else gzip.decompress(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"The MNIST file {name}[.gz] cannot be read from {directory} ({system_reason(error)}): give the folder "
            "that holds the four IDX files."
        ) from None
    header = 4 + 4 * dimensions
    if len(data) < header or data[:4] != bytes([0, 0, _IDX_UINT8, dimensions]):
        raise DataError(f"{directory / name} is not an IDX file of {dimensions}-dimensional bytes; fetch it again.")
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    if len(data) - header != int(np.prod(shape)):
        raise DataError(f"{directory / name} announces {shape} values and holds {len(data) - header}; fetch it again.")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def make_bank(digits: Digits, n_variants: int, seed: int) -> np.ndarray:
    """Augment digits: rotation ±9°, scale ±10 %, shear ±0.2, elastic jitter of about 1 px and a stroke width.

    Parameters
    ----------
    n_variants
        Variants V of each digit; samples are drawn with replacement.

    Returns
    -------
    float32 (10, V, 28, 28), ink 0..1.
    """
    random = np.random.default_rng([seed, 0xD161])
    masks = np.empty((10, n_variants, SIDE, SIDE), np.float32)
    for digit in range(10):
        samples = np.flatnonzero(digits.labels == digit)
        for variant, sample in enumerate(random.choice(samples, n_variants)):
            masks[digit, variant] = _augment(digits.images[sample], random)
    return masks


def _augment(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    angle = random.uniform(-0.16, 0.16)
    scale = random.uniform(0.9, 1.1, 2)
    shear = random.uniform(-0.2, 0.2)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.array([[1.0, 0.0], [shear, 1.0]]) / scale
    centre = (SIDE - 1) / 2
    grid = np.mgrid[:SIDE, :SIDE].reshape(2, -1) - centre
    coarse = random.normal(0, 1.0, (2, 5, 5))
    elastic = np.stack([ndimage.zoom(field, SIDE / 5, order=1) for field in coarse]).reshape(2, -1)
    warped = ndimage.map_coordinates(image, matrix @ grid + centre + elastic, order=1).reshape(SIDE, SIDE)
    # Blurring and cutting at a random level makes the stroke thinner or thicker.
    blurred = ndimage.gaussian_filter(warped, random.uniform(0.4, 0.9))
    level = random.uniform(0.28, 0.55)
    return (1 / (1 + np.exp(-12 * (blurred / max(float(blurred.max()), 1e-6) - level)))).astype(np.float32)
