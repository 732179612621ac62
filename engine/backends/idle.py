"""What a network runs its batches with, such as requests or streams, each taken by one thread at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from pc_engine.backbone import CLOSED
from pc_engine.errors import BackendError

_Member = TypeVar("_Member")


class Idle(Generic[_Member]):
    """Those that no thread has taken, in the order in which they were given back.

    Once it is closed it holds on to none, and whoever waits for one, or asks for one, is told.
    """

    def __init__(self, members: Iterable[_Member] = ()) -> None:
        self._members = deque(members)
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def taken(self) -> Iterator[_Member]:
        """Wait for one that is idle, and have it to oneself.

        Raises
        ------
        BackendError
            If it is closed, or is meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._members or self._closed)
            if self._closed:
                raise BackendError(CLOSED)
            member = self._members.popleft()
        try:
            yield member
        finally:
            with self._changed:
                if not self._closed:
                    self._members.append(member)
                    self._changed.notify()

    def close(self) -> bool:
        """Let go of all; those that are taken are not waited for. False where it was closed before."""
        with self._changed:
            first, self._closed = not self._closed, True
            self._members.clear()
            self._changed.notify_all()
        return first
