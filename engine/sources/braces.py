"""Names with braces, as shells expand them: ``shards/{000..099}.tar``, ``{train,val}/*.jpg``."""

from __future__ import annotations

import re
from collections.abc import Iterator

_RANGE = r"-?\d+\.\.-?\d+"
_BRACES = re.compile(r"\{(?:" + _RANGE + r"|[^{},]*(?:,[^{},]*)+)\}")


def has_braces(text: str) -> bool:
    """Whether there is something to expand."""
    return _BRACES.search(text) is not None


def expand_braces(text: str) -> Iterator[str]:
    """Yield ``text`` with a number of the range, or a part of the list, in the place of each pair of braces, in order.

    Numbers are as wide as the wider end of their range is written, ``{08..10}`` being 08, 09, 10; a range may count
    down. Braces that hold neither stay as they are, and none are looked for within others.
    """
    braces = _BRACES.search(text)
    if braces is None:
        yield text
        return
    for choice in _choices(braces.group()[1:-1]):
        for rest in expand_braces(text[braces.end() :]):
            yield text[: braces.start()] + choice + rest


def _choices(inside: str) -> Iterator[str]:
    if re.fullmatch(_RANGE, inside) is None:
        yield from inside.split(",")
        return
    first, last = inside.split("..")
    padded = any(end.lstrip("-").startswith("0") and len(end.lstrip("-")) > 1 for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    step = 1 if int(first) <= int(last) else -1
    for number in range(int(first), int(last) + step, step):
        yield f"{number:0{width}d}"
