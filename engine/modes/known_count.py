"""How many objects images show, where that is known and a mode has only to point at them."""

from __future__ import annotations

from pc_engine.errors import ModelError
from pc_engine.fitted.counter import CountSVM
from pc_engine.kernels.array_module import Array, get_array_module

#: One number for all images, or (N,) int64, beside the taps.
KnownCount = int | Array


def require_counter(counter: CountSVM | None) -> CountSVM:
    """Return the counter; raise ModelError where there is none, and counts are not known."""
    if counter is None:
        raise ModelError("There is no counter to count with: fit one, or say how many objects the images show.")
    return counter


def as_counts(known: KnownCount, like: Array) -> tuple[Array, int | None]:
    """Return known counts as (N,) int64 beside ``like`` (N, ...), and the largest; None for whoever has to look it up.

    A device would have to be waited for to be asked.
    """
    if isinstance(known, int):
        xp = get_array_module(like)
        return xp.full(len(like), known, xp.int64), known
    return known, None
