from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from pc_engine.backends.idle import Idle
from pc_engine.errors import BackendError


def test_members_are_taken_in_turn_by_one_thread_each() -> None:
    idle = Idle("ab")
    with idle.taken() as first:
        with idle.taken() as second:
            assert (first, second) == ("a", "b")
        with idle.taken() as again:
            assert again == "b"
    with idle.taken() as first, idle.taken() as second:
        assert (first, second) == ("b", "a")


def test_an_error_gives_the_member_back() -> None:
    idle = Idle("a")
    with pytest.raises(ZeroDivisionError), idle.taken():
        raise ZeroDivisionError
    with idle.taken() as member:
        assert member == "a"


def test_whoever_waits_gets_what_is_given_back() -> None:
    idle, taken = Idle("a"), Event()

    def wait() -> str:
        taken.set()
        with idle.taken() as member:
            return member

    with ThreadPoolExecutor(1) as pool:
        with idle.taken():
            other = pool.submit(wait)
            assert taken.wait(120)
        assert other.result(120) == "a"


def test_closing_tells_those_that_wait_and_takes_nothing_back() -> None:
    idle, waits = Idle("a"), Event()

    def wait() -> None:
        waits.set()
        with idle.taken():
            pass

    with ThreadPoolExecutor(1) as pool, idle.taken():
        other = pool.submit(wait)
        assert waits.wait(120)
        idle.close()
        with pytest.raises(BackendError, match="The network was closed"):
            other.result(120)
    for _ in range(2):
        with pytest.raises(BackendError, match="The network was closed"), idle.taken():
            pass
