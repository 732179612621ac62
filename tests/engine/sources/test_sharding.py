from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pc_engine.errors import UsageError
from pc_engine.sources.sharding import Shard, name_digest, parse_shard


@given(st.lists(st.text()), st.integers(1, 20))
def test_every_name_is_held_by_exactly_one_shard(names: list[str], of: int) -> None:
    shards = [Shard(index, of) for index in range(1, of + 1)]
    for name in names:
        assert sum(shard.holds(name) for shard in shards) == 1


def test_shards_are_of_about_the_same_size() -> None:
    held = [sum(Shard(index, 4).holds(f"photos/{k}.jpg") for k in range(4000)) for index in range(1, 5)]
    assert sum(held) == 4000
    assert all(900 < n < 1100 for n in held)


def test_a_name_has_the_same_digest_on_every_machine() -> None:
    assert name_digest("photos/a.jpg").hex() == "eea2c680d629b11d02e48cf37b1213a4"  # b2sum -l 128
    assert Shard(1, 2).holds(os.fsdecode(b"caf\xe9.jpg")) != Shard(2, 2).holds(os.fsdecode(b"caf\xe9.jpg"))


def test_a_shard_is_written_as_which_of_how_many() -> None:
    assert parse_shard("2/16") == Shard(2, 16)
    assert parse_shard("2/16").option == "2/16"
    assert str(parse_shard("2/16")) == "2-of-16"  # as names of files have it


@pytest.mark.parametrize("text", ["", "2", "a/b", "1/", "-1/4", "1/4/2", "1 / 4", "1.5/2", "1/4\n"])
def test_anything_else_is_wrong_use(text: str) -> None:
    with pytest.raises(UsageError, match="expected which one of how many, such as 2/16"):
        parse_shard(text)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1/0"])
def test_shards_count_from_one(text: str) -> None:
    with pytest.raises(UsageError, match="shards are numbered from 1/"):
        parse_shard(text)
