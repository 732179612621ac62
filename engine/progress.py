"""How what takes a while says how far it is."""

from __future__ import annotations

from collections.abc import Callable

#: Called with how many more are done.
Advance = Callable[[int], None]
#: Called with the name of what is at work, the steps done, and the steps in all.
Progress = Callable[[str, int, int], None]


def advancing(progress: Progress, stage: str, total: int) -> Advance:
    """Return what tells ``progress`` how far a stage is, called with how many more are done."""
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        progress(stage, done, total)

    return advance
