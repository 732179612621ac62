"""Construction rules of MNIST-LEGO (paper section 5): which digits, in which arrangement, form a class of objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from pc_engine.errors import UsageError

#: Height and width of the cell that one digit takes, in pixels of a digit mask; masks overlap a little sideways.
CELL_HEIGHT, CELL_WIDTH = 27, 21

#: Every arrangement, from the plainest; those that coincide for a number of digits are offered once.
ARRANGEMENTS = ("row", "column", "triangle", "grid", "diagonal")

_LISTABLE_DIGITS = 6


@dataclass(frozen=True)
class LegoClass:
    """A class of objects: ``digits`` in reading order, placed by the rule ``arrangement``."""

    arrangement: str
    digits: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name such as ``"row-1-4-7"``."""
        return "-".join([self.arrangement, *map(str, self.digits)])


def cell_centres(arrangement: str, n_digits: int) -> np.ndarray:
    """Return where the digits of an arrangement sit.

    Returns
    -------
    float64 (n_digits, 2): (x, y) of the cells' centres in pixels of a digit mask, from 0 upward, in reading order.
    """
    index = np.arange(n_digits)
    if arrangement == "row":
        places = np.stack([index, np.zeros(n_digits)], 1)
    elif arrangement == "column":
        places = np.stack([np.zeros(n_digits), index], 1)
    elif arrangement == "diagonal":
        places = np.stack([index * 0.75, index * 0.75], 1)
    elif arrangement == "grid":
        places = _rows_of([ceil(n_digits**0.5)] * n_digits, n_digits)
    elif arrangement == "triangle":
        places = _rows_of(list(range(1, n_digits + 1)), n_digits)
    else:
        raise UsageError(f"The arrangement {arrangement!r} is unknown; choose from {', '.join(ARRANGEMENTS)}.")
    centres: np.ndarray = (places - places.min(axis=0)) * np.array([CELL_WIDTH, CELL_HEIGHT], float)
    return centres


def _rows_of(lengths: list[int], n_digits: int) -> np.ndarray:
    """Place digits in centred rows of the given lengths, the last row taking what is left."""
    places: list[tuple[float, float]] = []
    for y, length in enumerate(lengths):
        used = min(length, n_digits - len(places))
        places += [(x - (used - 1) / 2, float(y)) for x in range(used)]
    return np.array(places)


def arrangements_of(n_digits: int) -> tuple[str, ...]:
    """Return the arrangements that differ from each other for objects of ``n_digits`` digits.

    One digit knows only the row, two know row, column and diagonal; a grid of three equals an upturned triangle and
    is left out.
    """
    if n_digits == 1:
        return ("row",)
    if n_digits == 2:
        return ("row", "column", "diagonal")
    if n_digits == 3:
        return ("row", "column", "triangle")
    return ARRANGEMENTS


def chosen_arrangements(n_digits: int, arrangements: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return ``arrangements`` of objects of ``n_digits`` digits, each once, or all that differ where none are named.

    Raises
    ------
    UsageError
        If one is unknown, or is another by another name for so few digits.
    """
    if arrangements is None:
        return arrangements_of(n_digits)
    known = arrangements_of(n_digits) if n_digits < 3 else ARRANGEMENTS
    if not arrangements or not set(arrangements) <= set(known):
        raise UsageError(
            f"The arrangements {', '.join(arrangements) or 'of no name'} of {n_digits} digits were asked for: choose "
            f"one or more of {', '.join(known)}."
        )
    return tuple(dict.fromkeys(arrangements))


def make_classes(
    n_classes: int, n_digits: int = 3, seed: int = 0, arrangements: Sequence[str] | None = None
) -> tuple[LegoClass, ...]:
    """Choose ``n_classes`` distinct classes of ``n_digits`` digits each.

    Arrangements take turns. Every other class reuses the digits of the class before it in another order, maybe in
    another arrangement, so that neither the digits alone nor the arrangement alone tells classes apart. They are in
    `chosen_arrangements`.

    Raises
    ------
    UsageError
        If a number is below 1, there are fewer such classes than asked for, or as `chosen_arrangements` does.
    """
    kinds = chosen_arrangements(max(n_digits, 1), arrangements)
    possible = len(kinds) * 10 ** max(n_digits, 1)
    if n_digits < 1 or not 1 <= n_classes <= possible:
        raise UsageError(
            f"{n_classes} classes of {n_digits} digits cannot be made: with at least one digit each, choose from 1 to "
            f"{possible} classes."
        )
    random = np.random.default_rng([seed, n_digits])
    codes = (
        random.permutation(10**n_digits)
        if n_digits <= _LISTABLE_DIGITS
        else _distinct_codes(random, n_digits, n_classes)
    )
    classes: dict[LegoClass, None] = {}
    for code in (int(code) for code in codes):
        digits = tuple(int(figure) for figure in f"{code:0{n_digits}d}")
        sibling = tuple(int(digits[place]) for place in random.permutation(n_digits))
        turn = kinds[len(classes) % len(kinds)]
        for candidate in (LegoClass(turn, digits), LegoClass(kinds[random.integers(len(kinds))], sibling)):
            classes[candidate] = None
            if len(classes) == n_classes:
                return tuple(classes)
    # Asked for nearly all: fill up in order.
    for code in range(10**n_digits):
        for kind in kinds:
            classes[LegoClass(kind, tuple(int(figure) for figure in f"{code:0{n_digits}d}"))] = None
            if len(classes) == n_classes:
                return tuple(classes)
    raise AssertionError("unreachable: the number of possible classes was checked above")


def _distinct_codes(random: np.random.Generator, n_digits: int, n_classes: int) -> np.ndarray:
    """Draw codes of many digits without listing all 10^K of them; repeats fall out when the classes are collected."""
    figures = random.integers(0, 10, (4 * n_classes + 16, n_digits))
    return np.array([int("".join(map(str, row))) for row in figures], object)
