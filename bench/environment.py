"""What a measurement depends on beside the code: the machine, the versions; and the memory that it took."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pc_engine.hardware.machine import describe_machine

_PACKAGES = ("numpy", "onnxruntime", "openvino")
_PROC = Path("/proc")
_STATUS, _CLEAR_REFS = _PROC / "self/status", _PROC / "self/clear_refs"
_RESET_PEAK = "5"  # proc(5): resets VmHWM to the present size


def describe_environment(*packages: str) -> dict[str, Any]:
    """Return `describe_machine` with the versions of Python, pc-engine, and what computes; JSON-ready.

    ``packages`` are further ones to name; an absent package has the version None.
    """
    versions = {name: _version(name) for name in ("pc-engine", *_PACKAGES, *packages)}
    return {**describe_machine(), "python": sys.version.split()[0], "versions": versions}


def seconds_of(work: Callable[[], object]) -> float:
    """Return the wall-clock seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def median_rate(n: int, seconds: list[float]) -> float:
    """Return images per second of the median run, of runs of n images each."""
    return n / statistics.median(seconds)


def reset_peak_memory() -> None:
    """Let `peak_memory_mb` speak of what comes from now on. Without effect where the system cannot do that."""
    with contextlib.suppress(OSError):
        _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")


def peak_memory_mb() -> float | None:
    """Return the largest resident memory of this process in MB (10**6 bytes), since its start or the last reset.

    None where the system does not say, as Windows does not in a way that Python knows.
    """
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", _STATUS.read_text(encoding="ascii"))
    except OSError:
        found = None
    if found:
        return int(found.group(1)) * 1024 / 1e6
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
