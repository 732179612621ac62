"""The two TensorRT libraries, which share one Python interface, and the text of their logger.

``tensorrt`` is the data-centre library; it times kernels on the card while it builds. ``tensorrt_rtx`` is a smaller
one for consumer cards that installs as a plain wheel and compiles its kernels when an engine first runs.
"""

from __future__ import annotations

import functools
import importlib
import re
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from pc_engine.errors import BackendError, first_line
from pc_engine.hardware.cuda import LAUNCH_FAILURE, OUT_OF_MEMORY, Gpu, failure, says_no_memory

_OLDEST = {"tensorrt": 11, "tensorrt_rtx": 1}
_TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_INSTALL = {"tensorrt": "pip install 'pc-engine[tensorrt]'", "tensorrt_rtx": "pip install 'pc-engine[gpu]'"}
#: Compute capabilities that both know, and those that NVIDIA lists for TensorRT-RTX.
_OLDEST_CAPABILITY = (7, 5)
_RTX_CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
_KEPT_LINES = 4000
# A builder tries several kernels of a layer. Where one fails, as for want of memory, it says so as an error, and then
# by a warning that it goes on with others; if none of them runs, that is its last error.
_SKIPS = re.compile("skipping tactic", re.IGNORECASE)
_NONE_LEFT = re.compile("could not find any implementation", re.IGNORECASE)
_LONGEST_REASON = 300


@dataclass(frozen=True)
class Line:
    """A line of a library's log; ``thread`` is the one of Python's that called it, 0 for the library's own."""

    severity: int
    text: str
    thread: int = 0


@dataclass
class Log:
    """What a library warned of since `forget`: its calls say by None or False that they failed, and here why.

    A process has one log of a library, for all of its engines. What one thread's calls wrote is that thread's own.
    """

    lines: deque[Line] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, severity: int, text: str) -> None:
        """Keep a line but information; severities are TensorRT's: 0 and 1 errors, 2 warnings, 3 and 4 information."""
        if severity <= 2:
            calling = threading.get_ident()
            line = Line(severity, text, calling if any(one.ident == calling for one in threading.enumerate()) else 0)
            with self._lock:
                self.lines.append(line)

    def forget(self) -> None:
        """Forget what was written so far: it is none of the reasons of what fails from now on."""
        with self._lock:
            others = [line for line in self.lines if not _is_own(line)]
            self.lines.clear()
            self.lines.extend(others)

    def reason(self) -> str:
        """Return the first error in one line, or that there was none."""
        lines = (line.strip() for text in self._errors() for line in text.splitlines())
        first = next(filter(None, lines), "no reason given")
        return first if len(first) <= _LONGEST_REASON else first[: _LONGEST_REASON - 1] + "…"

    def error(self, action: str, title: str) -> BackendError:
        """Return the error of a call that failed while ``action``."""
        reason, text = self.reason(), " ".join(self._errors())
        self.forget()
        number = re.search(r"cudaError (\d+)", text)
        status = int(number.group(1)) if number else 0
        if says_no_memory(text):
            status = OUT_OF_MEMORY
        elif not status and re.search("illegal memory access|unspecified launch failure|uncorrectable", text):
            status = LAUNCH_FAILURE
        error = failure(f"{action} with {title}", reason, status)
        return BackendError(f"{title} failed while {action}: {reason}") if type(error) is BackendError else error

    def _errors(self) -> list[str]:
        """Return the texts of errors, without those after which another kernel was tried, unless none was left."""
        with self._lock:
            lines = [line for line in self.lines if _is_own(line)]
        skipped = max((k for k, line in enumerate(lines) if _SKIPS.search(line.text)), default=-1)
        errors = [[line.text for line in some if line.severity <= 1] for some in (lines[skipped + 1 :], lines)]
        return errors[0] if errors[0] and not _NONE_LEFT.search(errors[0][-1]) else errors[1]


def _is_own(line: Line) -> bool:
    """Whether the calling thread's calls wrote a line, as far as one can tell."""
    return line.thread in (0, threading.get_ident())


@dataclass(frozen=True)
class Library:
    """An imported TensorRT: ``name`` is that of its module, ``trt`` the module."""

    name: str
    version: str
    trt: Any
    log: Log
    logger: Any

    @property
    def title(self) -> str:
        """Its name as NVIDIA writes it."""
        return _TITLES[self.name]

    def create(self, kind: str, *arguments: Any, action: str) -> Any:
        """Return a new object of the library; its errors are those of `check`."""
        try:
            return getattr(self.trt, kind)(*arguments)
        except TypeError:  # the bindings' way to say that they were given a null pointer
            raise self.log.error(action, self.title) from None

    def check(self, result: Any, action: str) -> Any:
        """Return what a call gave.

        Raises
        ------
        DeviceMemoryError
            If it gave None or False and the log speaks of memory.
        BackendError
            If it gave None or False otherwise.
        """
        if result is None or result is False:
            raise self.log.error(action, self.title)
        return result


@functools.cache
def load_library(name: str) -> Library:
    """Import ``tensorrt`` or ``tensorrt_rtx``.

    A process can have one logger a library, the first one given to it, so that this returns the same object each time.

    Raises
    ------
    BackendError
        If it is absent, incomplete or too old; one sentence that says what to install.
    """
    title, install = _TITLES[name], _INSTALL[name]
    try:
        trt = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            raise BackendError(f"{title} is not installed: {install}.") from None
        raise BackendError(f"{title} is incomplete (no module '{error.name}'): {install}.") from None
    except (ImportError, OSError) as error:  # the Python part alone, without its libraries
        raise BackendError(f"{title} cannot be loaded ({first_line(error)}): {install}.") from None
    version = str(trt.__version__)
    if int(version.split(".")[0]) < _OLDEST[name]:
        raise BackendError(f"{title} {version} is too old, {_OLDEST[name]} or newer is needed: {install}.")
    log = Log()
    return Library(name, version, trt, log, _make_logger(trt, log))


def choose_library(gpu: Gpu) -> Library:
    """Return the library that suits a GPU.

    TensorRT where it is installed, as it tunes its kernels on the card; else TensorRT-RTX. NVIDIA does not list the
    data-centre cards since Hopper for the latter; there it is tried, since a network that it cannot run is a sentence.

    Raises
    ------
    BackendError
        If there is none; one sentence that says what to install.
    """
    major, minor = gpu.capability
    if gpu.capability < _OLDEST_CAPABILITY:
        raise BackendError(
            f"TensorRT needs a GPU of compute capability 7.5 or newer, and {gpu.name} has {major}.{minor}: "
            f"use the backend onnxruntime."
        )
    reasons = []
    for name in _TITLES:
        try:
            return load_library(name)
        except BackendError as error:
            reasons.append(str(error))
    first = "tensorrt_rtx" if gpu.capability in _RTX_CAPABILITIES else "tensorrt"
    raise BackendError(next(reason for name, reason in zip(_TITLES, reasons, strict=True) if name == first))


def missing_library() -> str:
    """Return one sentence on what to install if neither library can be used, else an empty string."""
    reasons = []
    for name in reversed(_TITLES):
        try:
            load_library(name)
        except BackendError as error:
            reasons.append(str(error))
        else:
            return ""
    return reasons[0]


def listed(library: Library, gpu: Gpu) -> bool:
    """Whether NVIDIA lists the GPU for the library."""
    return library.name != "tensorrt_rtx" or gpu.capability in _RTX_CAPABILITIES


def _make_logger(trt: Any, log: Log) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            log.add(int(severity), msg)

    return Logger()
