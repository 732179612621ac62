"""A counter of salient objects that has learnt nothing: the connected components of a saliency map.

The map is the spectral residual: a picture's log spectrum less its local mean, put back with the phase, shows what is
unusual in it. Hou and Zhang, "Saliency Detection: A Spectral Residual Approach", CVPR 2007,
doi 10.1109/CVPR.2007.383267. As there, pictures have a side of 64 pixels, and what exceeds three times the map's mean
is an object. It stands in for the counter of this kind that the paper compares with (SalCount).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path

import numpy as np
from scipy import ndimage

from pc_engine.decoding.decode import DecodedImage
from pc_engine.decoding.read_ahead import Entry, decode_ahead
from pc_engine.fitted.counter import count_label
from pc_engine.pointers import BoxPointer
from pc_engine.progress import Advance
from pc_engine.result import Result, error_result
from pc_engine.stage_clock import StageClock

#: Name of the counter in tables, and the mode of its rows.
NAME = "spectral residual"

_SIDE = 64
_BLUR = 2.5
_OBJECT_ABOVE_MEAN = 3.0
# Smaller components are specks of texture: the share of the picture from which an object counts.
_LEAST_SHARE = 0.01
_AHEAD = 32
_EIGHT_NEIGHBOURS = np.ones((3, 3))


def saliency_map(picture: np.ndarray) -> np.ndarray:
    """Return the spectral residual saliency of a grey picture, both (H, W) float64; all 0 for one without contrast."""
    if not np.ptp(picture):
        return np.zeros(picture.shape)
    spectrum = np.fft.fft2(picture)
    magnitude = np.abs(spectrum)
    # A frequency that the picture lacks has no logarithm.
    log = np.log(np.maximum(magnitude, 1e-9 * magnitude.max()))
    residual = log - ndimage.uniform_filter(log, size=3, mode="nearest")
    back = np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))
    blurred: np.ndarray = ndimage.gaussian_filter(np.abs(back) ** 2, _BLUR)
    return blurred


def salient_boxes(saliency: np.ndarray) -> list[tuple[float, float, float, float, float]]:
    """Return x0, y0, x1, y1 and score of each salient object of a map (H, W), by decreasing score.

    Coordinates are fractions of the picture; the score is the object's share of the saliency of all objects.
    """
    height, width = saliency.shape
    salient = saliency > _OBJECT_ABOVE_MEAN * saliency.mean()
    components, n = ndimage.label(salient, structure=_EIGHT_NEIGHBOURS)
    names = range(1, n + 1)
    sizes = ndimage.sum_labels(salient, components, names)
    heats = ndimage.sum_labels(saliency, components, names)
    kept = [i for i in range(n) if sizes[i] >= _LEAST_SHARE * saliency.size]
    total = sum(heats[i] for i in kept)
    slices = ndimage.find_objects(components)
    boxes = []
    for i in sorted(kept, key=lambda i: -heats[i]):
        down, across = slices[i]
        corners = (across.start / width, down.start / height, across.stop / width, down.stop / height)
        boxes.append((*corners, float(heats[i] / total)))
    return boxes


def count_salient(paths: Sequence[Path], workers: int, advance: Advance = lambda _: None) -> list[Result]:
    """Count and point at the salient objects of each image; an image that cannot be read has its error row.

    ``workers`` threads decode, and ``advance`` is called with 1 after every image.
    """
    rows = []
    with closing(decode_ahead(paths, (_SIDE, _SIDE), workers, ahead=_AHEAD, clock=StageClock())) as stretches:
        for entry in chain.from_iterable(stretches):
            rows.append(_row(entry))
            advance(1)
    return rows


def _row(entry: Entry) -> Result:
    if not isinstance(entry.image, DecodedImage):
        return error_result(entry.name, entry.error or "unknown error", mode=NAME, model=NAME)
    width, height = entry.image.width, entry.image.height
    pointers = tuple(
        BoxPointer(x0 * width, y0 * height, x1 * width, y1 * height, score)
        for x0, y0, x1, y1, score in salient_boxes(saliency_map(entry.image.pixels.mean(axis=2)))
    )
    return Result(
        path=entry.name,
        status="ok",
        error=None,
        width=width,
        height=height,
        mode=NAME,
        model=NAME,
        count=len(pointers),
        count_label=count_label(len(pointers)),
        pointers=pointers,
    )
