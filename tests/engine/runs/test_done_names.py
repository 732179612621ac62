from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pc_engine.runs import done_names
from pc_engine.runs.done_names import DoneNames

NAMES = st.lists(st.sampled_from(["a", "b", "c", "photos/d.jpg", "\u2028"]) | st.text(max_size=3))


@given(NAMES, NAMES)
def test_each_name_can_be_taken_as_often_as_it_was_put_in(put: list[str], taken: list[str]) -> None:
    left, done = Counter(put), DoneNames(put)
    for name in taken:
        assert done.take(name) == (left[name] > 0)
        left[name] -= left[name] > 0
    assert all(map(done.take, left.elements()))
    assert not any(map(done.take, put))


@given(NAMES, NAMES)
def test_names_that_share_half_their_digest_are_told_apart(put: list[str], taken: list[str]) -> None:
    def digest(name: str) -> bytes:
        return len(name).to_bytes(8, "little") + name_digest(name)[8:]

    name_digest = done_names.name_digest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(done_names, "name_digest", digest)
        left, done = Counter(put), DoneNames(put)
        for name in taken:
            assert done.take(name) == (left[name] > 0)
            left[name] -= left[name] > 0


def test_it_is_small() -> None:
    done = DoneNames(f"photos/{k}.jpg" for k in range(1000))
    assert done._first.nbytes + done._second.nbytes + done._left.nbytes == 17 * 1000


def test_one_name_many_times_is_taken_as_fast_as_many_names() -> None:
    n = 20_000
    done = DoneNames(["same.jpg"] * n)
    start = time.thread_time()
    assert all(done.take("same.jpg") for _ in range(n))
    assert not done.take("same.jpg")
    # Going through those taken before takes a hundred times as long.
    assert time.thread_time() - start < 10
