"""Calls of something that may be closed by another thread meanwhile."""

from __future__ import annotations

import threading
from types import TracebackType

from pc_engine.errors import UsageError


class CallGuard:
    """Is entered around each call; once it is closed none begins any more, and none is under way.

    Parameters
    ----------
    refusal
        The sentence that a later call gets.
    """

    def __init__(self, refusal: str) -> None:
        self._refusal = refusal
        self._changed = threading.Condition()
        self._calls = 0
        self._closed = False

    def check(self) -> None:
        """Raise UsageError if it was closed."""
        if self._closed:
            raise UsageError(self._refusal)

    def close(self) -> bool:
        """Refuse further calls and wait for those under way; False where it was closed before."""
        with self._changed:
            first, self._closed = not self._closed, True
            self._changed.wait_for(lambda: self._calls == 0)
        return first

    def __enter__(self) -> None:
        with self._changed:
            self.check()
            self._calls += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._calls -= 1
            self._changed.notify_all()
