from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from pc_engine.call_guard import CallGuard
from pc_engine.errors import UsageError


def test_closing_waits_for_the_calls_under_way_and_refuses_later_ones() -> None:
    guard = CallGuard("It is closed.")
    begun, end = threading.Event(), threading.Event()
    order: list[str] = []

    def call() -> None:
        with guard:
            begun.set()
            end.wait(10)
            order.append("called")

    def close() -> None:
        assert guard.close()
        order.append("closed")

    threads = [threading.Thread(target=target) for target in (call, close)]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    with suppress(UsageError):
        while True:  # until the other thread has begun to close it
            guard.check()
    with pytest.raises(UsageError, match="It is closed"), guard:
        pass
    assert order == []
    end.set()
    for thread in threads:
        thread.join(10)
    assert order == ["called", "closed"]
    assert not guard.close()


def test_a_call_that_fails_is_over() -> None:
    guard = CallGuard("It is closed.")
    with pytest.raises(ZeroDivisionError), guard:
        raise ZeroDivisionError
    assert guard.close()
