"""Values out of JSON that others wrote: of a line, and whether one is of a type, or a ValueError naming the field."""

from __future__ import annotations

import json
import math
from codecs import BOM_UTF8
from collections.abc import Mapping
from typing import Any, TypeGuard

#: What a 32-bit column holds.
LARGEST_INTEGER = 2**31 - 1
_LARGEST_FLOAT = 3.5e38


def is_text(value: Any) -> bool:
    """Whether it is text that can be written: JSON can hold halves of characters, which UTF-8 cannot."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether it is a whole number from 0 to the largest that 32 bits hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_INTEGER


def is_number(value: Any) -> bool:
    """Whether it is a finite number that 32 bits hold."""
    # A whole number of any length can be compared; what is not finite fails.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST_FLOAT


def parse_line(line: bytes) -> Any:
    """Return the value that a line of a file holds as JSON in UTF-8, before which editors may put a mark of that.

    Raises
    ------
    ValueError
        If it holds none. Which line it is, which JSON always takes for the first, is for whoever counts them to say.
    """
    try:
        return json.loads(line.removeprefix(BOM_UTF8).decode().rstrip())  # so that it is one line
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON from column {error.colno} on") from None
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except ValueError:  # of which Python says how to let it take more
        raise ValueError("it holds a number of too many digits") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def as_text(value: Any, name: str) -> str:
    """Return text that can be written."""
    if not is_text(value):
        raise ValueError(f"{name} is {value!r:.60}, expected text")
    return str(value)


def as_list(values: Any, name: str, kind: str) -> list[Any]:
    """Return a list; ``kind`` is what it is expected to hold, which is not looked at."""
    if not isinstance(values, list):
        raise ValueError(f"{name} is {values!r:.60}, expected a list of {kind}")  # noqa: TRY004 (as above)
    return values


def as_texts(values: Any, name: str) -> tuple[str, ...]:
    """Return the texts of a list."""
    return tuple(as_text(value, name) for value in as_list(values, name, "text"))


def as_object(value: Any, name: str) -> Mapping[str, Any]:
    """Return an object of named values."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {value!r:.60}, expected an object of named values")  # noqa: TRY004 (as above)
    return value


def as_size(value: Any, name: str, largest: int) -> int:
    """Return a whole number of at most ``largest``."""
    if isinstance(value, bool) or not isinstance(value, int) or value > largest:
        raise ValueError(f"{name} is {value!r:.60}, expected a whole number of at most {largest:,}")
    return value


def as_number(value: Any, name: str) -> float:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} is {value!r:.60}, expected a number")  # noqa: TRY004 (as above)
    number = float(value)
    if not math.isfinite(number):  # JSON as Python reads it knows NaN and Infinity
        raise ValueError(f"{name} is {number}, expected a finite number")
    return number


def as_three_numbers(values: Any, name: str) -> tuple[float, float, float]:
    """Return three finite numbers."""
    if not isinstance(values, list | tuple) or len(values) != 3:
        raise ValueError(f"{name} is {values!r:.60}, expected three numbers")
    red, green, blue = (as_number(value, name) for value in values)
    return red, green, blue


def as_numbers(values: Mapping[str, Any], name: str) -> dict[str, float]:
    """Return finite numbers by name."""
    return {str(key): as_number(value, f"{name}.{key}") for key, value in as_object(values, name).items()}


def as_strings(values: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return what is there by name, as strings."""
    return {str(key): str(value) for key, value in as_object(values, name).items()}
