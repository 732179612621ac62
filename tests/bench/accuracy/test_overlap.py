from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pc_engine.bench.accuracy.overlap import intersection_areas, overlaps
from pc_engine.datasets import Box
from pc_engine.pointers import BoxPointer, EllipsePointer, Pointer

CIRCLE = EllipsePointer(0, 0, 1, 1, 1)
WIDE = 100.0

coordinate = st.integers(-40, 60)
length = st.integers(1, 50)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x, y = draw(coordinate), draw(coordinate)
    return Box(x, y, x + draw(length), y + draw(length))


@st.composite
def pointers(draw: st.DrawFn) -> Pointer:
    if draw(st.booleans()):
        return EllipsePointer(draw(coordinate), draw(coordinate), draw(length), draw(length), 1)
    box = draw(boxes())
    return BoxPointer(box.x0, box.y0, box.x1, box.y1, 1)


def by_strips(ellipse: EllipsePointer, box: Box, strips: int) -> float:
    """The shared area as a sum of strips, each as wide as the two are at its middle."""
    low, high = max(box.y0, ellipse.y - ellipse.ry), min(box.y1, ellipse.y + ellipse.ry)
    if low >= high:
        return 0.0
    edges = np.linspace(low, high, strips + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    half = ellipse.rx * np.sqrt(1 - ((middle - ellipse.y) / ellipse.ry) ** 2)
    width = np.minimum(ellipse.x + half, box.x1) - np.maximum(ellipse.x - half, box.x0)
    return float((np.maximum(width, 0) * np.diff(edges)).sum())


@pytest.mark.parametrize(
    ("box", "area"),
    [
        (Box(-2, -2, 2, 2), math.pi),
        (Box(0, -2, 2, 2), math.pi / 2),
        (Box(0, 0, 2, 2), math.pi / 4),
        # The square that the circle is drawn around, and the one drawn in it.
        (Box(-1, -1, 1, 1), math.pi),
        (Box(-math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(0.5), math.sqrt(0.5)), 2.0),
        # Right of x = 1/2: a sector of 120 degrees less the triangle of its chord.
        (Box(0.5, -2, 2, 2), math.pi / 3 - math.sqrt(3) / 4),
        # A strip of the height of a chord: the disc less two such pieces.
        (Box(-2, -0.5, 2, 0.5), math.pi - 2 * (math.pi / 3 - math.sqrt(3) / 4)),
        (Box(0.9, 0.9, 2, 2), 0.0),
        (Box(3, 3, 4, 4), 0.0),
        (Box(0.1, 0.1, 0.2, 0.3), 0.02),
    ],
)
def test_pieces_of_a_circle_have_their_known_areas(box: Box, area: float) -> None:
    assert intersection_areas([CIRCLE], [box])[0, 0] == pytest.approx(area, abs=1e-14)


@settings(max_examples=150)
@given(pointers(), boxes())
def test_an_ellipse_is_not_taken_for_its_box(pointer: Pointer, box: Box) -> None:
    area = intersection_areas([pointer], [box])[0, 0]
    if isinstance(pointer, EllipsePointer):
        # Strips err most where the outline lies flat, by their height to the power of 3/2.
        assert area == pytest.approx(by_strips(pointer, box, 20_000), abs=1e-6 * pointer.area)
    else:
        across = min(pointer.x1, box.x1) - max(pointer.x0, box.x0)
        down = min(pointer.y1, box.y1) - max(pointer.y0, box.y0)
        assert area == max(across, 0) * max(down, 0)


@settings(max_examples=100)
@given(pointers(), boxes(), st.integers(-30, 50))
def test_two_halves_of_a_box_share_what_the_whole_does(pointer: Pointer, box: Box, cut: int) -> None:
    cut = int(np.clip(cut, box.x0, box.x1))
    halves = [Box(box.x0, box.y0, cut, box.y1), Box(cut, box.y0, box.x1, box.y1)]
    whole, *parts = intersection_areas([pointer], [box, *halves])[0]
    assert sum(parts) == pytest.approx(whole, abs=1e-12 * pointer.area)


def mirrored(thing: Pointer | Box) -> Pointer | Box:
    if isinstance(thing, EllipsePointer):
        return EllipsePointer(WIDE - thing.x, thing.y, thing.rx, thing.ry, 1)
    kind = (thing.score,) if isinstance(thing, BoxPointer) else ()
    return type(thing)(WIDE - thing.x1, thing.y0, WIDE - thing.x0, thing.y1, *kind)


def scaled(thing: Pointer | Box, x: float, y: float) -> Pointer | Box:
    if isinstance(thing, EllipsePointer):
        return EllipsePointer(thing.x * x, thing.y * y, thing.rx * x, thing.ry * y, 1)
    kind = (thing.score,) if isinstance(thing, BoxPointer) else ()
    return type(thing)(thing.x0 * x, thing.y0 * y, thing.x1 * x, thing.y1 * y, *kind)


@settings(max_examples=100)
@given(st.lists(pointers(), max_size=4), st.lists(boxes(), max_size=4), st.floats(0.1, 20), st.floats(0.1, 20))
def test_scaling_and_mirroring_the_picture_change_no_overlap(
    some: list[Pointer], truth: list[Box], x: float, y: float
) -> None:
    expected = np.array(overlaps(some, truth))
    assert expected.shape == (2, len(some), len(truth))
    assert ((expected >= 0) & (expected <= 1)).all()
    turned = overlaps([mirrored(p) for p in some], [mirrored(b) for b in truth])  # type: ignore[misc]
    np.testing.assert_allclose(turned, expected, atol=1e-12)
    larger = overlaps([scaled(p, x, y) for p in some], [scaled(b, x, y) for b in truth])  # type: ignore[misc]
    np.testing.assert_allclose(larger, expected, atol=1e-12)


def test_a_pointer_inside_is_contained_whole_and_one_without_area_not_at_all() -> None:
    inside = [EllipsePointer(5, 5, 2, 3, 1), BoxPointer(1, 1, 2, 3, 1), EllipsePointer(5, 5, 0, 3, 1)]
    contained, of_union = overlaps(inside, [Box(0, 0, 10, 10)])
    np.testing.assert_array_equal(contained, [[1], [1], [0]])
    assert of_union[1, 0] == 2 / 100
