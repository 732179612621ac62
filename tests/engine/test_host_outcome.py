"""Pointers of a batch in pixels, of arrays with room for more than there are."""

from __future__ import annotations

import numpy as np

from pc_engine.host_outcome import HostOutcome
from pc_engine.pointers import BoxPointer


def outcome(pointers: np.ndarray, pointer_class: np.ndarray | None = None) -> HostOutcome:
    n = len(pointers)
    return HostOutcome(np.zeros(n, int), "box", pointers, np.ones(n, bool), None, None, None, pointer_class)


def test_room_that_no_image_uses_is_not_looked_at() -> None:
    pointers = np.full((2, 500, 5), np.nan)
    pointers[1, 2] = 0.1, 0.2, 0.3, 0.4, 1.0
    classes = np.full((2, 500), 7)
    sizes = [(10, 20), (100, 200)]
    expected = BoxPointer(10.0, 40.0, 30.0, 80.0, 1.0)
    [none, [found]] = outcome(pointers).pointers_in_pixels(sizes, str)
    assert none == ()
    assert found == expected
    [none, [found]] = outcome(pointers, classes).pointers_in_pixels(sizes, str)
    assert none == ()
    assert (found.bounds, found.class_id, found.class_name) == (expected.bounds, 7, "7")


def test_a_batch_without_a_pointer_has_none() -> None:
    for slots in (0, 3):
        assert outcome(np.full((2, slots, 5), np.nan)).pointers_in_pixels([(4, 4)] * 2, str) == [(), ()]
