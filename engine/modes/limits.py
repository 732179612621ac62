"""The values that settings may take, checked where they are made: a kernel would notice only in the midst of a run."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from numbers import Integral
from typing import Any, get_type_hints

from pc_engine.arguments import is_real
from pc_engine.errors import UsageError

#: Lengths in grid cells, which have to be above 0.
LENGTH = (0.01, 1000.0)
#: Shares of a whole.
SHARE = (0.0, 1.0)
#: Multiples of a mean.
FACTOR = (0.0, 1000.0)
#: Powers of a heatmap.
POWER = (0.0, 100.0)


def check_choice(what: str, value: object, choices: Collection[str], where: str = "") -> None:
    """Raise UsageError unless ``value`` is one of ``choices`` of ``what``, ``where`` saying to what end."""
    if value not in choices:
        raise UsageError(f"There is no {what} '{value}'{where}: choose one of {', '.join(choices)}.")


def check_limits(settings: Any, mode: str, limits: Mapping[str, tuple[float, float]]) -> None:
    """Raise UsageError unless each field of ``settings`` is a number within its ``limits`` (lowest, highest).

    Fields of whole numbers have to hold one.
    """
    whole = _whole_numbers(settings.__class__)
    for name, (low, high) in limits.items():
        value = getattr(settings, name)
        is_kind = is_real(value) and (name not in whole or isinstance(value, Integral))
        if not is_kind or not low <= value <= high:  # NaN fails, too
            kind = "a number" if is_kind or name not in whole else "a whole number"
            raise UsageError(f"The setting {mode}.{name} is {value!r:.60}, expected {kind} from {low:g} to {high:g}.")


@functools.cache  # as settings are made anew for each batch, and looking types up takes most of the time of that
def _whole_numbers(kind: type) -> frozenset[str]:
    """Return the names of the fields of a kind of settings that are whole numbers."""
    return frozenset(name for name, of in get_type_hints(kind).items() if of is int)
