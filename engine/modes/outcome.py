"""What a mode says about a batch, as arrays on the device of its taps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pc_engine.hardware.device_arrays import constant
from pc_engine.kernels import sort_rows
from pc_engine.kernels.array_module import Array, get_array_module


@dataclass(frozen=True)
class Outcome:
    """Counts and pointers of N images.

    Attributes
    ----------
    count
        (N,) int64; -1 for an image whose heatmap was refused, as it is negative or not finite.
    kind
        ``"ellipse"``: a pointer is x, y, rx, ry, score; ``"box"``: x0, y0, x1, y1, score.
    pointers
        (N, K, 5) float64, by decreasing score, rows beyond an image's number of pointers NaN. Coordinates are fractions
        of the picture's width and height, 0..1.
    count_scores
        (N, L) float32 decision values of the count SVM, or None.
    class_id, class_score
        (N,) int64 and float32, the predicted class and its softmax probability, or None.
    pointer_class
        (N, K) int64, the class of each pointer where an image may show several, or None. Pointers are then by
        decreasing score within a class, with rows of NaN between.
    """

    count: Array
    kind: Literal["ellipse", "box"]
    pointers: Array
    count_scores: Array | None = None
    class_id: Array | None = None
    class_score: Array | None = None
    pointer_class: Array | None = None


def split_bad_heat(heat: Array) -> tuple[Array, Array | None]:
    """Return heatmaps (N, H, W) with zeros in the place of those that no kernel takes, and which those are (N,).

    On a device none is, and None is returned for which: its kernels mark such images by themselves, and asking would
    wait for it.
    """
    if get_array_module(heat) is not np:
        return heat, None
    bad = ~((heat >= 0) & (heat < np.inf)).all(axis=(1, 2))  # NaN fails both
    return (np.where(bad[:, None, None], 0, heat) if bad.any() else heat), bad


def mark_bad(bad: Array | None, mark: float, values: Array) -> Array:
    """Return what was found (N, ...) in the heatmaps of `split_bad_heat`, with ``mark`` for those that were bad."""
    if bad is None:
        return values
    return np.where(bad.reshape(-1, *[1] * (values.ndim - 1)), mark, values)


def pointer_room(heat: Array, largest: int | None) -> tuple[int, int | None]:
    """Return how many pointers heatmaps (N, H, W) have cells for, and for how many there are to be slots.

    ``largest`` is the largest count that there can be, whatever the cells; None where it is not known. The slots are
    None on a host, which can look at the counts and need not fill any in vain; a device would have to be waited for.
    """
    cells = heat.shape[1] * heat.shape[2]
    if get_array_module(heat) is np:
        return cells, None
    return cells, cells if largest is None else min(largest, cells)


def by_score(pointers: Array) -> Array:
    """Return pointers (N, K, 5) with each image's rows by decreasing score, NaN rows last."""
    return sort_rows(pointers, 4)


def ellipse_pointers(means: Array, variances: Array, scores: Array, grid: tuple[int, int]) -> Array:
    """Return pointers (N, K, 5), by decreasing score, of ellipses in cells of a ``grid`` of (height, width).

    Their means (N, K, 2), NaN for none, and variances (N, K, 2) are in (x, y); scores (N, K).
    """
    xp = get_array_module(means)
    height, width = grid
    size = constant(xp, (width, height, width, height, 1), np.float64)
    centres = means + 0.5  # cell centres lie at integers, the picture's edge half a cell outside
    scores = xp.where(xp.isnan(means[..., 0]), xp.nan, scores)
    return by_score(xp.concatenate([centres, xp.sqrt(variances), scores[..., None]], axis=-1) / size)
