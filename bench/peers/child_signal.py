"""What a library does to the signal of ended child processes, undone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def child_signal_kept() -> Iterator[None]:
    """Leave the signal of ended child processes as it was: PyTorch's DataLoader takes it and keeps it.

    Every process that ended later would run its handler, in the midst of whatever the program does then.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if handler is not None:  # one that Python knows
            signal.signal(signal.SIGCHLD, handler)
