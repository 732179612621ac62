"""What a mode says about a batch, as arrays on the device of its taps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

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


def split_bad_heat(heat: Array) -> tuple[Array, Array]:
    """Return heatmaps (N, H, W) with zeros in the place of those that no kernel takes, and which those are (N,).

    On a device none is: its kernels mark such images by themselves, and asking would wait for it.
    """
    xp = get_array_module(heat)
    if xp is not np:
        return heat, xp.zeros(len(heat), bool)
    bad = ~((heat >= 0) & (heat < np.inf)).all(axis=(1, 2))  # NaN fails both
    return (np.where(bad[:, None, None], 0, heat) if bad.any() else heat), bad


def by_score(pointers: Array) -> Array:
    """Return pointers (N, K, 5) with each image's rows by decreasing score, NaN rows last."""
    xp = get_array_module(pointers)
    order = xp.argsort(-pointers[..., 4], axis=1, kind="stable")  # NaN sorts last
    return xp.take_along_axis(pointers, order[..., None], axis=1)
