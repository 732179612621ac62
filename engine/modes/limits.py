"""The values that settings may take, checked where they are made: a kernel would notice only in the midst of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pc_engine.errors import UsageError

#: Lengths in grid cells, which have to be above 0.
LENGTH = (0.01, 1000.0)
#: Shares of a whole.
SHARE = (0.0, 1.0)
#: Multiples of a mean.
FACTOR = (0.0, 1000.0)


def check_limits(settings: Any, mode: str, limits: Mapping[str, tuple[float, float]]) -> None:
    """Raise UsageError unless each field of ``settings`` lies within its ``limits`` (lowest, highest)."""
    for name, (low, high) in limits.items():
        value = getattr(settings, name)
        if not low <= value <= high:  # NaN fails, too
            raise UsageError(f"The setting {mode}.{name} is {value}, expected a number from {low:g} to {high:g}.")
