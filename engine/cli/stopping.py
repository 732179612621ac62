"""Ending a run from outside: Ctrl-C and SIGTERM let it finish what it has in work."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

Image = TypeVar("Image")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """While entered, the first such signal ends the images rather than the process; the next one ends it at once.

    Parameters
    ----------
    report
        Called with a sentence when the run was asked to stop.

    Attributes
    ----------
    signal
        The signal that asked for it; None as long as none did.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self.signal: int | None = None
        self._report = report
        self._before: dict[int, Any] = {}

    def until_asked(self, images: Iterable[Image]) -> Iterator[Image]:
        """Yield images until a signal comes."""
        for image in images:
            if self.signal is not None:
                return
            yield image

    def __enter__(self) -> Self:
        # Only a program's main thread may; elsewhere signals stay with whoever has them.
        with contextlib.suppress(ValueError):
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        self._report("Stopping after the images in work (once more to stop at once) ...")
