"""Ending a run from outside: Ctrl-C, Ctrl-Break and SIGTERM let it finish what it has in work."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, Self, TypeVar

from pc_engine.say import Say

Image = TypeVar("Image")

# Ctrl-Break is Windows'.
_SIGNALS = ("SIGINT", "SIGTERM", "SIGBREAK")
# What has to be put in order when a run is to end at once gets so long: an image may hang in a thread.
_SECONDS_TO_END = 10.0


class Stopped(KeyboardInterrupt):
    """A run is to end at once, because of a ``signal``."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = number


class _EndOfImagesError(BaseException):
    """The next image is not waited for any longer. No `Exception`, which a listing would take for its own failure."""


class Stopping:
    """While entered, the first such signal ends the images rather than the process; the next one ends it at once.

    Signals that the process was started to ignore, as those of a script's background are, stay ignored.

    Parameters
    ----------
    report
        Called with a sentence when the run was asked to stop, by the signal's handler.

    Attributes
    ----------
    signal
        The signal that asked for it; None as long as none did.
    """

    def __init__(self, report: Say) -> None:
        self.signal: int | None = None
        self._report = report
        self._before: dict[int, Any] = {}
        # The thread that waits for the next image.
        self._waiting: int | None = None

    def asked(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    def until_asked(self, images: Iterable[Image]) -> Iterator[Image]:
        """Yield images until a signal comes: where the program's main thread waits for one then, it waits no longer."""
        following = iter(images)
        while True:
            try:
                try:
                    self._waiting = threading.get_ident()
                    image = next(following)
                finally:
                    self._waiting = None
            except (StopIteration, _EndOfImagesError):
                return
            if self.asked():
                return
            yield image

    def __enter__(self) -> Self:
        # Only a program's main thread may; elsewhere signals stay with whoever has them.
        with contextlib.suppress(ValueError):
            for number in (getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)):
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            end = threading.Timer(_SECONDS_TO_END, os._exit, [exit_code(number)])
            end.daemon = True
            end.start()
            raise Stopped(number)
        self.signal = number
        self._report("Stopping after the images in progress (again to stop at once) ...")
        if self._waiting == threading.get_ident():
            raise _EndOfImagesError


def exit_code(number: int) -> int:
    """Return the exit code of a program that a signal ended, as shells have it."""
    return 128 + number
