"""How much of a pointer lies inside a box, exactly: areas in closed form, for boxes and for ellipses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pc_engine.datasets import Box
from pc_engine.pointers import BoxPointer, EllipsePointer, Pointer


def intersection_areas(pointers: Sequence[Pointer], boxes: Sequence[Box]) -> np.ndarray:
    """Return the area that each pointer shares with each box, (P, B) float64, in square pixels.

    Notes
    -----
    Nothing is sampled. An ellipse becomes the unit disc when its box is moved by its centre and divided by its half
    axes; the disc's part inside a box is a sum of four areas in closed form (see `_disc_below`). Rounding leaves an
    error below 1e-14 of the ellipse's area.
    """
    corners = np.array([(box.x0, box.y0, box.x1, box.y1) for box in boxes], np.float64).reshape(-1, 4)
    areas = np.zeros((len(pointers), len(boxes)))
    for place, pointer in enumerate(pointers):
        if isinstance(pointer, BoxPointer):
            areas[place] = _box_areas(pointer, corners)
        else:
            areas[place] = _ellipse_areas(pointer, corners)
    return areas


def overlaps(pointers: Sequence[Pointer], boxes: Sequence[Box]) -> tuple[np.ndarray, np.ndarray]:
    """Return containment and intersection over union, both (P, B); 0 for a pointer without area.

    The area that a pointer shares with a box is a part of its own, and of what either covers.
    """
    shared = intersection_areas(pointers, boxes)
    own = np.array([pointer.area for pointer in pointers], np.float64)[:, None]
    union = own + np.array([box.area for box in boxes], np.float64) - shared
    return _shares(shared, own), _shares(shared, union)


def _shares(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    shares: np.ndarray = np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
    return shares.clip(0, 1)  # rounding must not put a share above the whole


def _box_areas(pointer: BoxPointer, corners: np.ndarray) -> np.ndarray:
    width = np.minimum(pointer.x1, corners[:, 2]) - np.maximum(pointer.x0, corners[:, 0])
    height = np.minimum(pointer.y1, corners[:, 3]) - np.maximum(pointer.y0, corners[:, 1])
    area: np.ndarray = np.maximum(width, 0) * np.maximum(height, 0)
    return area


def _ellipse_areas(pointer: EllipsePointer, corners: np.ndarray) -> np.ndarray:
    if pointer.rx <= 0 or pointer.ry <= 0:
        return np.zeros(len(corners))
    x = ((corners[:, (0, 2)] - pointer.x) / pointer.rx).clip(-1, 1).T
    y = ((corners[:, (1, 3)] - pointer.y) / pointer.ry).clip(-1, 1).T
    # All corners in one call: there are few boxes, and a call takes longer than the sums in it.
    to_x1_y1, to_x0_y1, to_x1_y0, to_x0_y0 = _disc_below(x[[1, 0, 1, 0]], y[[1, 1, 0, 0]])
    area: np.ndarray = np.maximum(to_x1_y1 - to_x0_y1 - to_x1_y0 + to_x0_y0, 0) * (pointer.rx * pointer.ry)
    return area


def _disc_below(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the area of the part u <= x, v <= y of the unit disc u² + v² <= 1, for x and y in -1..1.

    With F(t) the disc's part left of t, a corner (x, y) outside the disc leaves F(x) + F(y) - π, F(y), F(x) or 0, by
    its quadrant: what the two cuts take away does not meet. For a corner inside, it is the integral of y + √(1-u²) from
    the left end -√(1-y²) of the chord at y to x, and where y >= 0 all that lies left of that end.
    """
    left_x, left_y = _disc_left(x), _disc_left(y)
    outside = np.select(
        [(x >= 0) & (y >= 0), x >= 0, y >= 0], [left_x + left_y - np.pi, left_y, left_x], default=np.zeros_like(x)
    )
    end = -np.sqrt(1 - y * y)
    beyond_end = _disc_left(end)
    inside = np.where(y >= 0, beyond_end, 0) + y * (x - end) + (left_x - beyond_end) / 2
    area: np.ndarray = np.where(x * x + y * y >= 1, outside, inside)
    return area


def _disc_left(t: np.ndarray) -> np.ndarray:
    """Return the area of the unit disc's part left of ``t`` in -1..1: the integral of 2√(1-u²) from -1."""
    area: np.ndarray = t * np.sqrt(1 - t * t) + np.arcsin(t) + np.pi / 2
    return area
