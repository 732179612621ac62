from __future__ import annotations

import tracemalloc
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pc_engine.sources.repeats import Repeats


@given(names=st.lists(st.text(max_size=2), max_size=300))
def test_each_name_is_counted_for_itself(names: list[str]) -> None:
    repeats, seen = Repeats(), Counter[str]()
    for name in names:
        seen[name] += 1
        assert repeats.count(name) == seen[name]


def test_many_names_take_little_room() -> None:
    tracemalloc.start()
    try:
        repeats = Repeats()
        assert {repeats.count(f"{k}.jpg") for k in range(20_000)} == {1}
        assert tracemalloc.get_traced_memory()[0] < 32 * 20_000
    finally:
        tracemalloc.stop()
    assert {repeats.count(f"{k}.jpg") for k in range(20_000)} == {2}


def test_names_that_are_not_utf8() -> None:
    repeats = Repeats()
    assert [repeats.count(name) for name in ("\udce9.jpg", "\udcea.jpg", "\udce9.jpg")] == [1, 1, 2]


def test_of_more_names_than_are_to_be_remembered_the_first_are() -> None:
    repeats = Repeats(3)
    assert [repeats.count(name) for name in "abcdabcd"] == [1, 1, 1, 1, 2, 2, 2, 1]
