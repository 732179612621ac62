from __future__ import annotations

import sys
from typing import Any

import numpy as np

from pc_engine.modes.outcome import by_score, ellipse_pointers, mark_bad, pointer_room, split_bad_heat


def test_bad_heat_is_taken_out_and_marked() -> None:
    heat = np.ones((5, 2, 2), np.float32)
    heat[1, 0, 0], heat[2, 1, 1], heat[3, 0, 1] = np.nan, np.inf, -1
    sound, bad = split_bad_heat(heat)
    np.testing.assert_array_equal(bad, [False, True, True, True, False])
    np.testing.assert_array_equal(sound[:, 0, 0], [1, 0, 0, 0, 1])
    counts = mark_bad(bad, -1, np.arange(5))
    np.testing.assert_array_equal(counts, [0, -1, -1, -1, 4])
    assert counts.dtype == np.int64
    marked = mark_bad(bad, np.nan, sound)
    np.testing.assert_array_equal(np.isnan(marked).all(axis=(1, 2)), bad)
    assert marked.dtype == np.float32


def test_on_a_device_heat_is_not_looked_at(pretended_gpu: Any) -> None:
    cupy: Any = sys.modules["cupy"]
    heat = cupy.asarray(np.full((2, 3, 3), np.nan))
    sound, bad = split_bad_heat(heat)
    assert sound is heat
    assert bad is None
    assert mark_bad(bad, -1, sound) is sound
    assert pretended_gpu.to_host == 0


def test_slots_on_a_device_are_as_many_as_can_be_needed(pretended_gpu: Any) -> None:
    heat = np.zeros((2, 3, 4))
    assert pointer_room(heat, 5) == (12, None)
    cupy: Any = sys.modules["cupy"]
    heat = cupy.asarray(heat)
    assert [pointer_room(heat, largest) for largest in (5, 60, None)] == [(12, 5), (12, 12), (12, 12)]
    assert pretended_gpu.to_host == 0


def test_pointers_are_sorted_by_score_and_those_without_one_come_last() -> None:
    pointers = np.zeros((1, 4, 5))
    pointers[0, :, 0] = range(4)
    pointers[0, :, 4] = [np.nan, 0.25, 0.5, 0.25]
    np.testing.assert_array_equal(by_score(pointers)[0, :, 0], [2, 1, 3, 0])


def test_ellipses_are_fractions_of_the_picture_and_none_has_no_score() -> None:
    means = np.array([[[0.0, 0.0], [np.nan, np.nan], [3.5, 1.0]]])
    found = ellipse_pointers(means, np.full((1, 3, 2), 4.0), np.array([[0.25, 0.0, 0.5]]), (2, 8))
    np.testing.assert_array_equal(found[0, :2], [[0.5, 0.75, 0.25, 1, 0.5], [0.0625, 0.25, 0.25, 1, 0.25]])
    assert np.isnan(found[0, 2, [0, 1, 4]]).all()
