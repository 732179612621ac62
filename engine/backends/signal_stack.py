"""The stack that a thread handles signals on, kept from what a library does to it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class SignalStack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> SignalStack:
    """Return the alternate signal stack of this thread; Linux only."""
    stack = SignalStack()
    if ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)):
        raise OSError("sigaltstack failed")
    return stack


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Put the alternate signal stack of this thread back afterwards.

    A network that OpenVINO compiles puts a stack of its own there, and frees it with the network, but puts the one
    before it back only if its own is still in place. Of two networks that are closed in the order in which they were
    opened, the second puts back the first one's, which is gone; the next signal that Python handles, such as Ctrl-C,
    then ends the process. What OpenVINO wants the stack for, signals amid instructions with large registers, the
    ordinary stack has room for.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    before = signal_stack()
    try:
        yield
    finally:
        ctypes.CDLL(None).sigaltstack(ctypes.byref(before), None)
