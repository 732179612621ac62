"""Trying again what fails for a moment, as networks do, and disks behind them."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from pc_engine.errors import PcEngineError

Found = TypeVar("Found")

#: Seconds before the second try; twice as many before the third.
PAUSE = 0.5
# Of network disks, of a process that has many files open, of connections, and of S3 where it is asked too often or
# fails (EBUSY, EREMOTEIO).
_MAY_PASS = frozenset(
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "EMFILE", "ENFILE", "EAGAIN", "EPIPE", "ETIMEDOUT", "ECONNREFUSED", "ECONNRESET"),
        *("ECONNABORTED", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ENOTCONN"),
        *("ESHUTDOWN", "ENOBUFS", "EADDRNOTAVAIL", "EBUSY", "EREMOTEIO"),
    )
    if hasattr(errno, name)  # Windows lacks some
)
# Of Windows: files that another process has open, and disks of the network that are gone, busy or slow for a moment.
_MAY_PASS_ON_WINDOWS = frozenset((32, 33, 53, 59, 64, 121, 1231, 1232))
_TRY_LATER = (408, 429)
# What another try would not change, whoever says so: file systems of packages raise these without a number.
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, PcEngineError)
# Modules of Python whose errors are of networks. Those of the others are of what is in a file, or of memory.
_NETWORKS = ("asyncio", "ftplib", "http", "socket", "ssl", "urllib")


def retried(work: Callable[[], Found], tries: int = 3) -> Found:
    """Return what ``work`` returns, trying again after a pause where it fails in a way that may pass."""
    for attempt in range(tries - 1):
        try:
            return work()
        except Exception as error:
            if not _may_pass(error):
                raise
        time.sleep(PAUSE * 2**attempt)
    return work()


def _may_pass(error: Exception) -> bool:
    """Whether what failed may do at another try."""
    if getattr(error, "winerror", None) in _MAY_PASS_ON_WINDOWS:  # some of them are of the classes below
        return True
    if isinstance(error, _FINAL):
        return False
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return not 400 <= status < 500 or status in _TRY_LATER
    module = type(error).__module__.partition(".")[0]
    if module in _NETWORKS or module not in sys.stdlib_module_names:
        return True
    return isinstance(error, OSError) and (error.errno is None or error.errno in _MAY_PASS)
