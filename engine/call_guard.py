"""Calls of an engine, which another thread may close meanwhile, and which does not survive a fork."""

from __future__ import annotations

import os
import threading
import weakref
from typing import NoReturn

from pc_engine.errors import UsageError

# The threads of inference libraries are not there in a process that was forked, which then waits for them for ever, or
# is aborted: with a new network, too. CUDA, once started, is not started again there, even where all was closed.
_FORKED = (
    "This process was forked while an engine was open, which no network survives: start processes with "
    "multiprocessing's 'spawn' or 'forkserver', or fork them before an engine is made or, without a GPU, after it is "
    "closed."
)


class _Process:
    """What is open in this process, and whether anything was in the one that it was forked from."""

    def __init__(self) -> None:
        self.open: weakref.WeakSet[CallGuard] = weakref.WeakSet()
        self.came_by_a_fork = False
        if hasattr(os, "register_at_fork"):  # all but Windows
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self.came_by_a_fork = self.came_by_a_fork or len(self.open) > 0


_process = _Process()


class CallGuard:
    """Is entered around each call; once it is closed none begins any more, and none is under way.

    Raises
    ------
    UsageError
        If the process was forked while one was open; so does every call there.
    """

    def __init__(self) -> None:
        _refuse_fork()
        self._changed = threading.Condition()
        self._calls = 0
        self._closed = False
        _process.open.add(self)

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "An engine cannot be pickled or copied, as its network belongs to this process: make one in each process, "
            "from the same arguments."
        )

    def check(self) -> None:
        """Raise UsageError if it was closed."""
        _refuse_fork()
        if self._closed:
            raise UsageError("This engine was closed and cannot run any more: make another.")

    def close(self) -> bool:
        """Refuse further calls and wait for those under way; False where it was closed before, or came by a fork."""
        if _process.came_by_a_fork:
            return False
        with self._changed:
            first, self._closed = not self._closed, True
            self._changed.wait_for(lambda: self._calls == 0)
        _process.open.discard(self)
        return first

    def __enter__(self) -> None:
        _refuse_fork()  # whose lock may be held for ever, by a thread that is not there
        with self._changed:
            self.check()
            self._calls += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._calls -= 1
            self._changed.notify_all()


def _refuse_fork() -> None:
    if _process.came_by_a_fork:
        raise UsageError(_FORKED)
